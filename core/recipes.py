"""Studies: a YAML chain of runs. A recipe is itself a run, of method `recipe`; its steps are its children.

    title: Rehearsal
    settings: {model: embedded}          # may be overridden on the command line: recipe rehearsal model=hf:...
    steps:
      data:  {method: import-data, settings: {source: assets/demo/guard-demo.jsonl}}
      guard: {method: rsft, preset: rehearsal, settings: {data: $data, model: $model}}

`$name` stands for a setting of the recipe or for the run id of an earlier step; `run:$guard` is a model reference.

A setting without a value (`train: null`) must be given. A file or folder that is given may be relative to where the command runs.

A recipe may have presets, which are settings by name: `presets: {rehearsal: {epochs: 1}, paper: {epochs: 3}}`. The first one holds
unless another is asked for (`recipe guardreasoner preset=paper`); `$preset` is its name, for steps whose methods know it, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.methods import UserError, full_path, validate
from core.runs import REPOSITORY, Run, Workspace

FOLDER = REPOSITORY / "assets" / "recipes"
PRESET = "preset"
"""The setting that names the preset, in recipes that have some."""
MODEL_FILES = ("config.json", "adapter_config.json")
"""A folder with one of these is a model (core/lm/find.py)."""
_NAME = re.compile(r"\$([a-z][a-z0-9_]*)")


class Step(BaseModel):
    """One run of a recipe."""

    model_config = ConfigDict(extra="forbid")

    method: str
    preset: str | None = None
    name: str = ""
    settings: dict[str, Any] = {}


class Recipe(BaseModel):
    """A parsed recipe file."""

    model_config = ConfigDict(extra="forbid")

    title: str
    summary: str = ""
    settings: dict[str, Any] = {}
    presets: dict[str, dict[str, Any]] = {}
    steps: dict[str, Step] = Field(min_length=1)

    @property
    def names(self) -> set[str]:
        """Everything that may be set."""
        return {*self.settings, *(name for values in self.presets.values() for name in values), *([PRESET] if self.presets else [])}

    def values(self, given: dict[str, Any], where: str) -> dict[str, Any]:
        """The settings as they hold: the recipe's own, overlaid by those of the preset, overlaid by `given`. UserError for unknown ones."""
        unknown = sorted(set(given) - self.names)
        if unknown:
            raise UserError(f"{where} has no setting {unknown[0]!r}; it has: {', '.join(sorted(self.names)) or 'none'}.")
        chosen = given.get(PRESET, next(iter(self.presets), ""))
        if self.presets and chosen not in self.presets:
            raise UserError(f"{where} has no preset {chosen!r}; it has: {', '.join(self.presets)}.")
        preset = {PRESET: chosen, **self.presets[chosen]} if self.presets else {}
        values = {**self.settings, **preset, **given}
        if missing := [name for name, value in values.items() if value is None]:
            raise UserError(f"{where} needs {', '.join(missing)}; give {'it' if len(missing) == 1 else 'them'} as "
                            f"{' '.join(f'{name}=...' for name in missing)}.")
        return values

    @property
    def needed(self) -> list[str]:
        """Settings that have no value of their own: whoever starts the study must give one."""
        return [name for name, value in self.settings.items() if value is None]


def recipe_from_anywhere(name: str) -> str:
    """`name` as it finds the same recipe from every folder: the path of a file in full. The recipes that ship keep their names."""
    return name if (FOLDER / f"{name}.yaml").is_file() else full_path(name)


def settings_from_anywhere(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` of a recipe with full paths of the files and folders that are there, in lists, too. The preset stays a name."""
    return {name: value if name == PRESET else _from_anywhere(value) for name, value in settings.items()}


def _from_anywhere(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_anywhere(item) for item in value]
    return full_path(value, _is_meant) if isinstance(value, str) else value


def _is_meant(path: str) -> bool:
    """Is this a file, or a folder? One that holds no model must be written as a path: sets and runs may be called as a folder is."""
    if os.path.isdir(path):
        return os.sep in path or any(os.path.isfile(os.path.join(path, name)) for name in MODEL_FILES)
    return os.path.isfile(path)


def recipe_path(name: str) -> Path:
    """The file of a recipe: a name from assets/recipes, or a path."""
    for path in (FOLDER / f"{name}.yaml", Path(name).expanduser()):
        if path.is_file():
            return path
    known = ", ".join(path.stem for path in recipe_files())
    raise UserError(f"There is no recipe {name!r}: not in assets/recipes (it has: {known}), and no such file.")


def recipe_files() -> list[Path]:
    """The recipes that ship with the app."""
    return sorted(FOLDER.glob("*.yaml"))


def parse_recipe(text: str, where: str) -> Recipe:
    """Read a recipe; UserError names the file and the key that is wrong."""
    try:
        recipe = Recipe.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}, {'.'.join(map(str, first['loc'])) or 'top level'}: {first['msg']}.") from None
    for name, values in recipe.presets.items():
        lacking = sorted(recipe.names - set(values) - set(recipe.settings) - {PRESET})
        if lacking:
            raise UserError(f"{where}, preset {name}: {lacking[0]} is set in another preset, but neither here nor under settings.")
    known = recipe.names
    for key, step in recipe.steps.items():
        unknown = [name for name in _names_in([step.settings, step.preset]) if name not in known]
        if unknown:
            raise UserError(f"{where}, step {key}: ${unknown[0]} is neither a setting nor an earlier step; known: "
                            f"{', '.join(sorted(known))}.")
        known.add(key)
    return recipe


def fill(value: Any, known: dict[str, Any]) -> Any:
    """Put settings and run ids in place of `$name`, at any depth. A value that is only `$name` keeps its type."""
    if isinstance(value, dict):
        return {key: fill(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, known) for item in value]
    if not isinstance(value, str):
        return value
    whole = _NAME.fullmatch(value)
    return known[whole[1]] if whole else _NAME.sub(lambda match: str(known[match[1]]), value)


def _names_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [name for item in value.values() for name in _names_in(item)]
    if isinstance(value, list):
        return [name for item in value for name in _names_in(item)]
    return _NAME.findall(value) if isinstance(value, str) else []


def find_unfinished(workspace: Workspace, values: dict[str, Any]) -> Run | None:
    """The newest run of this recipe, with these settings and this text, unless it has succeeded."""
    run = find_latest(workspace, values)
    return run if run is not None and run.state != "succeeded" else None


def find_latest(workspace: Workspace, values: dict[str, Any]) -> Run | None:
    """The newest run of this recipe with these settings, unless the recipe's text has changed since. UserError for settings that none
    could have."""
    wanted = validate(workspace.plugins.method("recipe"), values).model_dump(mode="json")
    text = recipe_path(wanted["recipe"]).read_text(encoding="utf-8")
    for run in workspace.runs():
        config = run.config if run.method == "recipe" else {}
        if config.get("recipe") == wanted["recipe"] and config.get("settings") == wanted["settings"]:
            copy = run.dir / "recipe.yaml"
            same = not copy.exists() or copy.read_text(encoding="utf-8") == text
            return run if same else None
    return None
