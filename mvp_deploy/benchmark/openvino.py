"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from mvp_deploy.base.environment import cores
from mvp_deploy.base.errors import InputError
from mvp_deploy.benchmark.runner import require_cpu
from mvp_deploy.exporters import openvino_import

openvino = openvino_import.openvino()


class OpenVinoRunner:
    """An IR (or an ONNX file) in one compiled model.

    Computed in float32 (what is not int8): on CPUs that have bfloat16 OpenVINO would else use that in silence.
    """

    def __init__(self, path: Path, threads: int | None, *, traced: bool = False) -> None:
        """traced: each kernel's time is noted."""
        settings = {
            "PERF_COUNT": traced,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads or cores(),
        }
        try:
            model = openvino.Core().compile_model(path, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"OpenVINO cannot load {path.name}: {reason}") from error
        _, *shape = model.input(0).partial_shape
        channels, height, width = (size.get_length() for size in shape)
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        self._request = model.create_infer_request()
        self.name = "openvino CPU"
        self.details: Mapping[str, str] = {
            "runtime": f"openvino {openvino.__version__.split('-')[0]}",
            "device": "CPU",
            "threads": str(model.get_property("INFERENCE_NUM_THREADS")),
        }

    def prepare(self, batch: np.ndarray) -> None:
        self._request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(batch)))

    def run(self) -> None:
        self._request.infer()

    def kernels(self) -> list[tuple[str, float]]:
        """Of a traced model: the kernels of the last run and their seconds, in order."""
        return [
            (info.node_name, info.real_time.total_seconds())
            for info in self._request.profiling_info
            if info.status == openvino.ProfilingInfo.Status.EXECUTED
        ]

    def output(self) -> np.ndarray:
        logits: np.ndarray = self._request.get_output_tensor().data
        return logits

    def close(self) -> None:
        del self._request


def version(device: str) -> str:
    require_cpu(device, "OpenVINO runs")
    return str(openvino.__version__)


def open_runner(path: Path, *, threads: int | None, device: str) -> OpenVinoRunner:
    require_cpu(device, "OpenVINO runs")
    return OpenVinoRunner(path, threads)


def kernel_times(path: Path, batch: np.ndarray, *, runs: int, threads: int, device: str) -> list[tuple[str, float]]:
    """What each kernel takes within the running model: its name and the lower quartile of its seconds, in order.

    From OpenVINO's own counters, whose unit is a microsecond. The first run is left out, and other work can
    only lengthen the rest.
    """
    seconds: dict[str, list[float]] = {}
    with closing(OpenVinoRunner(path, threads, traced=True)) as runner:
        runner.prepare(batch)
        for _ in range(runs + 1):
            runner.run()
            for name, value in runner.kernels():
                seconds.setdefault(name, []).append(value)
    return [(name, float(np.percentile(values[1:] or values, 25))) for name, values in seconds.items()]
