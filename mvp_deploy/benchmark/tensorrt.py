"""TensorRT: an engine on its own stream, timed as NVIDIA's trtexec does it.

Input and output lie in pinned host memory, the work between them is one CUDA graph, and events on the GPU tell the
computing from the transfers (trtexec: «GPU Compute», «H2D», «D2H»).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.exporters.cuda import Buffer, Event, Graph, Stream
from mvp_deploy.exporters.tensorrt.build import load, logger
from mvp_deploy.exporters.tensorrt.cache import read
from mvp_deploy.exporters.tensorrt.probe import Offer, probe

TYPES = {"FLOAT": np.float32, "HALF": np.float16}


class EngineRunner:
    """A serialized engine with one input and one output."""

    def __init__(self, path: Path, offer: Offer) -> None:
        plan, record = read(path, offer)
        self._trt, self._log = offer.trt, logger(offer)
        host_code = record["identity"]["options"]["version_compatible"]
        self._engine = load(offer, plan, self._log, host_code=host_code)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._failed("does not start")
        self._resources, self._buffers = ExitStack(), ExitStack()
        self._stream = self._own(Stream())
        self._events = [self._own(Event()) for _ in range(4)]
        self._input, self._output = self._tensors()
        self.image_shape: tuple[int, int, int] = tuple(self._engine.get_tensor_shape(self._input))[1:]
        self.name = "tensorrt CUDA"
        self.details: Mapping[str, str] = {
            "runtime": f"tensorrt {offer.version}",
            "device": offer.gpu.name,
            "layers": ", ".join(f"{count} {name}" for name, count in sorted(record["layers"].items())),
            "threads": "1",
        }

    @property
    def batch(self) -> int:
        """The greatest batch size that one of its profiles is best at."""
        profiles = range(self._engine.num_optimization_profiles)
        return max(int(self._engine.get_tensor_profile_shape(self._input, index)[1][0]) for index in profiles)

    def prepare(self, batch: np.ndarray) -> None:
        self._buffers.close()
        self._choose_profile(len(batch))
        if not self._context.set_input_shape(self._input, tuple(batch.shape)):
            raise self._failed(f"does not take the shape {batch.shape}")
        self._source = self._buffer(self._input)
        self._target = self._buffer(self._output)
        self._source.host[:] = batch
        self._source.to_gpu(self._stream)
        for _ in range(2):  # the first allocates, and that must not be recorded
            self._enqueue()
        self._stream.wait()
        graph = Graph(self._stream, self._enqueue)
        self._buffers.callback(graph.close)
        self._launch: Callable[[], None] = lambda: graph.launch(self._stream)

    def run(self) -> dict[str, float]:
        begin, sent, computed, received = self._events
        begin.record(self._stream)
        self._source.to_gpu(self._stream)
        sent.record(self._stream)
        self._launch()
        computed.record(self._stream)
        self._target.to_host(self._stream)
        received.record(self._stream)
        self._stream.wait()
        return {
            "h2d": sent.seconds_since(begin),
            "compute": computed.seconds_since(sent),
            "d2h": received.seconds_since(computed),
        }

    def layers(self, runs: int) -> list[tuple[str, list[float]]]:
        """The engine's layers in order, each with its seconds in so many runs outside of the graph, once prepared."""
        profiler = _profiler(self._trt)
        self._context.profiler = profiler  # from now on a run reports its layers before it returns
        for _ in range(runs):
            self._enqueue()
        self._stream.wait()
        return list(profiler.seconds.items())

    def output(self) -> np.ndarray:
        return self._target.host.astype(np.float32)

    def close(self) -> None:
        self._buffers.close()
        self._resources.close()
        del self._context, self._engine

    def _own(self, thing: Any) -> Any:
        self._resources.callback(thing.close)
        return thing

    def _tensors(self) -> tuple[str, str]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        if len(inputs) != 1 or len(names) != 2:
            raise InputError(f"the engine has the tensors {names}: one input and one output can be timed here.")
        return inputs[0], next(name for name in names if name not in inputs)

    def _buffer(self, name: str) -> Buffer:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in TYPES:
            raise InputError(f"{name} is of type {kind}: an engine's input and output are float32 or float16 here.")
        buffer = Buffer(tuple(self._context.get_tensor_shape(name)), np.dtype(TYPES[kind]))
        self._buffers.callback(buffer.close)
        if not self._context.set_tensor_address(name, buffer.address):
            raise self._failed(f"does not take an address for {name}")
        return buffer

    def _choose_profile(self, size: int) -> None:
        """Switch to the profile made for the batch size, or for the nearest that takes it."""
        profiles = {}
        for index in range(self._engine.num_optimization_profiles):
            least, best, most = self._engine.get_tensor_profile_shape(self._input, index)
            profiles[index] = (least[0], best[0], most[0])
        fitting = [index for index, (least, _, most) in profiles.items() if least <= size <= most]
        if not fitting:
            made = ", ".join(f"{least}:{best}:{most}" for least, best, most in profiles.values())
            raise InputError(
                f"the engine takes batches of {made} and not of {size}: build it with "
                f"`mvp-deploy build … --batch {size}`."
            )
        index = min(fitting, key=lambda index: abs(profiles[index][1] - size))
        if not self._context.set_optimization_profile_async(index, self._stream.handle):
            raise self._failed(f"does not switch to its profile {index}")
        self._stream.wait()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise self._failed("does not run")

    def _failed(self, what: str) -> MvpError:
        why = "; ".join(self._log.errors[-3:]) or "TensorRT gives no reason"
        return EnvironmentMissing(f"the engine {what}: {why}.")


def _profiler(trt: Any) -> Any:
    """What TensorRT tells its layers' times to: they lie in ``seconds``, by name, in the order in which they ran."""

    class Times(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.seconds: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.seconds.setdefault(layer_name, []).append(ms / 1000)

    return Times()


def version(device: str) -> str:
    return probe(gpu_index(device)).version


def kernel_times(path: Path, batch: np.ndarray, *, runs: int, threads: int, device: str) -> list[tuple[str, float]]:
    """What each layer of an engine takes: its name and the lower quartile of its seconds, in order.

    From TensorRT's own profiler. It takes an event before and after each layer, and no CUDA graph: the sum is more
    than the whole model takes. The first run is left out, and other work can only lengthen the rest.
    """
    with closing(open_runner(path, threads=threads, device=device)) as runner:
        runner.prepare(batch)
        return [(name, float(np.percentile(values[1:], 25))) for name, values in runner.layers(runs + 1)]


def open_runner(path: Path, *, threads: int | None, device: str) -> EngineRunner:
    return EngineRunner(path, probe(gpu_index(device)))


def gpu_index(device: str) -> int:
    """The GPU's number in «auto», «cuda» or «cuda:N».

    Raises:
        MvpError: another device was asked for.
    """
    if not re.fullmatch(r"auto|cuda(:\d+)?", device):
        raise InputError(f"TensorRT runs on GPUs and --device is {device}: pass auto, cuda or cuda:N.")
    return int(device.partition(":")[2] or 0)
