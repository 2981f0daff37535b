"""What TensorRT and GPU this machine offers: the only place that asks for versions or missing attributes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.errors import EnvironmentMissing, MvpError
from mvp_deploy.exporters.tensorrt.releases import Release, release_of

INSTALL = "on a Jetson it comes with JetPack (apt install python3-libnvinfer), elsewhere: pip install tensorrt"


@dataclass(frozen=True)
class Offer:
    """One TensorRT on one GPU, with what differs between versions behind one name each."""

    trt: ModuleType
    version: str
    release: Release
    gpu: cuda.Gpu

    @property
    def typed(self) -> bool:
        """Whether the graph's own types decide the precision; else builder flags do."""
        return self.release.typed

    def network_flags(self) -> int:
        """How a network is created: with explicit batch (later the only kind), typed where that is wanted."""
        kinds = self.trt.NetworkDefinitionCreationFlag
        wanted = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if self.typed else [])]
        return sum(1 << int(getattr(kinds, name)) for name in wanted if hasattr(kinds, name))

    def precision_flags(self, precision: str) -> list[Any]:
        """The builder flags that let layers run in ``precision``; none if the graph's types decide."""
        names = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}[precision]
        return [] if self.typed else [getattr(self.trt.BuilderFlag, name) for name in names]

    def flag(self, name: str, purpose: str) -> Any:
        """A builder flag that was asked for.

        Raises:
            MvpError: (ENVIRONMENT) this version lacks it.
        """
        return self._member(self.trt.BuilderFlag, name, purpose)

    def hardware_compatible(self) -> Any:
        """The level at which an engine runs on GPUs newer than the one it was built on."""
        levels = self._member(self.trt, "HardwareCompatibilityLevel", "engines for several GPUs")
        return levels.AMPERE_PLUS

    def require(self, thing: object, name: str, purpose: str) -> None:
        """Refuse what this version cannot do.

        Raises:
            MvpError: (ENVIRONMENT) ``thing`` has no attribute ``name``.
        """
        self._member(thing, name, purpose)

    def parser_errors(self, parser: Any) -> list[str]:
        """What the ONNX parser complained of, each with its node where it says so."""
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        return [self._described(error) for error in errors]

    def _described(self, error: Any) -> str:
        if hasattr(error, "node_name"):
            where = f"{error.node_operator()} node {error.node_name()!r}: "
        else:
            where = f"node {error.node()}: " if error.node() >= 0 else ""
        return where + str(error.desc())

    def _member(self, thing: object, name: str, purpose: str) -> Any:
        if not hasattr(thing, name):
            raise EnvironmentMissing(
                f"TensorRT {self.version} has no {name}, which {purpose} need: leave the option out, or "
                "install a newer TensorRT.",
            )
        return getattr(thing, name)


def probe(index: int = 0) -> Offer:
    """What GPU ``index`` and the installed TensorRT offer.

    The driver is asked first: without one, some TensorRT calls end the whole process (8.6: ``trt.Runtime``).

    Raises:
        MvpError: (ENVIRONMENT) no GPU, no TensorRT, or one too old.
    """
    gpu = cuda.select(index)
    trt = _bindings()
    try:
        release = release_of(trt.__version__)
    except MvpError as error:
        raise EnvironmentMissing(str(error)) from None
    return Offer(trt, trt.__version__, release, gpu)


def _bindings() -> ModuleType:
    try:
        return import_module("tensorrt")
    except ModuleNotFoundError:
        message = f"TensorRT's Python package is not installed: {INSTALL}."
    except (
        ImportError,
        OSError,
        AttributeError,
    ) as error:  # a library it links to is missing, numpy is too new
        message = f"TensorRT is installed but does not load ({error}): install what is named, or reinstall: {INSTALL}."
    raise EnvironmentMissing(message)
