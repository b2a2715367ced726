"""`rsft-ensemble`: several R-SFT guards on parts of one set, each mined, their hard samples merged (GuardReasoner, H_ensemble).

Everything is a child run: `subset` writes a part of the set as data, `rsft` trains on it, `mine-hard-samples` asks the result, and
`build-pairs` merges. So lineage, resume and the pages need nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import field_validator

from core import Config, Estimate, FromRun, Method, Problem, Stage, UserError, hookimpl, setting
from core.methods import short_path, validate, with_preset
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.runs import Run

OURS = ("data", "model", "seed", "exclude_test_rows", "allow_test_rows", "runs")
"""Settings of a step that the ensemble gives it."""


class Subset(Method):
    """A part of a set as a set of its own."""

    name = "subset"
    title = "Part of a set"
    summary = "A random share of a set's training rows, or all but some sources, as a set of its own."
    stage = Stage.DATA
    lane = "instant"
    makes = ("data",)

    class Config(Config):
        """Which part of which set."""

        data: Annotated[str, FromRun("data")] = setting()
        """The set: an imported one, a run, or a file. Its validation rows all stay, its test rows do not."""
        share: float = setting(1.0, gt=0, le=1)
        """Part of the training rows, drawn by the seed. 1 = all."""
        leave_out: list[str] = setting([])
        """Sources whose training rows are left out, before the share is drawn."""

    def describe(self, config: Config) -> str:
        """"half of guard-demo"."""
        name = short_path(config.data)
        return f"{config.share:.0%} of {name}" + (f" without {', '.join(config.leave_out)}" if config.leave_out else "")

    def check(self, config: Config) -> list[Problem]:
        """Is the set there?"""
        from core.data import find_data

        try:
            find_data(config.data, self.workspace)
        except UserError as error:
            return [Problem(str(error), "data")]
        return []

    def run(self, config: Config, run: ActiveRun) -> None:
        """Write data.jsonl."""
        from core.data import find_data
        from core.mining.subsets import part_of

        source = find_data(config.data, run.workspace)
        rows = part_of(source, run.workspace, share=config.share, leave_out=config.leave_out, seed=config.seed)
        count = run.save_records("data", rows)
        run.save_report({"kind": "subset", "headline": f"{plural(count, 'row')} of {source.name}", "rows": count, "share": config.share,
                         "leave_out": config.leave_out, "data": {"name": source.name, "sha256": source.sha256(),
                                                                 "run": source.run.id if source.run else None, "file": str(source.path)}})
        run.log(f"{plural(count, 'row')} of {source.name}")


@dataclass
class Variant:
    """One guard of the ensemble, and what became of it."""

    name: str
    part: dict[str, Any]
    """Settings of `subset`."""
    made: dict[str, Run] = field(default_factory=dict)
    """{subset, train, mine: its run}."""

    def record(self) -> dict[str, Any]:
        """For report.json."""
        reports = {step: run.report or {} for step, run in self.made.items()}
        losses, mined = reports["train"].get("losses", {}), reports.get("mine")
        return {"name": self.name, **self.part, "subset_run": self.made["subset"].id, "rows": reports["subset"].get("rows"),
                "run": self.made["train"].id, "model": f"run:{self.made['train'].id}", "headline": reports["train"].get("headline", ""),
                "eval_loss": losses.get("eval"), "eval_margin": losses.get("eval_margin"), "eval_rows": losses.get("eval_rows"),
                "mining_run": self.made["mine"].id if mined is not None else None,
                "mined_rows": mined["rows"] if mined else None, "hard_rows": mined["hard"] if mined else None,
                "hard_share": mined["kinds"]["hard"]["share"] if mined else None}


class RsftEnsemble(Method):
    """Variants of one R-SFT on parts of the data: each is unsure about other rows."""

    name = "rsft-ensemble"
    title = "R-SFT ensemble"
    summary = "Several guards on parts of one set; each is mined, and the union of their hard samples becomes preference pairs."
    stage = Stage.TRAINING
    paper = "https://arxiv.org/abs/2501.18492"
    makes = ("report",)
    presets = {
        "rehearsal": {"variants": 2, "subsets": "random", "share": 0.67, "rsft_preset": "rehearsal", "mining_preset": "rehearsal",
                      "pairs_preset": "paper"},
        "seed-plan": {"variants": 3, "subsets": "random", "share": 0.67, "rsft_preset": "seed-plan", "mining_preset": "seed-plan",
                      "pairs_preset": "seed-plan"},
        "paper": {"variants": 3, "subsets": "leave-one-source-out", "with_all": True, "rsft_preset": "paper", "mining_preset": "paper",
                  "pairs_preset": "paper"},
    }
    preset_help = {
        "rehearsal": "Two variants on two thirds of the rows, small enough for a CPU.",
        "seed-plan": "The seeds' plan: three variants on random parts; the share is our choice, no source gives one.",
        "paper": "GuardReasoner: three variants, each without one of the three smallest sources, and one on everything.",
    }

    class Config(Config):
        """Variants, their training, and what is mined with them."""

        data: Annotated[str, FromRun("data")] = setting()
        """Rows with reasoning: an imported set, a run, or a file. Its test rows are never used."""
        model: Annotated[str, FromRun("model")] = setting("embedded", aliases=("base_model",))
        """What every variant starts from."""
        variants: int = setting(3, ge=1, le=16, aliases=("n",))
        """How many guards. With leave-one-source-out at most one for each source; the smallest sources are left out first."""
        subsets: Literal["random", "leave-one-source-out"] = setting("random")
        """random: each variant learns a share of the rows, drawn anew. leave-one-source-out: each learns all but one source; with
        fewer variants than sources they all keep the biggest, as the paper's keep WildGuard."""
        share: float = setting(0.67, gt=0, le=1)
        """With random subsets: part of the training rows that each variant learns."""
        with_all: bool = setting(False)
        """Also a variant on all rows, whose hard samples come first (the paper's H_self)."""
        rsft_preset: str = setting("")
        """Preset of rsft for every variant. Empty: its defaults."""
        rsft: dict[str, Any] = setting({})
        """Settings of rsft beside the preset, such as {epochs: 2, lr: 1e-3}."""
        mine: bool = setting(True)
        """Mine every variant and build pairs from the union."""
        mining_data: Annotated[str, FromRun("data")] = setting("")
        """Rows to mine. Empty: the training data itself, as the paper does."""
        mining_preset: str = setting("")
        """Preset of mine-hard-samples."""
        mining: dict[str, Any] = setting({})
        """Settings of mine-hard-samples beside the preset, such as {k: 4, limit: 300}."""
        pairs_preset: str = setting("")
        """Preset of build-pairs."""
        pairs: dict[str, Any] = setting({}, advanced=True)
        """Settings of build-pairs beside the preset, such as {pick: longest}."""
        exclude_test_rows: bool = setting(False)
        """Leave out rows whose prompt is in a registered test set, in training, mining and pairs. Else such rows stop the run."""
        allow_test_rows: bool = setting(False, advanced=True)
        """Use rows of registered test sets all the same. Every report after it says so."""

        @field_validator("rsft", "mining", "pairs")
        @classmethod
        def not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
            """What the ensemble gives to its steps is set once, above."""
            if given := next((name for name in value if name in OURS), None):
                raise ValueError(f"sets {given}, which the ensemble gives to its steps itself")
            return value

    def describe(self, config: Config) -> str:
        """"3 variants of embedded on guard-demo"."""
        name = short_path(config.data)
        return f"{plural(config.variants, 'variant')} of {short_path(config.model)} on {name}"

    def check(self, config: Config) -> list[Problem]:
        """Are the settings of the steps in order, is there enough to divide, would rsft start on the whole set, and could it be mined?"""
        if wrong := self._wrong_steps(config):
            return wrong
        try:
            variants = self._variants(config)
        except UserError as error:
            return [Problem(str(error), "subsets")]
        problems = []
        wanted = config.variants + config.with_all
        if len(variants) < wanted:
            problems.append(Problem(f"{config.data} has {plural(len(variants) - config.with_all, 'source')}, so there are only so many "
                                    f"variants and not {config.variants}.", "variants", severity="warning"))
        known = type(self).Config.model_fields
        method, settings = self._rsft(config)
        for problem in method(self.workspace).check(settings):
            ours = problem.field in known
            problems.append(Problem(f"rsft: {problem.message}", problem.field if ours else "rsft",
                                    problem.fix if problem.fix and all(name in OURS for name in problem.fix) else None,
                                    problem.fix_label, problem.severity))
        if not any(problem.severity == "error" for problem in problems):
            problems += self._wrong_rows(config)
        return problems

    def estimate(self, config: Config) -> Estimate | None:
        """Trainings only: how long mining takes depends on what the guards will write."""
        method, settings = self._rsft(config)
        one = method(self.workspace).estimate(settings)
        if one is None:
            return None
        count = len(self._variants(config))
        times = count * (config.share if config.subsets == "random" else 1.0)
        note = f"{count} trainings on parts of the set" + ("; mining comes on top" if config.mine else "")

        def scaled(value: float | None) -> float | None:
            return None if value is None else value * times

        return Estimate(scaled(one.seconds), scaled(one.seconds_low), scaled(one.seconds_high),
                        None if one.tokens is None else int(one.tokens * times), one.peak_memory_bytes, note=note)

    def run(self, config: Config, run: ActiveRun) -> None:
        """Divide, train, mine, merge; each step is a child that is done once."""
        if wrong := self._wrong_steps(config) or self._wrong_rows(config):
            raise UserError(wrong[0].message)
        variants = self._variants(config)
        steps = len(variants) * (3 if config.mine else 2) + config.mine
        for number, (key, variant, step, method, settings) in enumerate(self._steps(config, variants)):
            run.stop_if_asked()
            run.progress(number, steps, "steps", detail=key)
            variant.made[step] = child = run.child(method, settings, key=key)
            run.log(f"{key}: {child.id} {(child.report or {}).get('headline', '')}")
        pairs = self._merge(config, variants, run) if config.mine else None
        run.progress(steps, steps, "steps")
        report = _report(variants, pairs, run)
        run.save_report(report)
        run.stats(Variants=str(len(variants)), **({"Pairs": f"{pairs.report['counts']['pairs']:,}"} if pairs and pairs.report else {}))
        run.log(report["headline"])

    def _steps(self, config: Config, variants: list[Variant]) -> Iterator[tuple[str, Variant, str, str, dict[str, Any]]]:
        """(key, variant, step, method, settings), each made when the one before it is done: it names that one's run."""
        flags = {"exclude_test_rows": config.exclude_test_rows, "allow_test_rows": config.allow_test_rows}
        for number, variant in enumerate(variants):
            yield f"subset-{variant.name}", variant, "subset", "subset", {"data": config.data, **variant.part, "seed": config.seed + number}
            settings = self._with_preset("rsft", config.rsft_preset, config.rsft)
            yield f"train-{variant.name}", variant, "train", "rsft", {**settings, **flags, "data": variant.made["subset"].id,
                                                                      "model": config.model, "seed": config.seed + number}
            if config.mine:
                settings = self._with_preset("mine-hard-samples", config.mining_preset, config.mining)
                yield f"mine-{variant.name}", variant, "mine", "mine-hard-samples", {
                    **settings, **flags, "data": config.mining_data or config.data, "model": f"run:{variant.made['train'].id}",
                    "seed": config.seed}

    def _merge(self, config: Config, variants: list[Variant], run: ActiveRun) -> Run | None:
        """The union of all hard samples as pairs; None, and a notice, where no variant found one."""
        mined = [variant.made["mine"] for variant in variants]
        if not any((one.report or {}).get("hard") for one in mined):
            run.notice(f"None of the {plural(len(mined), 'variant')} found a hard sample, so there are no pairs. Mine with a higher "
                       "temperature, more rows or a larger k, or train for fewer epochs.", "warning")
            return None
        run.progress(3 * len(variants), 3 * len(variants) + 1, "steps", detail="pairs")
        return run.child("build-pairs", {
            **self._with_preset("build-pairs", config.pairs_preset, config.pairs), "runs": [one.id for one in mined],
            "seed": config.seed, "exclude_test_rows": config.exclude_test_rows, "allow_test_rows": config.allow_test_rows}, key="pairs")

    def _variants(self, config: Config) -> list[Variant]:
        from core.data import find_data
        from core.mining.subsets import source_sizes

        everything = [Variant("all", {"share": 1.0, "leave_out": []})] if config.with_all else []
        if config.subsets == "random":
            return [*everything, *(Variant(str(number), {"share": config.share, "leave_out": []})
                                   for number in range(1, config.variants + 1))]
        sizes = source_sizes(find_data(config.data, self.workspace), self.workspace)
        if len(sizes) < 2:
            raise UserError(f"subsets = leave-one-source-out, but all training rows of {config.data} have one source "
                            f"({next(iter(sizes), '') or 'none'}); use subsets=random.")
        smallest = sorted(sizes, key=lambda name: (sizes[name], name))[:config.variants]  # of four, three: the paper's
        return [*everything, *(Variant(str(number), {"share": 1.0, "leave_out": [name]}) for number, name in enumerate(smallest, start=1))]

    def _rsft(self, config: Config) -> tuple[type[Method], Any]:
        """(the method, its settings on the whole set), for looking before the start."""
        settings = {**config.rsft, "data": config.data, "model": config.model, "seed": config.seed,
                    "exclude_test_rows": config.exclude_test_rows, "allow_test_rows": config.allow_test_rows}
        return self.workspace.plugins.method("rsft"), self._validated("rsft", config.rsft_preset, settings)

    def _wrong_steps(self, config: Config) -> list[Problem]:
        """Missing data, misspelled presets and settings of later steps: found before the first training has cost an hour."""
        from core.data import find_data

        mining = {**config.mining, "data": "?", "model": "run:?"}
        looks: list[tuple[str, Callable[[], object]]] = [("data", lambda: find_data(config.data, self.workspace)),
                                                         ("rsft", lambda: self._rsft(config))]
        if config.mine:
            looks += [("mining", lambda: self._validated("mine-hard-samples", config.mining_preset, mining)),
                      ("pairs", lambda: self._validated("build-pairs", config.pairs_preset, {**config.pairs, "runs": ["?"]}))]
        if config.mine and config.mining_data:
            looks.append(("mining_data", lambda: find_data(config.mining_data, self.workspace)))
        problems = []
        for field_name, look in looks:
            try:
                look()
            except UserError as error:
                preset = f"{field_name}_preset" if "has no preset" in str(error) else field_name
                problems.append(Problem(f"{field_name}: {error}", preset))
        return problems

    def _wrong_rows(self, config: Config) -> list[Problem]:
        """Would mining refuse `mining_data`? Asked before the first training, in the format that the guards will be trained in."""
        from core.data import find_data
        from core.lm.sft_data import prepare
        from core.mining.rows import refuse, survey

        if not (config.mine and config.mining_data):
            return []
        try:
            prompt_format = prepare(self._rsft(config)[1], self.workspace).prompt_format
            source = find_data(config.mining_data, self.workspace)
            found = survey(source, self.workspace, prompt_format, limit=0, allow_test_rows=config.allow_test_rows)
            refuse(found, source, prompt_format, exclude_test_rows=config.exclude_test_rows, allow_test_rows=config.allow_test_rows)
        except UserError as error:
            tests = "exclude_test_rows=true" in str(error)
            return [Problem(f"mining_data: {error}", "mining_data", {"exclude_test_rows": True} if tests else None,
                            "Leave them out" if tests else "")]
        return []

    def _validated(self, name: str, preset: str, settings: dict[str, Any]) -> Any:
        return validate(self.workspace.plugins.method(name), self._with_preset(name, preset, settings))

    def _with_preset(self, method: str, preset: str, settings: dict[str, Any]) -> dict[str, Any]:
        return with_preset(self.workspace.plugins.method(method), preset or None, settings)


def _report(variants: list[Variant], pairs: Run | None, run: ActiveRun) -> dict[str, Any]:
    records = [variant.record() for variant in variants]
    losses = [record["eval_loss"] for record in records if record["eval_loss"] is not None]
    headline = plural(len(variants), "variant")
    if losses:
        headline += f", eval loss {min(losses):.2f} to {max(losses):.2f}"
    made: dict[str, Any] = (pairs.report or {}) if pairs else {}
    if made:
        headline += f"; {made['headline']}"
    notes = ["Each eval loss is measured on rows held out of that variant's own part, unless the set has validation rows, which all share."]
    return {"kind": "rsft-ensemble", "run": run.id, "headline": headline, "variants": records, "agreement": made.get("agreement", []),
            "pairs": {"run": pairs.id, "headline": made["headline"], "counts": made["counts"]} if pairs and made else None,
            "overrides": made.get("overrides", []), "notes": notes}


@hookimpl
def register_methods() -> list[type[Method]]:
    """The ensemble, and the part of a set that it is made of."""
    return [Subset, RsftEnsemble]
