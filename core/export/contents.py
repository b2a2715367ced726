"""Which files belong to what a reference names: a model of a run, its two agents, or the rows that a run made.

run:<id>                    what the run made: an adapter, or a full model
run:<id>@checkpoint-<n>     a checkpoint of it
waltz:<id>                  both agents; @checkpoint-<n> an earlier state, #conversation or #feedback one of them
data:<name or run id>       rows: an imported set by its name, or any run that made some
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from core.data import AGENT_SETS, set_name
from core.files import read_json
from core.methods import UserError
from core.refs import parse_model_ref, run_id_of
from core.runs import Run, Workspace

Kind = Literal["model", "dataset"]
CARD = "guardwaltz.json"
WEIGHTS = ("adapter", "model")
_RUN = re.compile(r"run:([\w-]+)(?:@(checkpoint-\d+))?")
_NAMES = re.compile(r"adapter_(?:config\.json|model\.safetensors)|config\.json|generation_config\.json"
                    r"|model[\w.-]*\.safetensors(?:\.index\.json)?|tokenizer[\w.]*|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template[\w.-]*"
                    r"|guardwaltz\.json|LICENSE[\w.]*")
"""What makes a model folder. A checkpoint also holds the state of the optimizer, which nobody needs who does not train on."""
ROWS = {"data": "the rows", "conversation": "rows of the conversation agent", "feedback": "rows of the feedback agent",
        "preferences": "preference pairs, with weights", "hard": "rows that the model answers right and wrong",
        "outputs": "every sampled answer"}
"""Files of rows that leave a run folder, and what each holds. Bad rows, logs and corrections by name stay."""


@dataclass(frozen=True)
class Part:
    """One model: a folder of files that `load_model` takes."""

    name: str
    """Folder in the export: "" for the only model, conversation and feedback for two agents."""
    ref: str
    folder: Path
    card: dict[str, object] = field(default_factory=dict)
    """guardwaltz.json: base, prompt format, hash of the chat template."""

    @property
    def is_adapter(self) -> bool:
        """Small weights on a base, not a whole model."""
        return (self.folder / "adapter_config.json").is_file()

    @property
    def base(self) -> str:
        """Reference of what it stands on; "" where nothing says so."""
        said = self.card.get("base") or read_json(self.folder / "adapter_config.json", {}).get("base_model_name_or_path")
        return str(said or "")

    def files(self) -> Iterator[Path]:
        """What belongs to the model. Links are left out: they lead out of the run folder."""
        yield from (path for path in sorted(self.folder.iterdir())
                    if path.is_file() and not path.is_symlink() and _NAMES.fullmatch(path.name))


@dataclass(frozen=True)
class Contents:
    """What a reference names, before anything is written."""

    kind: Kind
    ref: str
    run: Run
    title: str
    """Name of the folder inside a zip."""
    parts: tuple[Part, ...] = ()
    rows: dict[str, Path] = field(default_factory=dict)
    checkpoint: str = ""
    """checkpoint-<n>, or "" for what the run made in the end."""
    agents: tuple[str, ...] = ("",)
    """Whose evaluations speak of it: "" = of the model, or of both agents together; conversation, feedback = of one alone."""

    @property
    def local_base(self) -> str:
        """The base of an adapter that lies only here (a folder, a run), where others cannot fetch it; "" where they can."""
        bases = [part.base for part in self.parts if part.is_adapter]
        return next((base for base in bases if base.startswith("run:") or _is_path(base)), "")


def contents_of(ref: str, workspace: Workspace) -> Contents:
    """What a reference names. UserError where there is no such run, where it is not finished, or where it made nothing to take home."""
    ref = ref.strip()
    head, colon, rest = ref.partition(":")
    if head == "data" and colon:
        return _rows(ref, rest, workspace)
    if head == "waltz" and colon:
        return _agents(ref, workspace)
    if head == "run" and colon:
        return _model(ref, workspace)
    raise UserError(f"{ref!r} is nothing to export; write run:<id>, run:<id>@checkpoint-<n>, waltz:<id> or data:<name or run id>.")


def _model(ref: str, workspace: Workspace) -> Contents:
    found = _RUN.fullmatch(ref)
    if not found:
        raise UserError(f"{ref!r} is not run:<id>; a checkpoint is named run:<id>@checkpoint-100.")
    run, checkpoint = workspace.run(found[1]), found[2] or ""
    if checkpoint:
        folder = run.dir / checkpoint
        there = [path.name for path in run.checkpoints() if _holds_model(path)]
        if checkpoint not in there:
            raise UserError(f"Run {run.id} has no {checkpoint} with a model; it has {', '.join(there) or 'none of that kind'}.")
        card: dict[str, object] = next((read_json(run.dir / name / CARD, {}) for name in WEIGHTS if (run.dir / name).is_dir()), {})
        return Contents("model", ref, run, f"{run.id}-{checkpoint}", (Part("", ref, folder, card),), checkpoint=checkpoint)
    if all((run.dir / agent).is_dir() for agent in AGENT_SETS):
        raise UserError(f"Run {run.id} made two agents; write waltz:{run.id}.")
    folder = next((path for name in WEIGHTS if (path := run.dir / name).is_dir() and not path.is_symlink()), run.dir)
    _refuse_unfinished(run, f"run:{run.id}")
    if folder == run.dir:
        rows = f"; it made rows: data:{run.id}" if _row_files(run) else "; pick a training run"
        raise UserError(f"Run {run.id} has made no model{rows}.")
    return Contents("model", ref, run, run.id, (Part("", ref, folder, read_json(folder / CARD, {})),))


def _agents(ref: str, workspace: Workspace) -> Contents:
    parsed = parse_model_ref(ref)
    run = workspace.run(run_id_of(parsed.name))
    if not parsed.checkpoint:
        _refuse_unfinished(run, f"waltz:{run.id}")
    folder = run.dir / parsed.checkpoint
    wanted = [parsed.agent] if parsed.agent else list(AGENT_SETS)
    for agent in wanted:
        if not (folder / agent / CARD).is_file():
            where = f"{run.id} has no {parsed.checkpoint} with" if parsed.checkpoint else f"{run.id} has made no"
            raise UserError(f"Run {where} {agent} agent; pick a waltz-sft or a waltzrl run, or a checkpoint it has.")
    parts = tuple(Part("" if parsed.agent else agent, str(replace(parsed, agent=agent)), folder / agent,
                       read_json(folder / agent / CARD, {})) for agent in wanted)
    return Contents("model", ref, run, "-".join(filter(None, [run.id, parsed.checkpoint, parsed.agent])), parts,
                    checkpoint=parsed.checkpoint, agents=(parsed.agent,) if parsed.agent else ("", *AGENT_SETS))


def _rows(ref: str, name: str, workspace: Workspace) -> Contents:
    name = set_name(name)
    if not name:
        raise UserError("data: names no set; write data:<name or run id>.")
    runs = [run for run in workspace.runs() if _row_files(run)]
    run = next((run for run in runs if name in (run.id, run.name) and run.state == "succeeded"), None)
    if run is None:
        unfinished = next((run for run in runs if name in (run.id, run.name)), None)
        if unfinished is not None:
            raise UserError(f"{unfinished.id} is {unfinished.state}; its rows can be exported when it has succeeded.")
        known = ", ".join(sorted({run.name for run in runs if run.state == "succeeded"})) or "none yet"
        raise UserError(f"There is no data {name!r}: no set or finished run of that name made rows (there are: {known}).")
    return Contents("dataset", ref, run, run.id, rows=_row_files(run))


def _row_files(run: Run) -> dict[str, Path]:
    return {name: path for name in ROWS if (path := run.dir / f"{name}.jsonl").is_file() and not path.is_symlink()}


def _is_path(base: str) -> bool:
    return base.startswith(("/", "./", "../", "~")) or base.count("/") > 1 or Path(base).expanduser().is_dir()


def _holds_model(folder: Path) -> bool:
    return any(folder.glob("adapter_model.safetensors")) or any(folder.glob("model*.safetensors"))


def _refuse_unfinished(run: Run, ref: str) -> None:
    state = run.state
    if state == "succeeded":
        return
    there = run.checkpoints()
    later = f", or name a checkpoint: {ref}@{there[-1].name}" if there else ""
    what = "wait for it" if state in ("queued", "running") else "resume it"
    raise UserError(f"Run {run.id} is {state} and has no finished model; {what}{later}.")
