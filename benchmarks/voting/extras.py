"""The page's tables of the grid's factors, of the overlap study, of the peer and of the banks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from arms import FEW, GRID, ITERATIVE
from cells import Cell
from prepare import STEPS
from run import RESULTS
from table import Difference, mean, of_arm

HEAD = 3  # lines of a table's head: with no more there is nothing to tell yet
MEASURES = ("prototypes", "leep", "features", "importance")
FACTORS = ("who votes", "whose weights", "units are chosen by", "voters count")  # of the grid, as its arms are named


def factors(cells: Sequence[Cell], keep: float) -> Iterator[str]:
    """What each choice of the grid is worth: the arms that have it minus all arms, paired by target."""
    found = [{key[0]: cell["accuracy"] for key, cell in of_arm(cells, arm, keep, FEW).items()} for arm in GRID]
    targets = sorted(set.intersection(*(set(one) for one in found)))
    if len(targets) < 3:
        return
    table = 100 * np.array([[one[target] for target in targets] for one in found])  # [arms, targets]
    yield from _head(
        f"The grid of all combinations ({keep:.0%} of units, {FEW} steps, {len(targets)} targets)",
        "factor | choice | minus the mean of all, points (95 %)",
    )
    for place, factor in enumerate(FACTORS):
        for choice in dict.fromkeys(arm.split("/")[place] for arm in GRID):
            rows = [arm.split("/")[place] == choice for arm in GRID]
            apart = Difference.of(table[rows].mean(0) - table.mean(0))
            yield f"| {factor} | {choice} | {apart} |"


def banks(cells: Mapping[tuple[str, str], list[Cell]], chosen: str) -> Iterator[str]:
    """What a bank costs, and after how many new tasks it has paid for itself, were it made for nothing else."""
    yield from _head("Banks", "bank | tasks | unpruned | pruned | GMACs per task | seconds per task | paid off after")
    for of in _results("bank"):
        here = cells[of["net"], of["setting"]]
        long, short = (of_arm(here, arm, of["keep"], STEPS) for arm in (ITERATIVE, chosen))
        saved = mean(long, "macs") - mean(short, "macs") if long and short else 0.0
        after = f"{of['tasks'] * of['macs'] / saved:.0f} tasks" if saved > 0 else ""
        yield (
            f"| {_where(of)} | {of['tasks']} | {of['unpruned_accuracy']:.1%} | {of['accuracy']:.1%} "
            f"| {of['macs'] / 1e9:.0f} | {of['seconds']:.0f} | {after} |"
        )


def overlaps() -> Iterator[str]:
    """Overlap of kept units between tasks, and what foretells it and transfer."""
    columns = "bank | overlap, 0: chance, 1: equal | " + " | ".join(f"{name}: overlap, transfer" for name in MEASURES)
    yield from _head("Overlap of kept units", columns)
    for of in _results("overlap"):
        pairs = of["overlap_of_pairs"]
        told = (
            f"{of['similarity_and_overlap'][name]:+.2f}, {of['similarity_and_transfer'][name]:+.2f}"
            for name in MEASURES
        )
        yield f"| {_where(of)} | {pairs['mean']:.2f} ± {pairs['std']:.2f} | " + " | ".join(told) + " |"


def peers() -> Iterator[str]:
    """Ours and Torch-Pruning's models of the same size share and steps."""
    columns = "setting | whose | accuracy | ours minus theirs, points (95 %) | params | seconds | p50 ms, batch 1, 32"
    yield from _head("Beside Torch-Pruning's group Taylor", columns)
    for of in _results("peer"):
        apart = of["accuracy_difference"]
        points = " ".join((f"{100 * apart['mean']:+.1f}", f"({100 * apart['low']:+.1f} to {100 * apart['high']:+.1f})"))
        for whose, found in of["means"].items():
            times = ", ".join(f"{of['latency'][f'{whose} at batch {batch}']['p50_ms']:.3f}" for batch in (1, 32))
            yield (
                f"| {_where(of)} | {whose} | {found['accuracy']:.1%} | {points if whose == 'ours' else ''} "
                f"| {found['params']:,.0f} | {found['seconds']:.1f} | {times} |"
            )


def _results(kind: str) -> Iterator[dict[str, Any]]:
    for file in sorted(RESULTS.glob(f"{kind}-*.json")):
        yield json.loads(file.read_text())


def _head(title: str, columns: str) -> Iterator[str]:
    yield f"\n### {title}\n"
    yield f"| {columns} |"
    yield "| --- " * (columns.count("|") + 1) + "|"


def _where(of: Mapping[str, Any]) -> str:
    return f"{of['net']}, {of['setting']}, {of['keep']:.0%}"
