"""The files of a profile: the pieces a workstation makes, what was seen of each, and the profile. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Sha256, Share, Size, Within, Word
from mvp_deploy.exporters.protocol import Precision as Precision

FORMAT: Final = 1
CURE = "profile the backbone again with `mvp-deploy profile`"

RUNS = Within(2, 1000)  # whole models of a profile

Name = Annotated[str, Within(1, 300)]
Index = Annotated[int, Within(0, 100_000)]
Milliseconds = Annotated[float, Within(0, 1e7)]
Form = Literal["cpu", "tensorrt", "engine"]
Shape = tuple[Size, Size]  # of a layer's weight as a matrix: rows (outputs), columns (inputs of each group)


@dataclass(frozen=True)
class Subject:
    """What is profiled.

    layout: SHA-256 of the structure's unit groups. layers: the weights' names, in the order in which they run.
    variants: for each, how many units every group keeps. form: what the files are for: 'engine' for
    TensorRT's engines, else int8's form as `calibration` takes it.
    """

    format: Literal[1]
    backbone: Name
    layout: Sha256
    input_size: tuple[Size, Size, Size]
    precision: Precision
    form: Form
    layers: Annotated[tuple[Name, ...], Within(1, 10_000)]
    variants: Annotated[tuple[Mapping[str, Size], ...], Within(2, 1000)]

    def __str__(self) -> str:
        size = "x".join(map(str, self.input_size[1:]))
        return f"{self.backbone} at {size}, {self.precision}, {len(self.variants)} variants for {self.form}"


@dataclass(frozen=True)
class Variant:
    """One piece: the whole model at other widths, as an ONNX file.

    shapes: of each layer. kinds: what each layer is but for its widths: layers of one kind and shape take equally
    long. labels: names of the ONNX file's nodes and tensors -> the layer whose kernel computes them.
    """

    shapes: tuple[Shape, ...]
    kinds: tuple[Annotated[str, Within(1, 2000)], ...]
    labels: Mapping[str, Index]


@dataclass(frozen=True)
class Conditions:
    """How a model is run while it is timed."""

    runtime: Word
    device: Word = "cpu"
    threads: Annotated[int, Within(1, 4096)] = 1
    batch: Annotated[int, Within(1, 65_536)] = 1

    @property
    def form(self) -> Form:
        """What the pieces must be made for."""
        forms: dict[str, Form] = {"onnxruntime": "cpu", "tensorrt": "engine"}
        return forms.get(self.runtime, "tensorrt")

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.runtime} on {self.device}, {threads}, batch {self.batch}"


@dataclass(frozen=True)
class Shipped:
    """What a time is for: the precision of the files that ship, and the runtime that opens them."""

    precision: Precision = "fp32"
    runtime: Word = "onnxruntime"

    def conditions(self, on_device: bool) -> Conditions:
        """How it is profiled: engines on a device's GPU; without a device, ONNX Runtime stands for them."""
        if self.runtime != "tensorrt":
            return Conditions(self.runtime)
        return Conditions("tensorrt", "cuda") if on_device else Conditions("onnxruntime")

    @property
    def mark(self) -> str:
        """What its profile's file name has: nothing where both are as usual."""
        usual = Shipped()
        runtime = "" if self.runtime == usual.runtime else f".{self.runtime}"
        return runtime + ("" if self.precision == usual.precision else f".{self.precision}")


@dataclass(frozen=True)
class Visit:
    """What was seen of one variant in one turn.

    others: cores that other processes kept busy meanwhile. throttled: what lowered the clocks meanwhile.
    """

    variant: Index
    ms: Milliseconds
    layers: tuple[Milliseconds, ...]
    others: Annotated[float, Within(0, 1e5)] | None
    throttled: tuple[Annotated[str, Within(0, 200)], ...] = ()


@dataclass(frozen=True)
class Visits:
    """The turns so far, on a machine with that CPU: what a killed command goes on from."""

    conditions: Conditions
    version: Word
    cpu: Annotated[str, Within(0, 300)]
    visits: tuple[Visit, ...] = ()


@dataclass(frozen=True)
class Machine:
    cpu: Annotated[str, Within(0, 300)]
    cores: Annotated[int, Within(1, 65_536)]
    system: Annotated[str, Within(0, 300)]
    gpu: Annotated[str, Within(0, 300)] | None = None  # that computed; None: the CPU did


@dataclass(frozen=True)
class Sample:
    """A kernel at one shape, its milliseconds within the running model."""

    shape: Shape
    ms: Milliseconds


@dataclass(frozen=True)
class Kernel:
    """A layer with all that its runtime computes along with it (norm, activation, addition), at several widths."""

    kind: Annotated[str, Within(1, 2000)]
    samples: Annotated[tuple[Sample, ...], Within(2, 100_000)]


@dataclass(frozen=True)
class Layer:
    weight: Name
    kernel: Index


@dataclass(frozen=True)
class Run:
    """A whole model: the shapes of its layers, and its milliseconds."""

    shapes: tuple[Shape, ...]
    ms: Annotated[float, Within(1e-6, 1e7)]


@dataclass(frozen=True)
class Profile:
    """Measured milliseconds of a backbone's layers at several widths, on one machine, runtime and precision.

    noise: the standard error of the whole models' times, relative. loud: what else kept the machine busy.
    left_out: variants that have no part in it, since every attempt to time them was disturbed. float32_ms: the unpruned
    model's in float32, taken in turns with the others; None where that is the precision, or it was disturbed.
    """

    format: Literal[1]
    backbone: Name
    layout: Sha256
    input_size: tuple[Size, Size, Size]
    precision: Precision
    conditions: Conditions
    version: Word  # of the runtime
    machine: Machine
    layers: Annotated[tuple[Layer, ...], Within(1, 10_000)]
    kernels: Annotated[tuple[Kernel, ...], Within(1, 10_000)]
    runs: Annotated[tuple[Run, ...], RUNS]
    noise: Share
    stable: bool
    loud: tuple[Annotated[str, Within(0, 200)], ...] = ()
    left_out: Annotated[int, Within(0, 1000)] = 0
    float32_ms: Milliseconds | None = None

    def __post_init__(self) -> None:
        if any(layer.kernel >= len(self.kernels) for layer in self.layers):
            raise InputError("a layer is of a kernel that is not there")
        if any(len(run.shapes) != len(self.layers) for run in self.runs):
            raise InputError("a run has not one shape for each layer")
        for number, kernel in enumerate(self.kernels):
            owners = [place for place, layer in enumerate(self.layers) if layer.kernel == number]
            if [sample.shape for sample in kernel.samples] != [run.shapes[n] for n in owners for run in self.runs]:
                raise InputError(
                    "a kernel has not one sample for each of its layers in each run, of its shape and in that order"
                )
        if not any(sample.ms for kernel in self.kernels for sample in kernel.samples):
            raise InputError("no kernel takes any time")

    def __str__(self) -> str:
        size = "x".join(map(str, self.input_size[1:]))
        return f"{self.backbone} at {size}, {self.precision}, {self.conditions}, {self.machine.gpu or self.machine.cpu}"

    @property
    def full_ms(self) -> float:
        """The unpruned model's, as measured."""
        return self.runs[0].ms
