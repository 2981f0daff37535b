"""The arms of the study: recipes by name, and the experiments that compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

from prepare import STEPS
from settings import ASKED

from mvp_deploy.pruning.recipes import RECIPES, Recipe

DEFAULT = RECIPES["default"]
VOTES = Recipe(nearest_by="prototypes", neighbours=5, weighting="similarity", weights="pretrained")
AVERAGE = replace(VOTES, weights="average")

NEIGHBOURS = {
    "nearest": {},
    "random": {"nearest_by": "random"},
    "farthest": {"nearest_by": "farthest"},
    "all": {"nearest_by": "prototypes", "neighbours": 0, "weighting": "plain"},
}

# In every setting: the default, and what it has to beat.
MAIN: Mapping[str, Recipe] = {
    "default": DEFAULT,
    "random leader": replace(DEFAULT, nearest_by="random"),
    "nearest by prototypes leads": replace(DEFAULT, nearest_by="prototypes"),
    "five random, alike": replace(DEFAULT, nearest_by="random", neighbours=5, weighting="plain"),
    "all tasks": replace(DEFAULT, **NEIGHBOURS["all"]),
    "own": RECIPES["own"],
}

# In one setting: everything else that the question has been asked about.
CONTROLS: Mapping[str, Recipe] = {
    "magnitude": RECIPES["magnitude"],
    "random units": RECIPES["random"],
    "paper": RECIPES["paper"],
    "one-shot": RECIPES["one-shot"],
    "score votes": replace(VOTES, votes="score"),
    **{f"votes alone, {who}": replace(VOTES, **change) for who, change in NEIGHBOURS.items()},
    **{
        f"{n or 'all'} by features": replace(DEFAULT, neighbours=n, weighting="similarity") for n in (1, 2, 3, 5, 10, 0)
    },
    "average of nearest": AVERAGE,
    "average of farthest": replace(AVERAGE, nearest_by="farthest"),
    "average of nearest by LEEP": replace(AVERAGE, nearest_by="leep"),
    "leaning": replace(DEFAULT, lean=0.5),
    "own half, average": replace(DEFAULT, own=0.5),
    "own alone, average": replace(DEFAULT, own=1.0),
    "own half, pretrained": replace(DEFAULT, own=0.5, weights="pretrained"),
    "no statistics, no solved head": replace(DEFAULT, norms="trained", head="fresh"),
    "distilled": replace(DEFAULT, distill=0.5),
    "own, distilled": replace(RECIPES["own"], distill=0.5),
    "own, global budget": replace(RECIPES["own"], scope="global"),
    "neighbours' budgets": replace(DEFAULT, scope="neighbours"),
}


def _grid() -> dict[str, Recipe]:
    """Who votes x whose weights x how units are chosen x how votes are counted."""
    factors = product(NEIGHBOURS, ("average", "nearest", "pretrained"), ("sample", "top"), ("plain", "similarity"))
    return {
        f"{who}/{weights}/{select}/{weighting}": replace(
            VOTES, **{**NEIGHBOURS[who], "weights": weights, "select": select, "weighting": weighting}
        )
        for who, weights, select, weighting in factors
    }


GRID: Mapping[str, Recipe] = _grid()
RECIPE_OF: Mapping[str, Recipe] = {**GRID, **CONTROLS, **MAIN}

ITERATIVE, UNPRUNED = "iterative", "unpruned"  # the long way, and no pruning at all


@dataclass(frozen=True)
class Experiment:
    """Which cells to fill. once: arms that take long, for the first seed only."""

    arms: tuple[str, ...]
    settings: tuple[str, ...] = ASKED
    keeps: tuple[float, ...] = (0.3, 0.1)
    steps: tuple[int, ...] = (STEPS,)
    seeds: int = 3
    once: tuple[str, ...] = ()


FEW = STEPS // 3
EXPERIMENTS: Mapping[str, Experiment] = {
    "main": Experiment(tuple(MAIN), steps=(FEW,)),
    "fewest": Experiment(tuple(MAIN), steps=(STEPS // 12,)),
    "long": Experiment((*MAIN, "paper"), steps=(STEPS,), once=(UNPRUNED, ITERATIVE)),
    "reach": Experiment(("default", "own"), keeps=(0.3,), steps=(3 * STEPS,), seeds=1),
    "mixed": Experiment(tuple(MAIN), ("mixed",), (0.3,), (FEW, STEPS)),
    "half": Experiment(tuple(MAIN), keeps=(0.5,), steps=(FEW,)),
    "curve": Experiment(tuple(MAIN), ("disjoint",), (0.3,), (STEPS // 12, STEPS // 6, 3 * STEPS), seeds=1),
    "foreign": Experiment(
        ("default", "leaning", "own", "own alone, average", "all tasks"),
        ("foreign",),
        (0.3,),
        (FEW, STEPS),
    ),
    "controls": Experiment(tuple(CONTROLS), ("disjoint",), (0.3,), (FEW,), seeds=1),
    "grid": Experiment(tuple(GRID), ("disjoint",), (0.3,), (FEW,), seeds=1),
}
