"""Building an engine from an ONNX file, and looking at what came out before anyone relies on it."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvp_deploy.exporters.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.opset import read_opset
from mvp_deploy.exporters.tensorrt.inspect import check_precision, layer_precisions
from mvp_deploy.exporters.tensorrt.probe import Offer

SHOWN_ERRORS = 5
LARGEST = 65_536  # images in a batch


@dataclass(frozen=True)
class Profile:
    """Batch sizes an engine takes: any from ``least`` to ``most``, fastest at ``best``."""

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most <= LARGEST:
            raise InputError(f"batch sizes must rise up to {LARGEST} at most, as in 1:8:32, and {self} do not.")

    def __str__(self) -> str:
        return f"{self.least}:{self.best}:{self.most}"

    @classmethod
    def parse(cls, text: str) -> Profile:
        """«8» (that size alone) or «1:8:32» (least, best, most)."""
        if not re.fullmatch(r"\d+(:\d+:\d+)?", text):
            raise InputError(f"{text!r} is not a batch size: write 8, or 1:8:32 for least, best and most.")
        sizes = [int(part) for part in text.split(":")]
        return cls(*sizes) if len(sizes) == 3 else cls(sizes[0], sizes[0], sizes[0])


@dataclass(frozen=True)
class Options:
    """What an engine is asked to be. None leaves the matter to TensorRT."""

    precision: str = "fp32"
    profiles: tuple[Profile, ...] = (Profile(1, 1, 1), Profile(1, 8, 32))
    workspace: int | None = None  # MiB of GPU memory a layer may use while it runs
    level: int | None = None  # 0 (quick build) to 5 (fast engine)
    version_compatible: bool = False  # the engine also runs on later TensorRT versions, perhaps slower
    hardware_compatible: bool = False  # it also runs on other GPUs from Ampere on, perhaps slower

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "profiles": [str(profile) for profile in self.profiles]}


@dataclass(frozen=True)
class Built:
    """An engine, serialized, and what is known of it."""

    plan: bytes
    layers: dict[str, int]  # computing layers by precision, from the engine inspector
    seconds: float


def build(offer: Offer, onnx: Path, options: Options, timing_cache: Path | None = None) -> Built:
    """Build the engine of an ONNX file whose one input is [batch, …] with only the batch size open.

    Args:
        timing_cache: read before and added to after: later builds are quick and choose the same kernels.

    Raises:
        MvpError: (INPUT) TensorRT cannot read or build the graph; (ENVIRONMENT) this version lacks an
            option; (PARITY) the engine does not use the asked precision.
    """
    _refuse_newer_opset(offer, onnx)
    start = time.perf_counter()
    trt, log = offer.trt, logger(offer)
    builder = trt.Builder(log)
    network = builder.create_network(offer.network_flags())
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(os.fspath(onnx)):
        errors = offer.parser_errors(parser)
        raise _refused(f"TensorRT {offer.version} cannot read {onnx.name}", errors, log.errors)
    config = _configured(offer, builder, network, options)
    cache = _Timing(config, timing_cache)
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        what = f"TensorRT {offer.version} cannot build {onnx.name} in {options.precision}"
        raise _refused(what, [], log.errors)
    cache.keep()
    plan = bytes(memory)
    layers = inspect(offer, plan, options)
    check_precision(options.precision, layers, shrink=len(plan) / onnx.stat().st_size)
    return Built(plan, layers, time.perf_counter() - start)


def inspect(offer: Offer, plan: bytes, options: Options) -> dict[str, int]:
    """An engine's computing layers by precision."""
    engine = load(offer, plan, logger(offer), host_code=options.version_compatible)
    inspector = engine.create_engine_inspector()
    return layer_precisions(inspector.get_engine_information(offer.trt.LayerInformationFormat.JSON))


def load(offer: Offer, plan: bytes, log: Any, *, host_code: bool = False) -> Any:
    """The engine of a serialized plan.

    Args:
        log: from ``logger``; it must live as long as the engine.
        host_code: version-compatible engines carry code for the CPU; allow it only for engines built here.

    Raises:
        MvpError: (ENVIRONMENT) TensorRT refuses the plan.
    """
    runtime = offer.trt.Runtime(log)
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        why = "; ".join(log.errors[:SHOWN_ERRORS]) or "it gives no reason"
        raise EnvironmentMissing(
            f"TensorRT {offer.version} does not load the engine ({why}): build it again on this machine with "
            "`mvp-deploy build`.",
        )
    return engine


def logger(offer: Offer) -> Any:
    """A TensorRT logger that keeps errors in its list ``errors`` and prints nothing."""
    trt = offer.trt

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)

    return Log()


def _refuse_newer_opset(offer: Offer, onnx: Path) -> None:
    opset, newest = read_opset(onnx), offer.release.max_opset
    if opset > newest:
        raise InputError(
            f"{onnx.name} uses ONNX opset {opset} and TensorRT {offer.version} reads up to {newest}: export "
            f"it again with `mvp-deploy export … --opset {newest}`."
        )


def _configured(offer: Offer, builder: Any, network: Any, options: Options) -> Any:
    trt, config = offer.trt, builder.create_builder_config()
    for flag in offer.precision_flags(options.precision):
        config.set_flag(flag)
    if options.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default; it multiplies with 10 bits of mantissa, not 23
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector shows names alone
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.level is not None:
        offer.require(config, "builder_optimization_level", "optimisation levels")
        config.builder_optimization_level = options.level
    if options.version_compatible:
        config.set_flag(offer.flag("VERSION_COMPATIBLE", "version-compatible engines"))
    if options.hardware_compatible:
        config.hardware_compatibility_level = offer.hardware_compatible()
    _add_profiles(builder, network, config, options.profiles)
    return config


def _add_profiles(builder: Any, network: Any, config: Any, profiles: tuple[Profile, ...]) -> None:
    tensor = network.get_input(0)
    batch, *rest = tuple(tensor.shape)
    if network.num_inputs != 1 or -1 in rest:
        raise InputError("only models with one input, and only its batch size open, become engines here.")
    if batch != -1:
        if any((p.least, p.most) != (batch, batch) for p in profiles):
            raise InputError(f"the ONNX file is made for batches of {batch} alone: pass --batch {batch}.")
        return
    for sizes in profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, (sizes.least, *rest), (sizes.best, *rest), (sizes.most, *rest))
        if config.add_optimization_profile(profile) < 0:
            raise InputError(f"TensorRT refuses the batch sizes {sizes}.")


class _Timing:
    """The timing cache of one build: what kernels took, measured once and shared between builds."""

    def __init__(self, config: Any, path: Path | None) -> None:
        self._config, self._path = config, path
        if path is not None and not (path.exists() and self._use(path.read_bytes())):
            self._use(b"")  # none yet, or of another TensorRT or GPU

    def keep(self) -> None:
        """Write what was learnt, together with what other builds wrote meanwhile."""
        if self._path is None:
            return
        cache = self._config.get_timing_cache()
        with suppress(FileNotFoundError):
            other = self._config.create_timing_cache(self._path.read_bytes())
            if other is not None:
                cache.combine(other, False)
        write_bytes(self._path, bytes(cache.serialize()))

    def _use(self, data: bytes) -> bool:
        cache = self._config.create_timing_cache(data)
        return cache is not None and bool(self._config.set_timing_cache(cache, False))


def _refused(what: str, errors: list[str], logged: list[str]) -> MvpError:
    """One message from what parser and builder said, the node first where any of them names it."""
    nodes = dict.fromkeys(match[0] for text in logged for match in re.finditer(r'\[\w+ -> "[^"]+"\]', text))
    lines = [text.strip().splitlines()[0] for text in errors or logged if text.strip()]
    reasons = dict.fromkeys(line for line in lines if "--- " not in line and "While parsing" not in line)
    where = f" at {', '.join(nodes)}" if nodes else ""
    shown = "\n  ".join(list(reasons)[:SHOWN_ERRORS]) or "TensorRT gives no reason"
    return InputError(f"{what}{where}:\n  {shown}\n`mvp-deploy check` knows the usual causes and their cures.")
