"""Gather what run.sh left in OUT folders: one JSON each, and the tables of docs/results.md on stdout.

python benchmarks/main_job/results.py OUT … >tables.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

FOLDER = Path(__file__).with_name("results")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(folders: tuple[Path, ...]) -> None:
    for folder in folders:
        result = summary(folder)
        name = result["backbone"]
        (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print("\n".join([f"### {name} at {result['image_size']} pixels", "", *table(result), ""]))


def summary(folder: Path) -> dict[str, Any]:
    run = json.loads((folder / "run" / "run.json").read_text())
    bench = json.loads((folder / "bench.json").read_text())
    rows = [
        {key: row[key] for key in ("model", "precision", "runtime", "batch", "size", "accuracy", "speed_up")}
        | {key: row["timing"][key] for key in ("p50", "p90", "p99")}
        for row in bench["rows"]
    ]
    return {
        "backbone": run["backbone"]["name"],
        "image_size": run["preprocessing"]["input_size"][1],
        "classes": run["classes"],
        "metrics": run["metrics"],
        "voters": len(run["votes"]["voters"]),
        "training": run["training"],
        "environment": bench["environment"],
        "rows": rows,
    }


def table(result: dict[str, Any]) -> list[str]:
    lines = [
        "| model | accuracy | params | MACs | MB | batch | p50 ms | p90 | p99 | speed-up (95 % interval) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        cost, gain = result["metrics"][row["model"]], row["speed_up"]
        faster = f"{gain['value']:.2f}x ({gain['low']:.2f}-{gain['high']:.2f})" if gain else "baseline"
        lines.append(
            f"| {row['model']} | {row['accuracy']:.1%} | {cost['params']:,} | {cost['macs']:,} | "
            f"{row['size'] / 1e6:.2f} | {row['batch']} | "
            f"{row['p50']:.3f} | {row['p90']:.3f} | {row['p99']:.3f} | {faster} |"
        )
    return lines


if __name__ == "__main__":
    main()
