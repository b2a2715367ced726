"""What is known about a mining run before weights are loaded: the guard, the format it is asked in, the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.data import DataSource, find_data
from core.evals.prompting import FALLBACK, choose_format
from core.methods import UserError
from core.mining.answering import Sampling
from core.mining.rows import Survey, survey
from core.records import GuardExample, Labels
from core.refs import parse_model_ref
from core.words import plural

if TYPE_CHECKING:
    from core.lm.find import Found
    from core.runs import Workspace


@dataclass(frozen=True)
class Plan:
    """Everything about a mining run that can be known before weights are loaded."""

    found: Found
    prompt_format: Any
    note: str
    """What a reader must know about the choice of the prompt format."""
    source: DataSource
    survey: Survey

    def sampling(self, config: Any) -> Sampling:
        """How answers are drawn."""
        return Sampling(config.k, config.max_new_tokens or self.prompt_format.max_new_tokens, config.temperature, config.top_p, config.seed)


def make_plan(config: Any, workspace: Workspace) -> Plan:
    """Model, format, rows; UserError where something does not go together. Test rows are counted, not refused."""
    found, prompt_format, note = asked_model(config, workspace)
    source = find_data(config.data, workspace)
    counted = survey(source, workspace, prompt_format, limit=config.limit, allow_test_rows=config.allow_test_rows)
    return Plan(found, prompt_format, note, source, counted)


def asked_model(config: Any, workspace: Workspace) -> tuple[Found, Any, str]:
    """(the model, the format it is asked in, what to know about it); UserError for a model that cannot be mined."""
    from core.lm.find import Found, find_model

    ref = parse_model_ref(config.model)
    found = Found(str(ref), str(ref), "") if ref.kind == "openai" else find_model(ref, workspace.runs_dir)
    chosen, note = choose_format(found, config.prompt_format, workspace.plugins.prompt_formats, alone=True)
    if not found.prompt_format and config.prompt_format == "auto" and chosen.name == FALLBACK:
        raise UserError(f"{config.model} stores no prompt format, so it is not known how it answers: mine a trained guard (run:<id> of an "
                        "rsft run), or set prompt_format to the one it was trained in.")
    if chosen.choices(GuardExample(prompt="?", labels=Labels(request="harmful"))):
        raise UserError(f"prompt_format = {chosen.name} takes the likelier of fixed answers, so k samples are one and the same; mine a "
                        "guard that writes its answers, such as one trained with rsft.")
    return found, chosen, note


def notes(plan: Plan) -> list[str]:
    """Rows that are not mined, and why; said before a start, in the log and in the report."""
    counted, found = plan.survey, []
    if counted.not_training:
        found.append(f"{plural(counted.not_training, 'validation or test row')} are not mined.")
    if counted.without_gold:
        found.append(f"{plural(counted.without_gold, 'training row')} have no gold label that {plan.prompt_format.name} answers "
                     f"({', '.join(plan.prompt_format.tasks)}) and are skipped.")
    if counted.second_verdict:
        found.append(f"{plural(counted.second_verdict, 'row')} have labels for several tasks; {plan.prompt_format.name} gives one verdict, "
                     "and only the first task is asked.")
    return found
