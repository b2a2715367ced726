"""What a method is: one class with a name, a stage, a `Config` and `run(config, run)`.

A setting's type, default, bounds, choices and meaning live on its one field; the form, the command line, the docs and the
validation are all derived from there (`core/ui/forms.py`, `core/cli.py`, `docs/methods.md`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.runs import Workspace


class Stage(StrEnum):
    """The page a method appears on; STUDY methods (recipes) appear on Runs."""

    DATA = "data"
    TRAINING = "training"
    MINING = "mining"
    RL = "rl"
    EVALUATION = "evaluation"
    STUDY = "study"


class Config(BaseModel):
    """Base of every method's settings. A docstring under a field is its help text everywhere."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True, protected_namespaces=())

    seed: int = Field(42, ge=0, le=2**31 - 1, json_schema_extra={"advanced": True})
    """Seed of every random choice this run makes."""

    @field_validator("*")
    @classmethod
    def paths_from_anywhere(cls, value: Any, info: ValidationInfo) -> Any:
        """A field marked FromRun may name a file (data, runs) or a folder (models): such a one gets its full path. The validators of
        the methods come after this one."""
        mark = from_run(cls.model_fields[info.field_name or ""])
        if mark is None:
            return value
        there = os.path.isdir if mark.kind == "model" else os.path.isfile
        if isinstance(value, list):
            return [full_path(item, there) for item in value]
        return full_path(value, there) if isinstance(value, str) else value


def full_path(text: str, there: Callable[[str], bool] = os.path.isfile) -> str:
    """`text` as a full path, where it names a file (or what `there` looks for), because a run starts in another folder than the command
    that made it. Names, run ids and references stay as they are, without the space around them; so does the model `embedded`."""
    text = text.strip()
    path = os.path.expanduser(text)
    return str(Path(path).resolve()) if text != "embedded" and there(path) else text


def short_path(text: str) -> str:
    """What a full path is called in a line: "prompts" of /data/prompts.jsonl. Names and references stay."""
    path = Path(text)
    if not path.is_absolute():
        return text
    return path.name if path.is_dir() else path.stem


def setting(default: Any = PydanticUndefined, *, advanced: bool = False, aliases: tuple[str, ...] = (), title: str | None = None,
            secret: bool = False, rows: int = 1, unit: str | None = None, **bounds: Any) -> Any:
    """A pydantic field with what the form and the command line need beside its type.

    advanced: folded away in the form. aliases: other names people expect (`lr` for `learning_rate`). rows: text box height.
    secret: only `${NAME}` references to environment variables are accepted and stored. bounds: passed to pydantic (ge, lt, ...).
    """
    extra: dict[str, Any] = {"advanced": advanced, "aliases": list(aliases), "secret": secret, "rows": rows, "unit": unit}
    return Field(default, title=title, json_schema_extra=extra, **bounds)


def listed(value: Any) -> Collection[Any]:
    """What a list field takes: `x` for `[x]`, nothing for `[]`. Use: `as_list = field_validator("models", mode="before")(listed)`."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    return value if isinstance(value, list | tuple | set) else [value]


@dataclass(frozen=True)
class FromRun:
    """Marks a field that takes another run's output: `data: Annotated[str, FromRun("data")]`.

    kind "data": an imported set's name, a run id, or a file path; runs of `methods`, when given, will do as data, too. chat: sets of
    conversations are offered instead of labelled rows.
    kind "model": any model reference (core/refs.py).
    kind "run": a run id, of the methods in `methods` when given, or a file where the method can read one.

    A file or folder that is there gets its full path (`Config.paths_from_anywhere`).
    """

    kind: Literal["data", "model", "run"]
    methods: tuple[str, ...] = ()
    many: bool = False
    chat: bool = False


@dataclass(frozen=True)
class OneOf:
    """Marks a field that takes the name of a registered format: `prompt_format: Annotated[str, OneOf("prompt format")]`.

    The form offers "auto" and every name there is; other text may be typed, so `check` stays the judge of it.
    """

    kind: Literal["prompt format", "data format"]


@dataclass(frozen=True)
class Problem:
    """Something `check` found, in plain words: the value, the place, the next step. `fix` is the settings that mend it."""

    message: str
    field: str | None = None
    fix: dict[str, Any] | None = None
    fix_label: str | None = None
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class Estimate:
    """What a run will cost. None = not known; low/high seconds when the guess is a range."""

    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    tokens: int | None = None
    peak_memory_bytes: int | None = None
    usd: float = 0.0
    note: str = ""


class UserError(Exception):
    """One plain sentence for the person at the screen: the value, the place and the next step. Exit code 2, no traceback."""


class Method:
    """One way to do one stage. Subclass it, nest a `Config`, write `run`, and return the class from `register_methods`."""

    name: ClassVar[str]
    """What the command line calls it, `kebab-case`."""
    title: ClassVar[str]
    """What the page calls it."""
    summary: ClassVar[str] = ""
    """One sentence under the method picker."""
    stage: ClassVar[Stage]
    paper: ClassVar[str | None] = None
    """Link to the paper this method is from."""
    leads: ClassVar[bool] = False
    """Stands first on its page: what a newcomer begins with."""
    lane: ClassVar[Literal["compute", "api", "instant"]] = "compute"
    """compute: one at a time on this machine; api: waits on a paid service; instant: seconds of CPU, starts at once."""
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Named settings; the first one fills the form."""
    preset_help: ClassVar[dict[str, str]] = {}
    makes: ClassVar[tuple[Literal["data", "model", "report"], ...]] = ()
    """What a finished run can be picked for."""
    resumable: ClassVar[bool] = True

    class Config(Config):
        """Settings of this method."""

    def __init__(self, workspace: Workspace) -> None:
        """`workspace`: where data and runs named in a config are looked up."""
        self.workspace = workspace

    def check(self, config: Any) -> list[Problem]:
        """Look before starting. Runs in a helper process with a time limit, never in the UI process."""
        return []

    def estimate(self, config: Any) -> Estimate | None:
        """Guess time, tokens, memory and money. Same process and limit as `check`."""
        return None

    def describe(self, config: Any) -> str:
        """A few words for the runs table ("embedded on guard-demo")."""
        return ""

    def continued(self, config: Any, run_id: str) -> dict[str, Any]:
        """Settings of a new run that goes on from the result of `run_id` with a new schedule."""
        raise UserError(f"{self.name} cannot be continued; resume it, or run it again with changes.")

    def run(self, config: Any, run: ActiveRun) -> None:
        """Do the work; write only into `run`. Import heavy libraries here, not at the top of the file."""
        raise NotImplementedError


def fields_of(config_class: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Fields in the order of the form: the method's own first, then what it shares with others, what every method has last."""
    left = dict(config_class.model_fields)
    for kind in config_class.__mro__:
        for name in get_annotations(kind):
            if name in left:  # else the nearest class that declares it has had its turn
                yield name, left.pop(name)


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """What `setting` stored beside the type; {} for a plain pydantic field."""
    return dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}


def from_run(field: FieldInfo) -> FromRun | None:
    """The FromRun mark of a field, if it has one."""
    return next((item for item in field.metadata if isinstance(item, FromRun)), None)


def one_of(field: FieldInfo) -> OneOf | None:
    """The OneOf mark of a field, if it has one."""
    return next((item for item in field.metadata if isinstance(item, OneOf)), None)


def apply_aliases(config_class: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """Rename `lr` to `learning_rate` and so on. Giving both a name and its alias is an error."""
    names = {alias: name for name, field in config_class.model_fields.items() for alias in extra_of(field).get("aliases", [])}
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        name = names.get(key, key)
        if name in renamed:
            raise UserError(f"{key} and {name} are the same setting and both were given; keep one of them.")
        renamed[name] = value
    return renamed


def nested(config_class: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """`{"dir.alpha": 0.5}` as `{"dir": {"alpha": 0.5}}`, laid over the other values that stand there. Call it just before validation.

    A field whose name ends in an underscore, because the bare one is a word of Python's, is found without it: `dir.lambda`.
    """
    made = {name: value for name, value in values.items() if "." not in name}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot:
            below, field = made.get(head), config_class.model_fields.get(head)
            known = getattr(field.annotation, "model_fields", {}) if field else {}
            made[head] = {**(below if isinstance(below, dict) else {}), f"{rest}_" if f"{rest}_" in known else rest: value}
    return made


def field_errors(error: ValidationError, config_class: type[BaseModel]) -> list[Problem]:
    """Turn a pydantic error into one plain Problem per field, with the nearest known name for a misspelled one."""
    from difflib import get_close_matches

    problems = []
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"]) or None
        if item["type"] == "extra_forbidden":
            known = [name for name, _ in fields_of(config_class)]
            near = get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known settings: {', '.join(known)}."
            message = f"{place} is not a setting here; {hint}"
        elif item["type"] == "missing":
            message = f"{place} is needed and has no default."
        else:
            what = item["msg"].removeprefix("Value error, ")
            message = f"{place} = {_short(item['input'])}: {what[0].lower()}{what[1:]}."
        problems.append(Problem(message.replace("..", "."), field=str(item["loc"][0]) if item["loc"] else None))
    return problems


def validate(method: type[Method], values: dict[str, Any]) -> Config:
    """Validated config of `method`, or UserError that lists every wrong field."""
    _refuse_plain_secrets(method.Config, values)
    try:
        return method.Config.model_validate(nested(method.Config, apply_aliases(method.Config, values)))
    except ValidationError as error:
        raise UserError(" ".join(problem.message for problem in field_errors(error, method.Config))) from None


def with_preset(method: type[Method], preset: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """Preset settings overlaid by the ones given."""
    if preset is None:
        return values
    if preset not in method.presets:
        known = ", ".join(method.presets) or "none"
        raise UserError(f"{method.name} has no preset {preset!r}; it has: {known}.")
    return {**method.presets[preset], **apply_aliases(method.Config, values)}


def _refuse_plain_secrets(config_class: type[BaseModel], values: dict[str, Any]) -> None:
    for name, field in config_class.model_fields.items():
        value = values.get(name)
        if extra_of(field).get("secret") and value and not (str(value).startswith("${") and str(value).endswith("}")):
            raise UserError(f"{name} is a secret: put it into an environment variable and give its name, as {name}='${{NAME}}'.")


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
