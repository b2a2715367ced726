"""`recipe`: a study, that is, a YAML chain of runs (core/recipes.py). Its steps are child runs, so it resumes where it stopped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from core import Config, Method, Problem, Stage, UserError, hookimpl, setting
from core.methods import short_path, validate, with_preset
from core.recipes import Recipe, fill, parse_recipe, recipe_from_anywhere, recipe_path, settings_from_anywhere

if TYPE_CHECKING:
    from core.active import ActiveRun


class RecipeMethod(Method):
    """Runs the steps of a recipe one after the other and writes the report of the study."""

    name = "recipe"
    title = "Study"
    summary = "A chain of runs from a YAML file, ending in one report with every number's interval."
    stage = Stage.STUDY
    makes = ("report",)

    class Config(Config):
        """Settings of a study."""

        recipe: str = setting()
        """A name from assets/recipes, or the path of a YAML file."""
        settings: dict[str, Any] = setting({})
        """Values for the recipe's own settings. A file or folder may be relative to where the command runs; a folder that holds no model
        is written as a path, ./folder."""

        as_full_path = field_validator("recipe")(recipe_from_anywhere)
        as_full_paths = field_validator("settings")(settings_from_anywhere)

    def check(self, config):
        try:
            recipe = self._recipe(config)
            self._check_steps(recipe, recipe.values(config.settings, config.recipe))
        except UserError as error:
            return [Problem(str(error), field="recipe")]
        return []

    def describe(self, config):
        return short_path(config.recipe)

    def run(self, config, run):
        copy = run.dir / "recipe.yaml"
        if not copy.exists():  # a resumed study keeps the text it began with
            run.save_text("recipe.yaml", recipe_path(config.recipe).read_text(encoding="utf-8"))
        recipe = parse_recipe(copy.read_text(encoding="utf-8"), config.recipe)
        known = recipe.values(config.settings, config.recipe)
        self._check_steps(recipe, known)
        started = time.monotonic()
        steps = []
        for number, (key, step) in enumerate(recipe.steps.items()):
            run.stop_if_asked()
            run.progress(number, len(recipe.steps), "steps", detail=key)
            method = run.plugins.method(step.method)
            settings = fill(with_preset(method, fill(step.preset, known), step.settings), known)
            run.log(f"step {key}: {step.method}")
            child = run.child(step.method, settings, key=key, name=step.name)
            known[key] = child.id
            steps.append({"key": key, "run": child.id, "method": child.method, "headline": (child.report or {}).get("headline", "")})
            run.log(f"step {key}: {child.id} {steps[-1]['headline']}")
        run.progress(len(recipe.steps), len(recipe.steps), "steps")
        self._report(recipe, steps, run, time.monotonic() - started)

    def _recipe(self, config) -> Recipe:
        path = recipe_path(config.recipe)
        return parse_recipe(path.read_text(encoding="utf-8"), str(path))

    def _check_steps(self, recipe: Recipe, known: dict[str, Any]) -> None:
        """Misspelled methods, presets and settings are found before the first step has cost an hour."""
        for key, step in recipe.steps.items():
            method = self.workspace.plugins.method(step.method)
            try:
                given = with_preset(method, fill(step.preset, known), step.settings)
                unknown = set(given) - set(method.Config.model_fields)
                if unknown:
                    validate(method, given)
            except UserError as error:
                raise UserError(f"step {key}: {error}") from None

    def _report(self, recipe: Recipe, steps: list[dict[str, Any]], run: ActiveRun, seconds: float) -> None:
        from core.study import study_page

        reports = [child for step in steps if (child := run.workspace.run(step["run"])).report]
        gates = [{**gate, "run": child.id} for child in reports for gate in (child.report or {}).get("gates", [])]
        headline = next((step["headline"] for step in reversed(steps) if step["headline"]), "")
        run.save_report({"kind": "recipe", "title": recipe.title, "summary": recipe.summary, "steps": steps, "gates": gates,
                         "headline": headline, "seconds": round(seconds, 1)})
        run.save_text("report.html", study_page(run, recipe, steps, run.workspace))


@hookimpl
def register_methods():
    return [RecipeMethod]
