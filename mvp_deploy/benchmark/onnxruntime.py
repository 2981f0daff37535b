"""ONNX Runtime: on the CPU, or on a GPU by its CUDA or TensorRT provider where its package brings that."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime

from mvp_deploy.base.environment import cores
from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError, first_line
from mvp_deploy.base.formats import Malformed, Within, loads, parse
from mvp_deploy.base.processes import apart
from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.session import open_session

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
KERNEL = "_kernel_time"  # ends a kernel's name in a trace
Spread = Annotated[float, Within(1e-6, 1000)]
LIBRARIES = {PROVIDERS["cuda"]: "CUDA and cuDNN", PROVIDERS["tensorrt"]: "TensorRT, CUDA and cuDNN"}


class OnnxRunner:
    """An ONNX file in one session. Input and output lie in host memory: a run includes transfers to a GPU."""

    def __init__(self, path: Path, threads: int | None, device: str, trace: Path | None = None) -> None:
        """trace: where each kernel's times are noted, with this for a name's beginning; None: nowhere."""
        provider, settings = _provider(device)
        options: dict[str, Any] = {"intra_op_num_threads": threads or cores()}
        if trace is not None:
            options |= {"enable_profiling": True, "profile_file_prefix": os.fspath(trace)}
        try:
            self._session = open_session(path, [(provider, settings)], **options)
        except Exception as error:  # ONNX Runtime raises types of its own, one for each status
            raise InputError(f"ONNX Runtime cannot load {path.name}: {first_line(error)}") from error
        if self._session.get_providers()[0] != provider:  # it falls back to the CPU with no more than a log line
            raise EnvironmentMissing(
                f"ONNX Runtime has {provider} but could not start it: install the {LIBRARIES[provider]} libraries "
                "it was built for (`mvp-deploy doctor`), or time it on the CPU.",
            )
        self._binding = self._session.io_binding()
        (self._input, *_), (first, *_) = self._session.get_inputs(), self._session.get_outputs()
        self._output = next((each for each in self._session.get_outputs() if each.name == "logits"), first)
        self._normalisation = _normalisation(self._session, path) if self._input.type == "tensor(uint8)" else None
        shape = self._input.shape[1:]
        self.image_shape: tuple[int, int, int] = tuple(shape if self._normalisation is None else shape[2:] + shape[:2])
        self.name = f"onnxruntime {provider.removesuffix('ExecutionProvider')}"
        self.details: Mapping[str, str] = {
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "provider": provider,
            "threads": str(options["intra_op_num_threads"]),
        }

    def prepare(self, batch: np.ndarray) -> None:
        if self._normalisation is not None:
            batch = _bytes(batch, *self._normalisation)
        self._binding.bind_cpu_input(self._input.name, np.ascontiguousarray(batch))
        self._binding.bind_output(self._output.name, "cpu")

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def output(self) -> np.ndarray:
        logits: np.ndarray = self._binding.copy_outputs_to_cpu()[0]
        return logits

    def end_trace(self) -> Path:
        """The file of the trace so far; nothing more is noted."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        del self._binding, self._session


def open_runner(path: Path, *, threads: int | None, device: str) -> OnnxRunner:
    return OnnxRunner(path, threads, device)


def version(device: str) -> str:
    _provider(device)
    return onnxruntime.__version__


def kernel_times(path: Path, batch: np.ndarray, *, runs: int, threads: int, device: str) -> list[tuple[str, float]]:
    """What each kernel takes within the running model: its name and the lower quartile of its seconds, in order.

    From ONNX Runtime's own trace, whose unit is a microsecond. The first run is left out, and other work can
    only lengthen the rest. The trace is taken on the CPU, where launching a kernel on a GPU takes as long whatever it
    computes: there each launch waits for its kernel, in a process of its own, for CUDA reads the setting as it starts.
    """
    if device == "cpu":
        return _traced(path, batch, runs, threads, device)
    try:
        return apart(_waiting, path, batch, runs, threads, device)
    except ChildProcessError as error:
        raise MvpError(f"tracing {path.name} failed, perhaps for want of memory: {error}.") from error


def _waiting(*arguments: Any) -> list[tuple[str, float]]:
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    return _traced(*arguments)


def _traced(path: Path, batch: np.ndarray, runs: int, threads: int, device: str) -> list[tuple[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        runner = OnnxRunner(path, threads, device, trace=Path(folder) / "trace")
        with closing(runner):
            runner.prepare(batch)
            for _ in range(runs + 1):
                runner.run()
            events = json.loads(runner.end_trace().read_bytes())
    seconds: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            seconds.setdefault(event["name"].removesuffix(KERNEL), []).append(event["dur"] / 1e6)
    return [(name, float(np.percentile(values[1:], 25))) for name, values in seconds.items()]


@dataclass(frozen=True)
class _Normalisation:
    """What a file that takes bytes says in its metadata."""

    mean: tuple[float, float, float]
    std: tuple[Spread, Spread, Spread]


def _normalisation(session: onnxruntime.InferenceSession, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, float32 [3] each, of a file that takes bytes and normalises them itself."""
    try:
        told = parse(_Normalisation, loads(session.get_modelmeta().custom_metadata_map["normalisation"].encode()))
    except (KeyError, Malformed) as error:
        raise InputError(
            f"{path.name} takes bytes and does not say how it normalises them: export it with --with-preprocessing."
        ) from error
    return np.array(told.mean, np.float32), np.array(told.std, np.float32)


def _bytes(batch: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """The images uint8 [b, H, W, 3] that `batch`, float32 [b, 3, H, W], was normalised from."""
    pixels: np.ndarray = np.rint((batch.transpose(0, 2, 3, 1) * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return pixels


def _provider(device: str) -> tuple[str, dict[str, str]]:
    """The provider for «auto», «cpu», «cuda», «cuda:N», «tensorrt» or «tensorrt:N», and its settings.

    Raises:
        MvpError: (ENVIRONMENT) this onnxruntime is built without it; (INPUT) no such device.
    """
    kind, _, index = device.partition(":")
    if kind == "auto":
        kind = "cuda" if PROVIDERS["cuda"] in onnxruntime.get_available_providers() and cuda.available() else "cpu"
    if kind not in PROVIDERS:
        raise InputError(f"unknown device {device!r}: write auto, {', '.join(PROVIDERS)} or cuda:N.")
    provider = PROVIDERS[kind]
    if provider not in onnxruntime.get_available_providers():
        raise EnvironmentMissing(
            f"{device} was asked for, and this onnxruntime is built without {provider}: pip uninstall onnxruntime "
            "&& pip install onnxruntime-gpu, or time it on the CPU.",
        )
    if kind == "cpu":
        return provider, {}
    with redirect_stdout(sys.stderr):  # it prints which it cannot load, and results may go to stdout
        onnxruntime.preload_dlls()  # CUDA and cuDNN of pip's packages, where ONNX Runtime does not look by itself
    exact = {"use_tf32": "0"} if kind == "cuda" else {}  # on by default; it multiplies with 10 bits of mantissa, not 23
    return provider, {"device_id": index or "0", **exact}
