"""What a GPU adds to timing pieces: TensorRT's engines of them, and the GPU's name. NumPy and TensorRT alone."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.benchmark.tensorrt import gpu_index
from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.tensorrt import cache
from mvp_deploy.exporters.tensorrt.build import Options, Profile, build
from mvp_deploy.exporters.tensorrt.probe import probe
from mvp_deploy.latency.format import Conditions, Precision
from mvp_deploy.latency.pack import flagged


def engine_of(onnx: Path, precision: Precision, conditions: Conditions) -> Path:
    """The engine of an ONNX file for batches of one size, built beside it by the options of `mvp-deploy build`.

    Raises:
        MvpError: there is no GPU or no TensorRT, or TensorRT does not build it in this precision.
    """
    offer = probe(gpu_index(conditions.device))
    source = flagged(onnx) if not offer.typed and flagged(onnx).exists() else onnx
    options = Options(precision, profiles=(Profile.parse(str(conditions.batch)),))
    engine, wanted = source.with_suffix(".engine"), cache.identity(offer, source, options)
    if cache.stored(engine, wanted) is None:
        cache.store(engine, build(offer, source, options, cache.timing(offer)), wanted, source)
    return engine


def gpu_of(device: str) -> str | None:
    """The GPU's name, with what tells boards of one name apart; None if the CPU computes.

    Raises:
        MvpError: (ENVIRONMENT) there is no such GPU.
    """
    if device == "cpu":
        return None
    gpu = cuda.select(gpu_index(device))
    return f"{gpu.name}, {gpu.multiprocessors} multiprocessors"[:300]
