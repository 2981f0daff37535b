"""Every target and precision of finished runs on this CPU: exported, checked, timed; JSON and Markdown tables.

    python benchmarks/targets/run.py RUN … [--large] [--batch 1,32] [--duration 10] --out OUT

Each RUN is a folder that `mvp-deploy prune` wrote. --large adds a ResNet-50 and a ViT-small at 224 pixels, half of
their units cut at random and never trained: of them only size and latency mean something. What is in OUT already is not
made again; the tables go to stdout and OUT/tables.md, a summary of each to OUT/<name>.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from mvp_deploy.benchmark.measure import speed_up_of

LARGE = ("resnet50", "vit_small_patch16_224")
TARGETS = ("onnx", "openvino", "executorch", *(["litert"] if find_spec("litert_torch") else []))
HEAD = (
    "runtime",
    "precision",
    "model",
    "accuracy",
    "MB",
    "batch",
    "p50 ms",
    "p90 ms",
    "against unpruned",
    "against fp32",
)


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--large", is_flag=True)
@click.option("--batch", default="1,32", show_default=True)
@click.option("--duration", default=10.0, show_default=True, help="Seconds for each row, at most.")
def main(runs: tuple[Path, ...], out: Path, large: bool, batch: str, duration: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    timing = ["--duration", duration, "--device", "cpu"]
    tables = []
    for run in runs:
        info = json.loads((run / "run.json").read_text())["backbone"]
        name = f"{info['name']} at {info['image_size']} pixels"
        file = out / f"{info['name']}.{info['image_size']}.json"
        bundle = file.with_suffix("")
        if not bundle.is_dir():
            asked = [part for target in TARGETS for part in ("--target", target)]
            deploy("export", run, "--out", bundle, *asked, "--precision", "fp32,fp16,int8", "--measure", "")
        tables.append(_table(name, file, ["bench", bundle, "--batch", batch, *timing]))
    for name in LARGE if large else ():
        folder = out / f"{name}.224.files"
        if not folder.is_dir():
            subprocess.run([sys.executable, Path(__file__).with_name("large.py"), name, folder], check=True)
        kinds = [(suffix, precision) for suffix in ("onnx", "xml") for precision in ("fp32", "int8")]
        files = [folder / f"{model}.{kind[1]}.{kind[0]}" for kind in kinds for model in ("unpruned", "pruned")]
        tables.append(
            _table(f"{name} at 224 pixels", out / f"{name}.224.json", ["bench", *files, "--batch", 1, *timing])
        )
    (out / "tables.md").write_text("\n".join(tables))
    print("\n".join(tables))


def deploy(*arguments: object) -> None:
    code = "from mvp_deploy.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments), "--quiet"], check=True, stdout=sys.stderr)


def _table(title: str, file: Path, command: list[Any]) -> str:
    """The rows that the command gives, shortened into ``file``, as a Markdown table."""
    if not file.is_file():
        whole = file.with_suffix(".bench.json")
        deploy(*command, "--out", whole)
        found = json.loads(whole.read_text())
        rows = [_short(row, found["rows"]) for row in found["rows"]]
        file.write_text(
            json.dumps({"environment": found["environment"], "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )
        whole.unlink()
    result = json.loads(file.read_text(encoding="utf-8"))
    lines = [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(_cells(row)) for row in result["rows"])]
    others = result["environment"]["others"]
    return "\n".join([f"### {title}", "", *lines, "", f"Cores that other work kept busy: {others}.", ""])


def _short(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row without its windows, with its speed-ups: over the unpruned model, and over the same one in fp32."""
    model, precision = _kind(row)

    def against(other_model: str, other_precision: str) -> dict[str, float] | None:
        if (model, precision) == (other_model, other_precision):
            return None
        for other in rows:
            if (*_kind(other), other["runtime"], other["batch"]) == (
                other_model,
                other_precision,
                row["runtime"],
                row["batch"],
            ):
                return _ratio(other["timing"]["windows"], row["timing"]["windows"])
        return None

    timing = row["timing"]
    short = {key: row[key] for key in ("runtime", "batch", "size", "accuracy", "parity", "memory", "details")}
    short |= {key: timing[key] for key in ("p50", "p90", "p99", "throughput", "runs", "stable")}
    gains = {"against_unpruned": against("unpruned", precision), "against_fp32": against(model, "fp32")}
    return {"model": model, "precision": precision, **short, **gains}


def _kind(row: dict[str, Any]) -> tuple[str, str]:
    """Model and precision: a bundle's rows say them, bare files have them in their names."""
    model, _, precision = row["model"].partition(".")
    return model, row["precision"] or precision


def _ratio(slower: list[list[float]], faster: list[list[float]]) -> dict[str, float]:
    found = speed_up_of(slower, faster)
    return {"value": found.value, "low": found.low, "high": found.high}


def _cells(row: dict[str, Any]) -> list[str]:
    def gain(ratio: dict[str, float] | None) -> str:
        return f"{ratio['value']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else ""

    accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
    numbers = [f"{row['size'] / 1e6:.2f}", str(row["batch"]), f"{row['p50']:.3f}", f"{row['p90']:.3f}"]
    gains = [gain(row["against_unpruned"]), gain(row["against_fp32"])]
    return [row["runtime"], row["precision"], row["model"], accuracy, *numbers, *gains]


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
