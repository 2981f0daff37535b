"""Write docs/voting.md and its plots from the cells.

    python benchmarks/voting/report.py
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from arms import ITERATIVE, MAIN, UNPRUNED
from prepare import NETS, STEPS
from run import RESULTS, read
from settings import SETTINGS

from mvp_deploy.bank.evaluate import interval

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = "own"

Table = Mapping[str, np.ndarray]  # arm -> accuracy of each target, the mean over its seeds, float64 [targets]


def table(cells: list[dict[str, Any]], keep: float, steps: int = STEPS) -> dict[str, np.ndarray]:
    """Accuracies by arm, on the targets that every arm has; arms with fewer targets than most are left out."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if (cell["keep"], cell["steps"]) == (keep, steps):
            found[cell["arm"]][cell["target"]].append(cell["accuracy"])
    most = max((len(targets) for targets in found.values()), default=0)
    whole = {arm: targets for arm, targets in found.items() if len(targets) == most}
    return {arm: np.array([np.mean(targets[name]) for name in sorted(targets)]) for arm, targets in whole.items()}


def rows(found: Table, cells: list[dict[str, Any]], keep: float) -> list[str]:
    """Markdown rows, the best first: arm, accuracy, difference from own importance with its interval, compute."""
    means = {arm: float(values.mean()) for arm, values in found.items()}
    lines = []
    for arm in sorted(means, key=means.__getitem__, reverse=True):
        difference = found[arm] - found[REFERENCE]
        low, high = interval(difference)
        macs = np.mean([cell["macs"] for cell in cells if (cell["arm"], cell["keep"]) == (arm, keep)])
        before = np.mean([cell["before"] for cell in cells if (cell["arm"], cell["keep"]) == (arm, keep)])
        lines.append(
            f"| {arm} | {means[arm]:.1%} | {before:.1%} | {100 * difference.mean():+.1f} "
            f"({100 * low:+.1f} to {100 * high:+.1f}) | {macs / 1e9:.0f} |"
        )
    return lines


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=DOCS / "voting.md", show_default=True)
def main(out: Path) -> None:
    parts = []
    for net in NETS:
        for name in SETTINGS:
            cells = list(read(RESULTS / f"{name}-{net}.jsonl"))
            cells = [cell for cell in cells if cell["arm"] in MAIN or cell["arm"] in (UNPRUNED, ITERATIVE)]
            for keep in sorted({cell["keep"] for cell in cells}, reverse=True):
                found = table(cells, keep)
                if REFERENCE not in found:
                    continue
                targets = len(found[REFERENCE])
                seeds = len({cell["seed"] for cell in cells if cell["keep"] == keep})
                parts += [
                    f"\n### {net}, {name}, {keep:.0%} of units ({targets} targets, {seeds} seeds)\n",
                    f"| arm | accuracy | before tuning | minus {REFERENCE}, points (95 %) | GMACs of training |",
                    "| --- | --- | --- | --- | --- |",
                    *rows(found, cells, keep),
                ]
    out.write_text("\n".join(parts) + "\n")
    print(out)


if __name__ == "__main__":
    main()
