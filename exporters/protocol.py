"""What an exporter is. Another package adds one under the entry points ``mvp_deploy.exporters`` (name = class)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from mvp_deploy.exporters.errors import EnvironmentMissing, InputError, first_line

if TYPE_CHECKING:
    import numpy as np
    import torch

GROUP = "mvp_deploy.exporters"
OWN = {
    "coreml": "mvp_deploy.exporters.coreml:CoreMlExporter",
    "executorch": "mvp_deploy.exporters.executorch:ExecuTorchExporter",
    "litert": "mvp_deploy.exporters.litert:LiteRtExporter",
    "mnn": "mvp_deploy.exporters.mnn:MnnExporter",
    "ncnn": "mvp_deploy.exporters.ncnn:NcnnExporter",
    "onnx": "mvp_deploy.exporters.graph:OnnxExporter",
    "onnx-uint8": "mvp_deploy.exporters.uint8:Uint8Exporter",
    "openvino": "mvp_deploy.exporters.openvino:OpenVinoExporter",
    "tensorrt": "mvp_deploy.exporters.graph:TensorRTExporter",
    "torch": "mvp_deploy.exporters.torch_program:TorchExporter",
}
BESIDE = {".xml": ".bin", ".ncnn.param": ".bin", ".pt2": ".safetensors"}  # what some formats keep beside their file
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
Int8Form = Literal["cpu", "tensorrt", "own"]  # a calibration.layers.Target; own: reduced by the exporter itself


@dataclass(frozen=True, eq=False)
class Source:
    """One model in one precision, in the two forms an exporter may start from."""

    precision: str  # of `PRECISIONS`
    onnx: Path  # in that precision, int8 as Q/DQ in the exporter's ``int8_form``; where that is «own», see below
    model: torch.nn.Module  # float32, in eval mode, on the CPU
    image_shape: tuple[int, int, int]  # channels, height, width
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # images scaled to 0..1 are normalised as (x - mean) / std
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    classes: tuple[str, ...] = ()  # the outputs' names, for formats that keep them

    # Exporters with the form «own» get the float32 ONNX file; for int8 those with a ``quantizable`` get what that gave.


@dataclass(frozen=True)
class Artifact:
    """What came out."""

    path: Path
    target: str
    precision: str
    bytes: int  # of all its files
    notes: tuple[str, ...] = ()  # what its user must know


class Exporter(Protocol):
    """Makes the files of one runtime."""

    name: str  # as in --target
    suffix: str  # of its files: '.xml'
    needs: str  # the command that installs what it needs
    precisions: tuple[str, ...]  # those it can deliver
    int8_form: Int8Form  # «own» for fp16 too

    def check(self) -> None:
        """See whether this machine can export.

        Raises:
            MvpError: (ENVIRONMENT) something is missing; the sentence says how to install it.
        """

    def export(self, source: Source, path: Path) -> Artifact:
        """Write the model to ``path``, which ends in ``suffix``.

        Raises:
            MvpError: the runtime cannot take the model.
        """


class OwnExporter:
    """What the exporters of this package share: each states its attributes and writes its file."""

    name: str
    suffix: str
    needs: str
    modules: tuple[str, ...] = ()  # that must be installed
    precisions: tuple[str, ...] = ("fp32",)
    int8_form: Int8Form = "cpu"
    notes: tuple[str, ...] = ()  # of each artifact

    def check(self) -> None:
        for module in self.modules:
            require(module, self)

    def export(self, source: Source, path: Path) -> Artifact:
        self.check()
        check_precision(self, source.precision)
        self.write(source, path)
        return Artifact(path, self.name, source.precision, size_of(path), self.notes)

    def write(self, source: Source, path: Path) -> None:
        """Write the model to ``path``. Raises MvpError if the runtime cannot take it."""
        raise NotImplementedError


class Quantizable(Protocol):
    """A runtime's own float32 file, of which its exporter makes int8.

    ``exporter.quantizable(source, path)`` opens the file that it wrote from that float32 source.
    """

    content: bytes

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of what may be quantised."""

    def inputs_of(self, layers: Collection[str]) -> list[str]:
        """The names of the tensors that these layers multiply by their weights."""

    def values(self, images: Iterable[np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
        """For each image, float32 [3, height, width], the tensors that ranges are measured of."""

    def quantized(self, ranges: Mapping[str, tuple[float, float]], layers: Collection[str]) -> bytes:
        """The file with ``layers`` in int8; input and output stay float32."""


def exporters() -> tuple[str, ...]:
    """The names of all exporters that are installed."""
    return tuple(sorted(_entries()))


def exporter(name: str) -> Exporter:
    """The exporter called ``name``.

    Raises:
        MvpError: there is none of that name.
    """
    entries = _entries()
    if name not in entries:
        raise InputError(f"there is no target {name!r}; installed: {', '.join(sorted(entries))}.")
    found: Exporter = entries[name].load()()
    return found


def _entries() -> dict[str, EntryPoint]:
    """Other packages' exporters, found by their metadata, and this one's, which need not be installed to be found."""
    own = {name: EntryPoint(name, value, GROUP) for name, value in OWN.items()}
    return {entry.name: entry for entry in entry_points(group=GROUP)} | own


def require(module: str, exporter: Exporter) -> None:
    """Raise EnvironmentMissing with the install line where ``module`` is not installed."""
    if find_spec(module) is None:
        raise EnvironmentMissing(
            f"the target {exporter.name} needs {module}, which is not installed: {exporter.needs}",
        )


def check_precision(exporter: Exporter, precision: str) -> None:
    """Raise MvpError if the exporter does not deliver ``precision``: nothing is downgraded in silence."""
    if precision not in exporter.precisions:
        raise InputError(
            f"the target {exporter.name} does not deliver {precision}: ask for {' or '.join(exporter.precisions)}, or "
            "for another target."
        )


@contextmanager
def converting(runtime: str, reason: Callable[[BaseException], str] = first_line) -> Iterator[None]:
    """Tell whatever the runtime's converter raises as the sentence that it cannot take the model, and why."""
    try:
        yield
    except Exception as error:  # converters, and the model's own code that they run, raise what they like
        raise InputError(f"{runtime} cannot take this model: {reason(error)}") from error


def size_of(path: Path) -> int:
    """Bytes of a model's file: all files of a folder, and the weights that OpenVINO and ncnn keep beside, in .bin."""
    files = [path, path.with_suffix(".bin")] if path.suffix in (".xml", ".param") else [path, *path.rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())
