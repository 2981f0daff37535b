"""The arms of the study: recipes by name, and the experiments that compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

from prepare import KEEPS, STEPS

from mvp_deploy.pruning.recipes import RECIPES, Recipe

VOTES = Recipe(own=0.0, lean=0.0)  # votes alone decide; pretrained weights; solved head; batch norms recomputed

NEIGHBOURS = {
    "nearest": {},
    "random": {"nearest_by": "random"},
    "farthest": {"nearest_by": "farthest"},
    "all": {"neighbours": 0},
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

MAIN: Mapping[str, Recipe] = {
    "own": RECIPES["own"],
    "magnitude": RECIPES["magnitude"],
    "random units": RECIPES["random"],
    "paper": RECIPES["paper"],
    "one-shot": RECIPES["one-shot"],
    "score votes": replace(VOTES, votes="score"),
    **{f"votes, {who}": replace(VOTES, **change) for who, change in NEIGHBOURS.items()},
    **{f"votes+average, {who}": replace(VOTES, **change, weights="average") for who, change in NEIGHBOURS.items()},
    "blend": replace(VOTES, own=0.5),
    "blend+average": replace(VOTES, own=0.5, weights="average"),
    "own+average": replace(VOTES, own=1.0, weights="average"),
    "nearest one": replace(VOTES, neighbours=1, weights="nearest"),
    "nearest one by features": replace(VOTES, nearest_by="features", neighbours=1, weights="nearest"),
    "votes+average by features": replace(VOTES, nearest_by="features", weights="average"),
    "blend+average by features": replace(VOTES, nearest_by="features", own=0.5, weights="average"),
    "random one": replace(VOTES, nearest_by="random", neighbours=1, weights="nearest"),
}

ITERATIVE, UNPRUNED = "iterative", "unpruned"  # the long way, and no pruning at all


@dataclass(frozen=True)
class Experiment:
    """Which cells to fill."""

    arms: tuple[str, ...]
    settings: tuple[str, ...]
    keeps: tuple[float, ...]
    steps: tuple[int, ...] = (STEPS,)
    seeds: int = 3


EXPERIMENTS: Mapping[str, Experiment] = {
    "grid": Experiment(tuple(GRID), ("disjoint",), (0.3, 0.1)),
    "main": Experiment((*MAIN, UNPRUNED, ITERATIVE), ("random", "disjoint", "alphabets", "transfer"), KEEPS),
}
RECIPE_OF: Mapping[str, Recipe] = {**GRID, **MAIN}
