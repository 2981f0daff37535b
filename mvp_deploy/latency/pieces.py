"""What a device times to be profiled: the whole model at a few widths of every unit group, as ONNX files.

Made on a workstation (this needs torch). Each file's weights repeat after a few values, so that the pieces of a
backbone pack into a few MB; kernels take no less time for that.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvp_deploy.base.errors import StructureError
from mvp_deploy.base.files import write_text
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency.format import FORMAT, Form, Precision, Shape, Subject, Variant
from mvp_deploy.latency.pack import FLOAT32, begin, flagged

if TYPE_CHECKING:
    from torch import nn

    from mvp_deploy.structure import Structure

VARIANTS: dict[Form, int] = {"cpu": 16, "tensorrt": 16, "engine": 10}  # building an engine takes up to a minute
LEAST = 0.1  # of a group's units
SHARES = (0.5, 0.75, 0.875)  # of every group's units; the last tells what lies next to the whole
GRAINS = (8, 4, 8, 16)  # what the widths of successive variants are multiples of
INT8_GRAINS = (16, 8, 16, 4)
ODD = (1, 2)  # of the last variants: there runtimes fall off their fast paths
BLOCKS = (8, 16, 32)  # for TensorRT, which pads channels to 8 for fp16 and to 32 for int8
OPSET = 17  # newest that every TensorRT reads
CLASSES = (1000, 100, 10)
PERIOD = 1021  # values after which weights repeat: a prime, so that no width meets it
HEAVY = ("Conv", "Gemm", "MatMul")


def layout(structure: Structure) -> str:
    """SHA-256 of the structure's unit groups: equal where profiles fit, whatever the weights and classes."""
    groups = [
        (group.name, group.kind, group.size, [(member.tensor, member.dim) for member in group.members])
        for group in structure.groups
    ]
    return hashlib.sha256(repr(groups).encode()).hexdigest()


def draw(
    structure: Structure,
    variants: int = VARIANTS["cpu"],
    seed: int = 0,
    *,
    precision: Precision = "fp32",
    padded: bool = False,
) -> tuple[dict[str, int], ...]:
    """Widths to time: all, a quarter, a Latin hypercube over the groups, and the same share of every group.

    padded: in multiples of 8 alone, for a runtime that computes in such blocks anyway.
    """
    from mvp_deploy.pruning.budget import WHOLE

    rng = np.random.default_rng(seed)
    same = SHARES[: variants - 2]
    drawn = variants - 2 - len(same)
    usual = INT8_GRAINS if precision == "int8" else GRAINS
    body = (BLOCKS * variants)[:drawn] if padded else ((usual * variants)[: drawn - len(ODD)] + ODD)
    grains = [1, usual[0], *body, *(usual[0] for _ in same)]
    narrow, wide = (8, 32) if padded else (4, 16)
    found: list[dict[str, int]] = [{} for _ in range(variants)]
    for group in structure.groups:
        spread = LEAST + (1 - LEAST) * (rng.permutation(drawn) + rng.random(drawn)) / drawn
        shares = [1.0, 0.25, *spread, *same]
        for number, share in enumerate(shares):
            grain = 1 if group.kind in ("head", "group") else min(grains[number], narrow if group.size < 32 else wide)
            count = max(1, round(share * group.size / grain)) * grain
            found[number][group.name] = group.size if group.kind in WHOLE or share == 1 else min(count, group.size)
    return tuple(found)


def make(
    name: str,
    build: Callable[[int], nn.Module],
    input_size: tuple[int, int, int],
    folder: Path,
    *,
    precision: Precision = "fp32",
    form: Form = "cpu",
    variants: int | None = None,
    reporter: Reporter,
) -> Subject:
    """Write the pieces into ``folder``; those that are there already stay.

    Args:
        name: the backbone's. build: makes it with so many classes.
        variants: how many; None: as many as the runtimes of this form need.

    Raises:
        MvpError: the folder holds the pieces of another subject, or the model cannot be exported.
    """
    import torch

    from mvp_deploy.pruning.linear import linear_layers
    from mvp_deploy.structure import analyze

    model = build(CLASSES[0])
    structure = analyze(model, torch.zeros(1, *input_size))
    layers = tuple(layer for layer in linear_layers(model, structure.example) if layer in structure.axes)
    if not layers:
        raise StructureError(f"{name} has no convolution and no linear layer, so there is nothing to profile.")
    subject = Subject(
        FORMAT,
        name,
        layout(structure),
        input_size,
        precision,
        form,
        layers,
        draw(structure, variants or VARIANTS[form], precision=precision, padded=form == "engine"),
    )
    begin(folder, subject)
    with reporter.progress("writing pieces") as step:
        for number, counts in enumerate(subject.variants):
            step(number, len(subject.variants))
            if not (folder / f"{number:02}.json").exists():
                full = build(CLASSES[number % len(CLASSES)])
                found = _export(full, subject, counts, folder / f"{number:02}.onnx")
                write_text(folder / f"{number:02}.json", json.dumps(asdict(found)))
        if precision != "fp32" and not (folder / FLOAT32).exists():
            _export_float32(build(CLASSES[0]), subject, folder / FLOAT32)
        step(len(subject.variants), len(subject.variants))
    return subject


def _export(full: nn.Module, subject: Subject, counts: Mapping[str, int], path: Path) -> Variant:
    """One variant of the model, exported."""
    import onnx
    import torch

    from mvp_deploy.exporters.onnx import export_onnx
    from mvp_deploy.structure import KeepPlan, analyze, prune

    example = torch.zeros(1, *subject.input_size)
    structure = analyze(full, example)
    plan = KeepPlan({group.name: np.arange(group.size) < counts[group.name] for group in structure.groups})
    small = _repeating(prune(structure, full, plan, check=False))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fp32 = export_onnx(small, example, Path(folder) / "fp32.onnx", {})
        graph = onnx.load(fp32).graph
        other = Path(folder) / "other.onnx"
        made = converted(fp32, subject.precision, subject.form, subject.input_size, other)
        if flagged(made).exists():
            flagged(made).replace(flagged(path))
        made.replace(path)
    sizes = shapes_of(structure, subject.layers, counts)
    numbers = {name: int(np.prod(_sizes(structure, name, counts))) for name in subject.layers}
    owners = _owners(graph, subject.layers, numbers)
    return Variant(sizes, _kinds(graph, owners, len(sizes)), {label: owner for label, owner in _labels(graph, owners)})


def _export_float32(full: nn.Module, subject: Subject, path: Path) -> None:
    """The unpruned model as the user has it: what the precision alone gains is measured against it."""
    import torch

    from mvp_deploy.exporters.onnx import export_onnx

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fp32 = export_onnx(_repeating(full), torch.zeros(1, *subject.input_size), Path(folder) / "fp32.onnx", {})
        converted(fp32, "fp32", subject.form, subject.input_size, Path(folder) / "other.onnx").replace(path)


def shapes_of(structure: Structure, layers: tuple[str, ...], counts: Mapping[str, int]) -> tuple[Shape, ...]:
    """Rows and columns of each layer's weight when the groups keep so many units."""
    sizes = (_sizes(structure, name, counts) for name in layers)
    return tuple((size[0], size[1] if len(size) > 1 else 1) for size in sizes)


def _sizes(structure: Structure, name: str, counts: Mapping[str, int]) -> tuple[int, ...]:
    from mvp_deploy.structure.axes import kept_size

    by_atom = {structure._atoms[group]: count for group, count in counts.items()}
    return tuple(kept_size(axis, by_atom) for axis in structure.axes[name])


def _repeating(model: nn.Module) -> nn.Module:
    """The model with weights that repeat after a few values: as fast, and they pack to almost nothing."""
    import torch

    model = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() > PERIOD:
                values = weight.flatten()[:PERIOD]
                weight.copy_(values.repeat(-(-weight.numel() // PERIOD))[: weight.numel()].view_as(weight))
    return model


def converted(fp32: Path, precision: Precision, form: Form, input_size: tuple[int, int, int], out: Path) -> Path:
    """The file in another precision, for its time: accuracy is not asked for, and all that can be int8 is.

    For engines beside it lies, where they differ, the file for TensorRT releases that go by flags (`pack.flagged`).
    """
    from mvp_deploy.calibration.convert import convert_fp16, convert_int8, measure
    from mvp_deploy.calibration.guard import Limit
    from mvp_deploy.calibration.images import CalibrationImages
    from mvp_deploy.exporters.opset import lower_opset

    if precision == "fp32":
        return lower_opset(fp32, out, OPSET) if form == "engine" else fp32
    images = np.random.default_rng(0).standard_normal((2, *input_size), np.float32)
    measured = measure(fp32, CalibrationImages(images, np.zeros(2, np.int64)))
    anything = Limit(lambda model: 1.0, 1, 1.0)
    if precision == "fp16":
        if form == "engine":
            lower_opset(fp32, flagged(out), OPSET)
        return convert_fp16(measured, out).path
    if form != "engine":
        return convert_int8(measured, out, anything, target=form, method="minmax").path
    by_flags = convert_int8(measured, flagged(out), anything, target="tensorrt", method="minmax").path
    lower_opset(by_flags, by_flags, OPSET)
    return convert_int8(measured, out, anything, target="tensorrt", rest="fp16", method="minmax").path


def _owners(graph: Any, layers: tuple[str, ...], numbers: Mapping[str, int]) -> list[int]:
    """For each node, the layer whose kernel computes it: the last one that began, in the order of the graph."""
    weights = {each.name: int(np.prod(each.dims)) for each in graph.initializer if len(each.dims) > 1}
    owners, current, following = [], 0, 0
    for node in graph.node:
        sizes = [weights[name] for name in node.input if name in weights] if node.op_type in HEAVY else []
        if sizes and following < len(layers) and sizes[0] == numbers[layers[following]]:
            current, following = following, following + 1
        owners.append(current)
    if following < len(layers):
        raise StructureError(f"{layers[following]} is not found in the exported graph, so it cannot be profiled.")
    return owners


def _labels(graph: Any, owners: list[int]) -> list[tuple[str, int]]:
    names = [
        (name, owner) for node, owner in zip(graph.node, owners, strict=True) for name in (node.name, *node.output)
    ]
    return [(name, owner) for name, owner in names if name]


def _kinds(graph: Any, owners: list[int], layers: int) -> tuple[str, ...]:
    """What each layer is apart from its widths: its operators, other attributes, and the positions computed."""
    places = {
        value.name: "x".join(str(dim.dim_value) for dim in value.type.tensor_type.shape.dim[2:])
        for value in graph.value_info
    }
    kinds = [""] * layers
    for node, owner in zip(graph.node, owners, strict=True):
        details = [
            str(list(attribute.ints))
            for attribute in node.attribute
            if node.op_type == "Conv" and attribute.name in ("kernel_shape", "strides", "dilations")
        ]
        grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        where = places.get(node.output[0], "") if node.op_type == "Conv" else ""
        kinds[owner] += " ".join(filter(None, [node.op_type, "grouped" * grouped, *details, where])) + "; "
    return tuple(kind[:2000] for kind in kinds)
