"""What an `rsft-ensemble` run stands for where mining runs or pairs are asked for: the runs inside it, as its report names them."""

from __future__ import annotations

from core.methods import UserError
from core.runs import Run, Workspace

METHOD = "rsft-ensemble"


def miners(run: Run) -> list[str]:
    """Ids of the mining runs inside an ensemble, in its order; of any other run its own id."""
    if run.method != METHOD:
        return [run.id]
    return [variant["mining_run"] for variant in (run.report or {}).get("variants", []) if variant.get("mining_run")]


def pairs_run(run: Run, workspace: Workspace) -> Run:
    """The build-pairs run over the union of a finished ensemble. UserError where it built none."""
    pairs = (run.report or {}).get("pairs")
    if pairs is None:
        why = "none of its variants found a hard sample" if miners(run) else "its variants mined nothing (mine = false)"
        raise UserError(f"{run.id} has no pairs: {why}. Mine its guards, with a higher temperature, more rows or a larger k, and build "
                        "pairs from these runs.")
    return workspace.run(pairs["run"])
