"""How much to keep: from a fraction of units, MACs or parameters to a keep plan that meets it.

The number of units each group keeps is decided first (a profile scaled to the budget), which units second
(the best scores of the group), so that every way of scoring is compared at equal size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.pruning.config import Budget as Budget
from mvp_deploy.structure import KeepPlan, Structure, UnitGroup

Scores = Mapping[str, np.ndarray]  # group name -> float64 [size], higher is better
WHOLE = ("head_dim", "group_dim")  # kinds of groups that budgets neither cut nor count
Profile = Callable[[float], Mapping[str, float]]  # level in (0, 1] -> units wanted per group, monotone


def allowed_counts(group: UnitGroup, round_to: int) -> np.ndarray:
    """The unit counts a group may keep, ascending, int64; never empty, never 0, always with its full size.

    The step is ``round_to``, halved until the group has at least four sizes to choose from.
    Positions inside heads and inside a convolution's groups stay whole: odd sizes there gain nothing on any runtime.
    """
    if group.kind in WHOLE:
        return np.array([group.size])
    step = 1 if group.kind in ("head", "group") else round_to
    while step > 1 and step * 4 > group.size:
        step //= 2
    return np.unique(np.append(np.arange(step, group.size + 1, step), group.size))


def uniform(structure: Structure) -> Profile:
    """Every group keeps the same fraction of its units (the papers' setting)."""
    return lambda level: {group.name: level * group.size for group in structure.groups}


def proportional(structure: Structure, shares: Mapping[str, float]) -> Profile:
    """Groups keep fractions proportional to ``shares`` (group name -> share in (0, 1]), capped at all."""
    least = min(shares.values(), default=1.0)
    return lambda level: {
        group.name: min(1.0, level * shares[group.name] / least) * group.size for group in structure.groups
    }


def counts_for(
    structure: Structure, budget: Budget, profile: Profile, *, within: KeepPlan | None = None
) -> dict[str, int]:
    """How many units each group keeps: the profile's largest level that the budget allows.

    Never more than ``within`` keeps. Rounding leaves each group at least its smallest allowed count, so a very
    small fraction of units may not be reached; of MACs or parameters, which are promises to a device, it is a
    MvpError that names what can be reached.
    """

    def counts(level: float) -> dict[str, int]:
        wanted = profile(level)
        return {
            group.name: _nearest(group, wanted.get(group.name, group.size), budget.round_to, within)
            for group in structure.groups
        }

    full = KeepPlan.full(structure)
    limit = budget.fraction * _amount(structure, full, budget.of)

    def affordable(level: float) -> bool:
        return _amount(structure, _first(structure, counts(level)), budget.of) <= limit * (1 + 1e-9)

    smallest = counts(0.0)
    if not affordable(0.0):
        if budget.of == "units":
            return smallest
        reachable = _amount(structure, _first(structure, smallest), budget.of) / _amount(structure, full, budget.of)
        raise unreachable(structure, budget, reachable)
    low, high = 0.0, 1.0
    if affordable(high):
        return counts(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if affordable(middle) else (low, middle)
    return counts(low)


def unreachable(structure: Structure, budget: Budget, smallest: float) -> MvpError:
    """What to raise where the ``smallest`` fraction that rounding and groups allow is above the budget's."""
    unknown = ", ".join(structure.unknown)
    rules = f", or teach the analysis {unknown}, whose inputs stay whole (@structure.rule)" if unknown else ""
    return InputError(
        f"This model cannot shrink to {budget.fraction:.1%} of its {budget.of}: the smallest it allows is "
        f"{smallest:.1%}. Ask for more, lower --round-to, or choose a smaller model{rules}."
    )


def keep_best(
    structure: Structure,
    scores: Scores,
    counts: Mapping[str, int],
    *,
    without: frozenset[str] = frozenset(),
    within: KeepPlan | None = None,
    seed: int = 0,
) -> KeepPlan:
    """The plan that keeps each group's ``counts`` best-scored units; ties fall by a seeded draw, not by index."""
    rng = np.random.default_rng(seed)
    masks = {}
    for group in structure.groups:
        score = np.asarray(scores.get(group.name, np.zeros(group.size)), dtype=np.float64)
        allowed = np.ones(group.size, bool) if within is None else within.masks[group.name]
        order = np.lexsort((rng.random(group.size), np.nan_to_num(score), allowed))[::-1]
        masks[group.name] = np.zeros(group.size, bool)
        masks[group.name][order[: counts[group.name]]] = True
    return KeepPlan(masks, without)


def units_kept(structure: Structure, plan: KeepPlan) -> float:
    """The fraction of all units that ``plan`` keeps."""
    return _amount(structure, plan, "units") / _amount(structure, KeepPlan.full(structure), "units")


def _nearest(group: UnitGroup, wanted: float, round_to: int, within: KeepPlan | None) -> int:
    allowed = allowed_counts(group, round_to)
    if within is not None:
        kept = int(within.masks[group.name].sum())
        allowed = allowed[allowed <= kept] if (allowed <= kept).any() else np.array([kept])
    return int(allowed[np.argmin(np.abs(allowed - wanted))])


def _first(structure: Structure, counts: Mapping[str, int]) -> KeepPlan:
    """A plan of the given size (costs depend on how many units stay, not on which)."""
    return KeepPlan({group.name: np.arange(group.size) < counts[group.name] for group in structure.groups})


def _amount(structure: Structure, plan: KeepPlan, of: str) -> float:
    if of == "units":  # what is never removed does not count towards the budget
        left = (group.name for group in structure.left(plan.without) if group.kind not in WHOLE)
        return float(sum(plan.kept(name) for name in left))
    return float(getattr(structure.cost(plan), of))
