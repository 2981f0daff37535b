"""Write the numbers of docs/pretrained.md, and its plot, from the cells.

    python benchmarks/pretrained/report.py

Everything above the line "## Numbers" of the page is prose and stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ladder import EACH, RESULTS, read

from mvp_deploy.bank.rung import STEPS
from mvp_deploy.base.files import write_text
from mvp_deploy.benchmark.statistics import mean_interval, paired_change

FRONT = RESULTS / "front.json"
WHOLE_LADDER = RESULTS / "ladder-bank-whole-1600.json"
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
PAGE = Path(__file__).parents[2] / "docs" / "pretrained.md"
NUMBERS = "## Numbers\n"
TOY = Path(__file__).parents[1] / "voting" / "results" / "candidates-disjoint-resnet.jsonl"
TRANSFORMER = TOY.with_name("candidates-disjoint-vit.jsonl")
SHORTER = TOY.with_name("candidates-half-trials-disjoint-resnet.jsonl")
HALF = ", trials of half the length"

PEERS = {
    "ours": "ours",
    "torch-pruning-uniform": "Torch-Pruning",
    "torch-pruning-global": "Torch-Pruning, one threshold",
    "torch-pruning-exact": "Torch-Pruning, not rounded",
    "torch-pruning-bold": "Torch-Pruning, bold tuning",
    "torch-pruning-exact-bold": "Torch-Pruning, not rounded, bold tuning",
    "torch-pruning-long": "Torch-Pruning, not rounded, 3 cuts",
    "torch-pruning-long-bold": "Torch-Pruning, not rounded, 3 cuts, bold tuning",
    "long": "Taylor, one threshold, 3 cuts",
}
TUNED = ", tuned"
WHOLE = "the whole way"  # of ablation.py
BUDGETS = "ladder, "  # the arms of `ladder.py --whole`, with a table of their own
MOMENTS = "own F"  # the arms of moments.py, which the picture leaves out
DEEP = 0.2  # of the MACs; from here on the unpruned net at a smaller image stands beside

Cell = Mapping[str, Any]
Table = Mapping[tuple[str, int | None], Mapping[int, float]]  # by arm and photographs a class: accuracy by target


def ladder_table(cells: Sequence[Cell]) -> Table:
    arms = dict.fromkeys(cell["arm"] for cell in cells)
    return {
        (arm, each): {c["target"]: 100 * c["accuracy"] for c in cells if (c["arm"], c["each"]) == (arm, each)}
        for arm in arms
        for each in EACH
    }


def ladder(every: Table) -> Iterator[str]:
    table = {key: found for key, found in every.items() if not key[0].endswith(TUNED) and BUDGETS not in key[0]}
    yield "\n### Few images: the ladder\n"
    yield "Held-out accuracy in per cent, the mean over targets and its 95 % interval (Student); nothing is tuned.\n"
    yield "| | " + " | ".join("all" if each is None else f"k = {each}" for each in EACH) + " | targets |"
    yield "| --- " * (len(EACH) + 2) + "|"
    arms = dict.fromkeys(arm for arm, _ in table)
    for arm in arms:
        row = [list(table[arm, each].values()) for each in EACH]
        yield f"| {arm} | " + " | ".join(map(_mean, row)) + f" | {len(row[0])} |"
    best = [arm for arm in arms if "imitated" in arm]
    for rival in [arm for arm in arms if arm not in best] if best else []:
        apart = [_apart(table[best[-1], each], table[rival, each]) for each in EACH]
        yield f"| {best[-1]} minus {rival}, points | " + " | ".join(map(_mean, apart)) + f" | {len(apart[0])} |"
    yield from ladder_tuned(
        {arm: found for (arm, each), found in every.items() if arm.endswith(TUNED) and each is None}
    )


def budgets(every: Table, rungs: Mapping[str, Any]) -> Iterator[str]:
    """A ladder of `bank build`'s own budgets: what each model gives beside the unpruned one."""
    yield "\n### A ladder of five budgets\n"
    yield "Points below the unpruned net; features off by this much of their variance, on photographs left out.\n"
    yield "| | MMACs | " + " | ".join("all" if each is None else f"k = {each}" for each in EACH) + " | features off |"
    yield "| --- " * (len(EACH) + 3) + "|"
    for arm, rung in rungs.items():
        apart = [_mean(_apart(every["unpruned", each], every[arm, each])) for each in EACH]
        errors = ", ".join(f"{rung['errors'][step]:.2f} {told}" for step, told in STEPS.items())
        yield f"| {arm.removeprefix(BUDGETS)} | {rung['macs'] / 1e6:.0f} | {' | '.join(apart)} | {errors} |"


def ladder_tuned(found: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    """Of all photographs: the ladder's model, the first of them, and one's own."""
    if not found:
        return
    yield "\nAll photographs, tuned alike for 300 steps, heads solved again:\n"
    yield "| | accuracy | targets |"
    yield "| --- | --- | --- |"
    for arm, by_target in found.items():
        yield f"| {arm} | {_mean(list(by_target.values()))} | {len(by_target)} |"
    first, *others = found
    for arm in others:
        apart = _apart(found[first], found[arm])
        least = f"at least {min(apart):+.1f}"
        yield f"| {first} minus {arm}, points | {_mean(apart, signed=True)}, {least} | {len(apart)} |"


def ablation(cells: Sequence[Cell]) -> Iterator[str]:
    """The whole way without a bank, and without each part, by seed."""
    yield "\n### Without a bank: each part left out\n"
    yield "All 100 classes; means over seeds, each of which deals the photographs anew, and points beside the whole way"
    yield "(Student, 95 %); tuned for 100 steps, alike.\n"
    yield "| net, pixels | MACs kept | | untuned | beside the whole way | tuned | beside the whole way | seeds |"
    yield "| --- " * 8 + "|"
    by_arm: dict[tuple[Any, ...], dict[int, Cell]] = {}
    for c in cells:
        by_arm.setdefault((c["net"], c["size"], c["macs"], c["arm"]), {})[c["seed"]] = c
    for (net, size, macs, arm), found in by_arm.items():
        shown = _beside(found, by_arm[net, size, macs, WHOLE], ("untuned", "tuned"))
        yield f"| {net}, {size} | {macs:.0%} | {arm} | {' | '.join(shown)} | {len(found)} |"


def candidates(cells: Sequence[Cell]) -> Iterator[str]:
    yield "\n### Without a bank: which score\n"
    yield "One run a line; loss: leave-one-out cross-entropy on the training photographs, which decides.\n"
    yield "| net, pixels, classes | MACs kept | streams | who decides | loss | untuned | tuned, 100 steps |"
    yield "| --- " * 7 + "|"
    for c in sorted(cells, key=lambda c: (c["net"], c["size"], c["classes"], c.get("shift", 0), -c["macs"])):
        tuned = f"{100 * c['tuned']:.1f}" if "tuned" in c else ""
        yield (
            f"| {c['net']}, {c['size']}, {_classes(c)} | {c['macs']:.0%} | {c['streams']} | {_decides(c)} "
            f"| {c['loo_loss']:.3f} | {100 * c['untuned']:.1f} | {tuned} |"
        )


def _classes(cell: Cell) -> str:
    return f"{cell['classes']} (others, {cell['shift']})" if cell.get("shift") else str(cell["classes"])


def _decides(cell: Cell) -> str:
    return f"default: {cell['way'].replace(' under one threshold', '')}" if cell.get("way") else cell["arm"]


def rounds(cells: Sequence[Cell]) -> Iterator[str]:
    yield "\n### Without a bank: rounds, and images to re-solve on\n"
    yield "obs under one threshold in rotated streams, nothing tuned; one run each.\n"
    yield "| net, pixels, classes | MACs kept | rounds | images | loss | untuned |"
    yield "| --- " * 6 + "|"
    for c in sorted(cells, key=lambda c: (c["net"], c["size"], c["rounds"], c["images"])):
        yield (
            f"| {c['net']}, {c['size']}, {c['classes']} | {c['macs']:.0%} | {c['rounds']} | {c['images']} "
            f"| {c['loo_loss']:.3f} | {100 * c['untuned']:.1f} |"
        )


def recovered(cells: Sequence[Cell]) -> Iterator[str]:
    yield "\n### Without a bank: more than one cut\n"
    yield "Rotated streams, one threshold; loss as above; error: of held-out features, squared, of their variance.\n"
    yield "| net, pixels, classes | MACs kept | score | way | loss | error | untuned | tuned, 100 steps |"
    yield "| --- " * 8 + "|"
    for c in sorted(cells, key=lambda c: (c["net"], c["classes"], -c["macs"], c["criterion"], c["steps"])):
        if c["steps"] == 0 and any({**c, "steps": d["steps"]}.items() <= d.items() for d in cells if "tuned" in d):
            continue  # the tuned cell has the untuned model's numbers too
        tuned = f"{100 * c['tuned']:.1f}" if "tuned" in c else ""
        tuned += " (stays untuned)" if c.get("kept") == 0 else ""
        yield (
            f"| {c['net']}, {c['size']}, {c['classes']} | {c['macs']:.0%} | {c['criterion']} | {c['way']} "
            f"| {c['loo_loss']:.3f} | {c['error']:.2f} | {100 * c['untuned']:.1f} | {tuned} |"
        )


def toy(cells: Sequence[Cell]) -> Iterator[str]:
    """The study's nets: each candidate, and what the least leave-one-out loss would take, minus the old default."""
    yield "\n### On the nets of the voting study\n"
    yield "ResNet, `disjoint`, 30 % of the units, a bank of ten tasks: points of accuracy minus the study's default."
    yield "Pairs of target and seed; the second seed has a backbone and a bank of its own.\n"
    steps = sorted({c["steps"] for c in cells})
    yield "| | " + " | ".join(f"{n} steps" for n in steps) + " | pairs |"
    yield "| --- " * (len(steps) + 2) + "|"
    found = {(c["arm"], c["steps"], (c["target"], c["seed"])): c for c in cells}
    arms = [arm for arm in dict.fromkeys(c["arm"] for c in cells) if arm != "old"]

    def row(name: str, choose: Sequence[str]) -> str:
        columns, counts = [], []
        for n in steps:
            every = dict.fromkeys((c["target"], c["seed"]) for c in cells)
            targets = [t for t in every if all((arm, n, t) in found for arm in (*choose, "old"))]
            counts.append(len(targets))
            chosen = [min((found[arm, n, t] for arm in choose), key=lambda c: c["loo_loss"]) for t in targets]
            apart = [
                100 * (c["accuracy"] - found["old", n, t]["accuracy"]) for c, t in zip(chosen, targets, strict=True)
            ]
            columns.append(_mean(apart, signed=True))
        return f"| {name} | " + " | ".join(columns) + f" | {', '.join(map(str, dict.fromkeys(counts)))} |"

    for arm in arms:
        yield row(arm, [arm])
    yield row("voted or obs by leave-one-out loss" + HALF, ["voted" + HALF, "obs" + HALF])


def transformer(cells: Sequence[Cell]) -> Iterator[str]:
    """The study's ViT: heads, hidden units and the stream."""
    yield "\n### A transformer\n"
    (steps,) = {c["steps"] for c in cells}
    yield f"The ViT of the voting study, `disjoint`, a bank of ten tasks; tuned for {steps} steps; means over targets,"
    yield "and points beside the study's default (Student, 95 %).\n"
    yield "| MACs kept | | untuned | beside the old | tuned | beside the old | targets |"
    yield "| --- " * 7 + "|"
    table: dict[tuple[float, str], dict[str, Cell]] = {}
    for c in cells:
        table.setdefault((c["keep"], c["arm"]), {})[c["target"]] = c
    for (keep, arm), found in table.items():
        shown = _beside(found, table[keep, "old"], ("before", "accuracy"))
        yield f"| {keep:.0%} | {arm} | {' | '.join(shown)} | {len(found)} |"


def front(found: Mapping[str, Any]) -> Iterator[str]:
    """Pruned and unpruned models by accuracy and milliseconds, and the best of each kind at five latencies."""
    yield "\n### Smaller nets and smaller images, in milliseconds\n"
    yield "All 100 classes, batch 1, one thread; accuracy in per cent of 1,835 held-out photographs.\n"
    names = list(found["models"][0]["ms"])
    heads = ["net, pixels", "MACs kept", "MMACs", "untuned", "tuned", *(f"ms, {RUNTIMES[name]}" for name in names)]
    yield f"| {' | '.join(heads)} |"
    yield "| --- " * len(heads) + "|"
    for c in sorted(found["models"], key=lambda c: c["mmacs"]):
        times = " | ".join(f"{c['ms'][name]:.2f}" for name in names)
        yield (
            f"| {c['net']}, {c['size']} | {c['macs']:.0%} | {c['mmacs']:.0f} | {100 * c['untuned']:.1f} "
            f"| {100 * c['tuned']:.1f} | {times} |"
        )
    yield "\nThe best model of each kind that is no slower; gain in points, with McNemar's 95 % interval:\n"
    yield "| runtime | ms | | best unpruned | best pruned | gain |"
    yield "| --- " * 6 + "|"
    for name, states in found["beside"].items():
        for state, rows in states.items():
            for row in rows:
                gain = _gain(row["gain"]) if "gain" in row else ""
                yield (
                    f"| {RUNTIMES[name]} | {row['ms']:.2f} | {state} | {row['unpruned'] or 'none'} "
                    f"| {row['pruned'] or 'none'} | {gain} |"
                )
    yield "\n![Accuracy against milliseconds](pretrained-front.svg)"


def _gain(gain: Mapping[str, float]) -> str:
    value, low, high = (100 * gain[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def peers(cells: Sequence[Cell]) -> Iterator[str]:
    """Ours beside Torch-Pruning and long iterative pruning, and at few MACs beside unpruned nets of smaller images."""
    yield "\n### Beside Torch-Pruning, and iterative pruning\n"
    yield "As above; steps of tuning in all. Last, ours after as many steps minus it, in points (McNemar, 95 %).\n"
    yield "Before bold tuning, batch norms are measured again: so they are where it says untuned.\n"
    yield "| net, pixels | MACs kept | | steps | MMACs | untuned | tuned | ours minus it, untuned | tuned |"
    yield "| --- " * 9 + "|"
    ours = {_setting(c): c for c in cells if c["arm"] == "ours"}
    cut = [c for c in cells if c["macs"] < 1]
    for c in sorted(cut, key=lambda c: (c["net"], c["size"], -c["macs"], c["steps"], c["arm"] != "ours", c["arm"])):
        rival = ours.get(_setting(c))
        gains = ["" if rival is None or rival is c else _paired(c, rival, state) for state in ("untuned", "tuned")]
        yield (
            f"| {c['net']}, {c['size']} | {c['macs']:.0%} | {PEERS[c['arm']]} | {c['steps']} | {c['mmacs']:.1f} "
            f"| {_accuracy(c, 'untuned')} | {_accuracy(c, 'tuned')} | {' | '.join(gains)} |"
        )
    if all(c["macs"] > DEEP for c in cut):
        return
    yield f"\nAt {DEEP:.0%} of the MACs and less, ours minus the unpruned net at a smaller image:\n"
    yield "| pruned | MMACs | unpruned | MMACs | untuned | tuned |"
    yield "| --- " * 6 + "|"
    for c in ours.values():
        for whole in [w for w in ours.values() if c["macs"] <= DEEP and w["macs"] == 1]:
            gains = [_paired(whole, c, state) for state in ("untuned", "tuned")]
            yield (
                f"| {c['net']}, {c['size']} | {c['mmacs']:.1f} | {whole['net']}, {whole['size']} "
                f"({_accuracy(whole, 'untuned')}, tuned {_accuracy(whole, 'tuned')}) | {whole['mmacs']:.1f} "
                f"| {' | '.join(gains)} |"
            )


def _setting(cell: Cell) -> tuple[Any, ...]:
    return cell["net"], cell["size"], cell["macs"], cell["steps"]


def _accuracy(cell: Cell, state: str) -> str:
    return f"{100 * cell[state]['accuracy']:.1f}" if state in cell else ""


def _paired(before: Cell, now: Cell, state: str) -> str:
    """The change in accuracy on the same held-out photographs."""
    if state not in before or state not in now:
        return ""
    return _gain(asdict(paired_change(*(_hits(cell[state]) for cell in (before, now)))))


def _hits(found: Mapping[str, Any]) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(found["bits"]), np.uint8), count=found["of"]).astype(bool)


def plot_front(found: Mapping[str, Any]) -> None:
    pyplot = plots()
    figure, rows = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axes, state in zip(rows, ("untuned", "tuned"), strict=True):
        for name, cut in (("unpruned", False), ("pruned", True)):
            shown = sorted((c["ms"]["onnxruntime"], 100 * c[state]) for c in found["models"] if (c["macs"] < 1) == cut)
            axes.scatter(*zip(*shown, strict=True), label=name, marker="o" if cut else "s")
        axes.set_xscale("log")
        axes.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
        axes.minorticks_off()
        axes.set_xlabel("ms in ONNX Runtime, one thread")
        axes.set_title(state, fontsize=9)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
    rows[0].set_ylabel("held-out accuracy, %")
    figure.tight_layout()
    figure.savefig(PAGE.with_name("pretrained-front.svg"), metadata={"Date": None})


def plots() -> Any:
    """matplotlib's pyplot, for files that come out the same each time."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "pretrained"
    from matplotlib import pyplot

    return pyplot


def plot(table: Table) -> None:
    pyplot = plots()
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6))
    places = np.arange(len(EACH))
    for arm in dict.fromkeys(arm for arm, _ in table if not arm.startswith(MOMENTS)):
        found = [np.mean(list(table[arm, each].values())) if table[arm, each] else np.nan for each in EACH]
        axes.plot(places, found, marker="o", label=arm)
    axes.set_xticks(places, ["all (about 34)" if each is None else str(each) for each in EACH])
    axes.set_xlabel("photographs a class")
    axes.set_ylabel("held-out accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PAGE.with_name("pretrained-ladder.svg"), metadata={"Date": None})


def _beside(found: Mapping[Any, Cell], base: Mapping[Any, Cell], states: Sequence[str]) -> Iterator[str]:
    """Of each state the mean accuracy in per cent, and the points beside the base's cells, which has none itself."""
    for state in states:
        yield f"{np.mean([100 * c[state] for c in found.values()]):.1f}"
        apart = [100 * (c[state] - base[key][state]) for key, c in found.items() if key in base]
        yield "" if found is base else _mean(apart, signed=True)


def _apart(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    return [one[target] - other[target] for target in one.keys() & other.keys()]


def _mean(values: Sequence[float], *, signed: bool = False) -> str:
    if len(values) < 2:
        return ""
    found = mean_interval(values)
    sign = "+" if signed else ""
    return f"{found.value:{sign}.1f} ({found.low:{sign}.1f} to {found.high:{sign}.1f})"


def main() -> None:
    cells = read(RESULTS / "ladder.jsonl")
    table = ladder_table(cells)
    lines: list[str] = []
    if cells:
        lines += ladder(table)
        lines += ["\n![Accuracy against photographs a class](pretrained-ladder.svg)"]
        plot({key: found for key, found in table.items() if not key[0].endswith(TUNED) and BUDGETS not in key[0]})
    if WHOLE_LADDER.exists():
        lines += budgets(table, json.loads(WHOLE_LADDER.read_text(encoding="utf-8"))["rungs"])
    if FRONT.exists():
        found = json.loads(FRONT.read_text(encoding="utf-8"))
        lines += front(found)
        plot_front(found)
    if files := sorted((RESULTS / "peers").glob("*.json")):
        compared = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        lines += peers(compared)
    if parts := read(RESULTS / "ablation.jsonl"):
        lines += ablation(parts)
    lines += candidates(read(RESULTS / "default.jsonl"))
    lines += rounds(read(RESULTS / "rounds.jsonl"))
    lines += recovered(read(RESULTS / "recover.jsonl"))
    if cells := read(TRANSFORMER):
        lines += transformer(cells)
    lines += toy([*read(TOY), *({**cell, "arm": cell["arm"] + HALF} for cell in read(SHORTER))])
    prose = PAGE.read_text(encoding="utf-8").partition(NUMBERS)[0]
    write_text(PAGE, prose + NUMBERS + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
