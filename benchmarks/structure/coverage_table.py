"""docs/structure-coverage.md from the results of coverage.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models import FIRST_BLOCKS, MODELS, PLAIN
from survival import survives

from mvp_deploy.base.files import atomic_write

Result = dict[str, Any]
SURVIVAL = Path(__file__).parent / "results/survival.json"


def write_table(results: dict[str, Result], path: Path) -> None:
    """Write the summary, one row per model, and what is frozen where that is more than a hundredth."""
    done = {name: results[name] for name in MODELS if name in results}
    good = {name: r for name, r in done.items() if "failed" not in r}
    lines = [
        "# Which models can be pruned",
        "",
        "Made by `python benchmarks/structure/coverage.py` ([results](../benchmarks/structure/results/coverage.json)):",
        "the smallest variant of every model file of timm 1.0.31 and others with parts of their own, random weights,",
        "norms and zero-initialised weights randomised. Three random keep plans each remove 10 to 75 % of every unit",
        "group. *Error*: the largest difference between the smaller model's output and that of the full model silenced",
        "by hooks ([reference.py](../tests/mvp_deploy/structure/reference.py)), relative to its largest output, fp32.",
        "*Prunable*: share of the weights, without the classifier's, that lie in some unit group. *Form*: whether the",
        "smaller model is timm's own module with new sizes, or a traced program.",
        "",
        *_summary(done, good),
        "",
        "| model | px | prunable | groups | error | form | trains, reloads | ONNX error | analysis, surgery s |",
        "| --- | --: | --: | --: | --: | --- | --- | --: | --: |",
        *(_row(name, result) for name, result in done.items()),
        "",
        f"¹ first {FIRST_BLOCKS} blocks only. Seconds were taken on a busy machine: they are no benchmark.",
        "",
        "## Frozen",
        "",
        *(_frozen(name, result) for name, result in good.items() if result["prunable"] < 0.99),
        "",
        "## Not exported to ONNX, and why",
        "",
        *(f"- {name}: {' '.join(r['onnx_failed'].split())}" for name, r in good.items() if "onnx_failed" in r),
        "",
        "## Traced programs, and why",
        "",
        *(f"- {name}: {r['why_graph']}" for name, r in good.items() if r["form"] == "graph"),
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _summary(done: dict[str, Result], good: dict[str, Result]) -> list[str]:
    def count(test: Any) -> str:
        return f"{sum(map(bool, map(test, good.values())))} of {len(done)}"

    return [
        f"- analysed, cut and running: {len(good)} of {len(done)}",
        f"- error below 1e-5 for every plan: {count(lambda r: max(r['errors']) < 1e-5)}",
        f"- at least 95 % of the body's weights prunable: {count(lambda r: r['prunable'] >= 0.95)}",
        f"- as the ordinary eager module: {count(lambda r: r['form'] == 'eager')}",
        f"- trains: {count(lambda r: r['trains'])}; reloads to the bit: {count(lambda r: r['reloads'])}",
        *_onnx(good),
        *_survival(),
    ]


def _onnx(good: dict[str, Result]) -> list[str]:
    errors = [r["onnx_error"] for r in good.values() if "onnx_error" in r]
    agree = f"{sum(e < 1e-4 for e in errors)} of the {len(errors)} tried"
    return [f"- ONNX Runtime agrees (error below 1e-4): {agree}"] * bool(errors)


def _survival() -> list[str]:
    if not SURVIVAL.exists():
        return []
    results = json.loads(SURVIVAL.read_text())
    lost = [name for name, r in results.items() if not survives(r)]
    backends = ", ".join(sorted({r["backend"] for r in results.values() if "backend" in r}))
    return [
        f"- cut to 30 %, alive in channels_last and bfloat16 and back, and equal under torch.compile ({backends}): "
        f"{len(results) - len(lost)} of {len(results)}" + (f"; not {', '.join(lost)}" if lost else "")
    ]


def _row(name: str, result: Result) -> str:
    mark = "¹" if name in PLAIN else ""
    if "failed" in result:
        return f"| {name}{mark} | | | | | | {result['failed'][:120].replace('|', '/')} | | |"
    both = " ".join(word if result[word] else f"**not {word}**" for word in ("trains", "reloads"))
    groups = ", ".join(f"{n} {kind}" for kind, n in sorted(result["groups"].items()))
    onnx = f"{result['onnx_error']:.0e}" if "onnx_error" in result else ""
    return (
        f"| {name}{mark} | {result['image_size']} | {100 * result['prunable']:.1f} % | {groups} "
        f"| {max(result['errors']):.0e} | {result['form']} | {both} | {onnx} "
        f"| {result['analysis_s']:.1f}, {result['surgery_s']:.1f} |"
    )


def _frozen(name: str, result: Result) -> str:
    reasons = "; ".join(f"{why} ({n / result['params']:.1%})" for why, n in list(result["frozen_by"].items())[:4])
    return f"- {name}, {1 - result['prunable']:.1%}: {reasons}"
