"""`mix`: several sets of conversations as one for each agent (the seeds' hybrid option: converted rows and purpose-made ones)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import Method, Problem, Stage, UserError, hookimpl
from core.chat.mixing import AgentMix, MixConfig, mixed_rows, open_mix
from core.chat.saving import Refused, save_report, save_sets
from core.methods import short_path
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun


class Mix(Method):
    """Shares, de-duplication, held-out rows."""

    name = "mix"
    title = "Mix sets of conversations"
    summary = "Several sets become one for each agent: in shares, no row twice, some rows held out of training."
    stage = Stage.DATA
    lane = "instant"
    makes = ("data",)
    resumable = False
    presets = {"any-size": {"held_out": 500, "held_out_share": 0.1}, "seed-plan": {"held_out": 500, "held_out_share": 0.2}}
    preset_help = {"any-size": "500 rows of each agent are held out, at most a tenth of them.",
                   "seed-plan": "The seeds' plan: 500 rows of each agent are held out, also of their 3,000."}

    class Config(MixConfig):
        """Which sets, in which shares, and how many rows are kept out of training."""

    def check(self, config: Config) -> list[Problem]:
        """Read all rows; say what the shares leave."""
        try:
            mixes = open_mix(config, self.workspace)
        except UserError as error:
            return [Problem(str(error), "shares" if str(error).startswith("shares") else "sources")]
        short = [Problem(f"count = {config.count:,}, but the {mix.agent} agent's sources give {sum(mix.quota):,} rows in these shares.",
                        "count", severity="warning") for mix in mixes if sum(mix.quota) < config.count]
        return [*short, *(Problem(trap, "sources", severity="warning") for trap in _traps(mixes))]

    def describe(self, config: Config) -> str:
        """The sources."""
        return ", ".join(map(short_path, config.sources))

    def run(self, config: Config, run: ActiveRun) -> None:
        """RUN:conversation and RUN:feedback, or the one of them that the sources are for."""
        mixes = open_mix(config, run.workspace)
        if config.name:
            run.set_labels(name=config.name)
        described = save_sets(run, mixed_rows(mixes, config))
        given = {mix.agent: [one.record for one in mix.sources] for mix in mixes}
        duplicates = sum(one.duplicates for mix in mixes for one in mix.sources)
        save_report(run, described, Refused(), {
            "name": run.name, "format": "mixed", "source": ", ".join(config.sources), "given": given, "duplicates_dropped": duplicates})
        for line in _lines(mixes):
            run.log(line)
        for trap in _traps(mixes):
            run.notice(trap, "warning")


def _traps(mixes: list[AgentMix]) -> list[str]:
    """What is wrong with the answers of sources that give rows."""
    return [one.trap for mix in mixes for one, quota in zip(mix.sources, mix.quota, strict=True) if quota and one.trap]


def _lines(mixes: list[AgentMix]) -> list[str]:
    """"feedback: demo gave 120 of 240 rows (0 duplicates, 12 held out)"."""
    return [f"{mix.agent}: {one.source.name} gave {one.taken:,} of {plural(one.rows, 'row')} ({one.duplicates:,} duplicates, "
            f"{one.held_out:,} held out)" for mix in mixes for one in mix.sources]


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [Mix]
