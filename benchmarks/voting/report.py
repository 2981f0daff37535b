"""Write docs/voting.md and its plot from the cells.

    python benchmarks/voting/report.py

Everything above the line "## Numbers" of an existing page is prose and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from arms import GRID, ITERATIVE, RECIPE_OF, UNPRUNED
from cells import Cell
from extras import HEAD, banks, factors, overlaps, peers
from prepare import NETS, STEPS
from run import RESULTS, read
from settings import ASKED, SETTINGS
from table import Difference, difference, mean, of_arm

DOCS = Path(__file__).parents[2] / "docs"
NUMBERS = "## Numbers\n"
CHOSEN = "default"
RIVALS = ("own", "paper", "random leader", "nearest by prototypes leads", "five random, alike", "all tasks", ITERATIVE)
CURVE = (CHOSEN, "random leader", "all tasks", "own")
CAPTION = (
    "On `disjoint`, 30 % of the units, one seed, the targets that were asked with every number of steps: accuracy "
    "against fine-tuning steps, and against all compute."
)
GMACS = (20, 50, 100, 200, 400)  # ticks
CURVE_OF = ("resnet", "disjoint", 0.3)

Cells = dict[tuple[str, str], list[Cell]]  # by net and setting


def verdicts(cells: Cells) -> Iterator[str]:
    """The chosen recipe against each rival, in every setting, over the targets of all, and how many it wins."""
    yield f"\n### «{CHOSEN}» minus its rivals\n"
    yield "Points of accuracy, mean over targets and 95 % interval, bold where it excludes zero.\n"
    yield "| units kept, steps, net, setting | " + " | ".join(RIVALS) + " | compute, % of iterative's | targets |"
    yield "| --- " * (len(RIVALS) + 3) + "|"
    found = experiments(cells)
    asked_of = {(net, keep, steps) for net, _, keep, steps in found}
    for net, keep, steps in sorted(asked_of, key=lambda one: (one[0], -one[1], one[2])):
        label = f"{keep:.0%}, {steps}, {net}"
        each = {
            name: Verdict.of(cells, net, (name,), keep, steps) for name in SETTINGS if (net, name, keep, steps) in found
        }
        yield from (f"| {label}, {name} | {one} |" for name, one in each.items())
        asked = [name for name in ASKED if name in each]
        if len(asked) > 1:
            yield f"| {label}, the four | {Verdict.of(cells, net, asked, keep, steps)} |"
            yield f"| {label}, settings won | " + " | ".join(won([each[name] for name in asked])) + " |  |  |"


@dataclass(frozen=True)
class Verdict:
    """The chosen recipe minus each rival on some settings' targets; share: of iterative pruning's compute."""

    apart: tuple[Difference | None, ...]
    share: float | None

    @classmethod
    def of(cls, cells: Cells, net: str, names: Sequence[str], keep: float, steps: int) -> Verdict:
        def arm(which: str, at: int) -> dict[tuple[str, int], Cell]:
            parts = {name: of_arm(cells[net, name], which, keep, at) for name in names}
            return {(f"{name} {target}", seed): cell for name in names for (target, seed), cell in parts[name].items()}

        chosen = arm(CHOSEN, steps)
        rivals = {which: arm(which, STEPS if which == ITERATIVE else steps) for which in RIVALS}
        long = rivals[ITERATIVE]
        share = mean({key: chosen[key] for key in long if key in chosen}, "macs") / mean(long, "macs") if long else None
        return cls(tuple(difference(chosen, rivals[which]) for which in RIVALS), share)

    def __str__(self) -> str:
        columns = " | ".join(str(one or "") for one in self.apart)
        share = "" if self.share is None else f"{self.share:.0%}"
        return f"{columns} | {share} | {max((one.targets for one in self.apart if one), default=0)}"


def won(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Per rival, in how many settings the difference is surely above zero."""
    for apart in zip(*(one.apart for one in verdicts), strict=True):
        asked = [one for one in apart if one]
        yield f"{sum(one.points.surely_above(0) for one in asked)} of {len(asked)}" if asked else ""


def tables(cells: Cells) -> Iterator[str]:
    """Every arm of every experiment but the grid's, the best first."""
    for net, name, keep, steps in experiments(cells):
        here = cells[net, name]
        asked = (*(arm for arm in RECIPE_OF if arm not in GRID), ITERATIVE, UNPRUNED)
        arms = {arm: of_arm(here, arm, keep, steps) for arm in asked}
        arms = {arm: found for arm, found in arms.items() if found}
        targets, seeds = ({key[place] for found in arms.values() for key in found} for place in (0, 1))
        yield f"\n### {net}, {name}, {keep:.0%} of units, {steps} steps ({len(targets)} targets)\n"
        yield f"| arm | accuracy | before tuning | minus {CHOSEN} | seeds | GMACs | seconds |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for arm in sorted(arms, key=lambda arm: -mean(arms[arm], "accuracy")):
            found = arms[arm]
            seeds = {seed for _, seed in found}
            apart = difference(found, arms.get(CHOSEN, {})) if arm != CHOSEN else None
            yield (
                f"| {arm} | {mean(found, 'accuracy'):.1%} | {mean(found, 'before'):.1%} | {apart or ''} | {len(seeds)} "
                f"| {mean(found, 'macs') / 1e9:.0f} | {mean(found, 'seconds'):.1f} |"
            )


def plot(cells: Sequence[Cell], keep: float, out: Path) -> None:
    """Accuracy against steps, and against the compute of a task: one line per arm, the long way as a point."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "mvp-deploy", "font.size": 9, "axes.spines.top": False})
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    tried = sorted({cell["steps"] for cell in cells if cell["keep"] == keep and cell["arm"] in CURVE})
    asked = ({target for target, _ in of_arm(cells, CHOSEN, keep, steps)} for steps in tried)
    shared = set.intersection(*asked)  # more targets were asked with few steps than with many
    cells = [cell for cell in cells if cell["target"] in shared]
    for arm in CURVE:
        points = {steps: of_arm(cells, arm, keep, steps) for steps in tried}
        points = {steps: {key: cell for key, cell in found.items() if key[1] == 0} for steps, found in points.items()}
        points = {steps: found for steps, found in points.items() if found}
        if not points:
            continue
        heights = [100 * mean(found, "accuracy") for found in points.values()]
        before = 100 * mean(next(iter(points.values())), "before")
        axes[0].plot([0, *points], [before, *heights], "o-", markersize=3, label=arm)
        axes[1].plot([mean(found, "macs") / 1e9 for found in points.values()], heights, "o-", markersize=3)
    for arm, mark in ((ITERATIVE, "*"), (UNPRUNED, "^")):
        if found := of_arm(cells, arm, keep, STEPS):
            place = mean(found, "macs") / 1e9, 100 * mean(found, "accuracy")
            axes[1].plot(*place, mark, color="black", markersize=8)
            axes[1].annotate(arm, place, xytext=(-4, 8), textcoords="offset points", ha="right")
    axes[0].set(xlabel="fine-tuning steps", ylabel="accuracy, %", xscale="symlog")
    axes[1].set(xlabel="compute of the task, GMACs", xscale="log")
    for axis, ticks in zip(axes, ((0, *tried), GMACS), strict=True):
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
    axes[1].legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def experiments(cells: Cells) -> list[tuple[str, str, float, int]]:
    """Net, setting, fraction and steps of which there are cells of the chosen recipe."""
    return [
        (net, name, keep, steps)
        for net, name in cells
        for keep in sorted({cell["keep"] for cell in cells[net, name] if cell["keep"] < 1}, reverse=True)
        for steps in sorted({cell["steps"] for cell in cells[net, name]}, reverse=True)
        if of_arm(cells[net, name], CHOSEN, keep, steps)
    ]


@click.command()
@click.option("--docs", type=click.Path(path_type=Path, exists=True), default=DOCS, show_default=True)
def main(docs: Path) -> None:
    cells = {(net, name): list(read(RESULTS / f"{name}-{net}.jsonl")) for net in NETS for name in SETTINGS}
    page = docs / "voting.md"
    prose = page.read_text().split(NUMBERS)[0] if page.exists() else "# Does voting help?\n\n"
    net, name, keep = CURVE_OF
    parts = [list(part) for part in (factors(cells[net, name], keep), banks(cells, CHOSEN), overlaps(), peers())]
    more = [line for part in parts if len(part) > HEAD for line in part]
    curve = ("![Accuracy against steps and compute](voting-curve.svg)\n", CAPTION)
    lines = [NUMBERS, *curve, *verdicts(cells), *more, *tables(cells)]
    page.write_text(prose + "\n".join(lines) + "\n")
    if any(cell["keep"] == keep for cell in cells[net, name]):
        plot(cells[net, name], keep, docs / "voting-curve.svg")
    print(page)


if __name__ == "__main__":
    main()
