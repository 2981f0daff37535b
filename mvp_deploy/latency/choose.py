"""Units and whole blocks together under a time.

Blocks go one by one, first the one whose rise in loss per millisecond is least, measured again on what is left. After
each the units are chosen again in the time that it freed. It stays so as long as the rise of all blocks that went and
the importance of all units that went, both in nats, are predicted to be less than before.
"""

from __future__ import annotations

from dataclasses import replace

from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.floor import BelowFloor
from mvp_deploy.latency.plan import Solution, solve
from mvp_deploy.pruning.blocks import Worth
from mvp_deploy.pruning.budget import Scores
from mvp_deploy.structure import KeepPlan, Structure


def choose(
    structure: Structure,
    cost: Milliseconds,
    scores: Scores,
    milliseconds: float,
    *,
    round_to: int = 8,
    worth: Worth | None = None,
    within: KeepPlan | None = None,
) -> Solution:
    """The units and blocks that lose least in so many milliseconds.

    Args:
        structure: of the unpruned model.
        cost: what it takes.
        scores: per group float64 [units]: the rise in loss when a unit goes, in nats if there is ``worth``.
        milliseconds: the budget.
        round_to: channels stay in multiples of it.
        worth: measures the rise in loss, in nats, when a block goes besides those that are gone; None: none goes.
        within: never keep more than this plan does.

    Raises:
        BelowFloor: not even the smallest counts without any block fit.
    """
    best: Solution | None = None
    gone, paid = frozenset[str](), 0.0
    while True:
        here = cost.without(gone)
        try:
            found = solve(structure, here, scores, milliseconds, round_to=round_to, within=within)
        except BelowFloor as error:
            failure = error
        else:
            found = replace(found, lost=found.lost + paid, without=gone)
            if best is not None and found.lost >= best.lost:
                return best
            best = found
        rises = worth(gone) if worth else {}
        counts = best.counts if best else {group.name: group.size for group in structure.groups}
        price = {
            name: max(rise, 0.0) / saved
            for name, rise in rises.items()
            if (saved := here.total(counts) - cost.without(gone | {name}).total(counts)) > 0
        }
        if not price:
            if best is None:
                raise failure
            return best
        name = min(price, key=lambda each: (price[each], each))
        gone, paid = gone | {name}, paid + max(rises[name], 0.0)
