"""The arms of the study: recipes by name, and the experiments that compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

from prepare import STEPS
from settings import SETTINGS

from mvp_deploy.pruning.recipes import RECIPES, Recipe

VOTES = Recipe(nearest_by="prototypes", own=0.0, weights="pretrained", lean=0.0)  # head solved, batch norms recomputed
AVERAGE = replace(VOTES, weights="average")
FEATURES = replace(AVERAGE, nearest_by="features")
ONE = replace(VOTES, neighbours=1, weights="nearest")

NEIGHBOURS = {
    "nearest": {},
    "random": {"nearest_by": "random"},
    "farthest": {"nearest_by": "farthest"},
    "all": {"neighbours": 0},
}

# In every setting: what may become the default, and what it has to beat.
MAIN: Mapping[str, Recipe] = {
    "own": RECIPES["own"],
    "paper": RECIPES["paper"],
    "average of nearest by features": FEATURES,
    "average of nearest": AVERAGE,
    "average of random": replace(AVERAGE, nearest_by="random"),
    "average of all": replace(AVERAGE, neighbours=0),
    "blend, average of nearest by features": replace(FEATURES, own=0.5),
}

# In one setting: everything else that the question has been asked about.
CONTROLS: Mapping[str, Recipe] = {
    "magnitude": RECIPES["magnitude"],
    "random units": RECIPES["random"],
    "one-shot": RECIPES["one-shot"],
    "score votes": replace(VOTES, votes="score"),
    **{f"votes, {who}": replace(VOTES, **change) for who, change in NEIGHBOURS.items()},
    "blend": replace(VOTES, own=0.5),
    "average of farthest": replace(AVERAGE, nearest_by="farthest"),
    "average of nearest by LEEP": replace(AVERAGE, nearest_by="leep"),
    "own, average of all": replace(AVERAGE, neighbours=0, own=1.0),
    "nearest one": ONE,
    "nearest one by features": replace(ONE, nearest_by="features"),
    "random one": replace(ONE, nearest_by="random"),
    "average of 3 by features": replace(FEATURES, neighbours=3),
    "average of 10 by features": replace(FEATURES, neighbours=10),
    "average by features, distilled": replace(FEATURES, distill=0.5),
    "own, distilled": replace(RECIPES["own"], distill=0.5),
    "own, global budget": replace(RECIPES["own"], scope="global"),
    "own 80 %": replace(FEATURES, own=0.8, weights="pretrained"),
    "own 80 %, average by features": replace(FEATURES, own=0.8),
}


def _grid() -> dict[str, Recipe]:
    """Who votes x whose weights x how units are chosen x how votes are counted."""
    factors = product(NEIGHBOURS, ("average", "nearest", "pretrained"), ("sample", "top"), ("plain", "similarity"))
    return {
        f"{who}/{weights}/{select}/{weighting}": replace(
            VOTES, **NEIGHBOURS[who], weights=weights, select=select, weighting=weighting
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
    settings: tuple[str, ...] = SETTINGS
    keeps: tuple[float, ...] = (0.3, 0.1)
    steps: tuple[int, ...] = (STEPS,)
    seeds: int = 3
    once: tuple[str, ...] = ()


_CURVE = ("own", "average of nearest by features", "average of random", "average of all")
EXPERIMENTS: Mapping[str, Experiment] = {
    "main": Experiment(tuple(MAIN), once=(UNPRUNED, ITERATIVE)),
    "half": Experiment(_CURVE, keeps=(0.5,), once=(ITERATIVE,)),
    "few": Experiment(_CURVE, steps=(STEPS // 3,)),
    "long": Experiment(("own", "average of nearest by features", "average of all"), steps=(3 * STEPS,)),
    "curve": Experiment(_CURVE, ("disjoint",), (0.3,), (STEPS // 12, STEPS // 6, 3 * STEPS), seeds=1),
    "lean": Experiment(("own 80 %", "own 80 %, average by features"), ("transfer",), (0.3,), (STEPS, STEPS // 3)),
    "controls": Experiment(tuple(CONTROLS), ("disjoint",), (0.3,), seeds=1),
    "grid": Experiment(tuple(GRID), ("disjoint",), (0.3,), (STEPS // 3,), seeds=1),
}
