"""What a benchmark times, and which runtime opens which file.

A runtime is a module ``mvp_deploy.benchmark.<runtime>`` with a function
``open_runner(path: Path, *, threads: int | None, device: str) -> Runner``, imported when it is asked for. Another
package adds one under the entry points ``mvp_deploy.runtimes``: the files' suffix without its dot = such a module.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from mvp_deploy.base.errors import EnvironmentMissing, InputError
from mvp_deploy.base.formats import plain_file, reading_errors

GROUP = "mvp_deploy.runtimes"
RUNTIMES = {  # the runtime a file is opened with unless another is asked for
    ".onnx": "onnxruntime",
    ".engine": "tensorrt",
    ".plan": "tensorrt",
    ".xml": "openvino",
    ".param": "ncnn",
    ".mnn": "mnn",
    ".mlpackage": "coreml",
    ".pte": "executorch",
    ".tflite": "litert",
    ".pt2": "torch_program",
    ".safetensors": "pytorch",
}
STAND_IN = "coreml_program"  # computes a Core ML program where Core ML does not run: to check it, never to time it


class Runner(Protocol):
    """One model, loaded into one runtime, ready to be timed."""

    @property
    def name(self) -> str:
        """The runtime and where it runs, as a table shows it: «onnxruntime CPU»."""

    @property
    def details(self) -> Mapping[str, str]:
        """The runtime's version, provider, device, threads: what a reader needs to repeat the measurement."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images the model takes."""

    def prepare(self, batch: np.ndarray) -> None:
        """Take float32 images [b, 3, H, W] as the input of every ``run`` from now on."""

    def run(self) -> Mapping[str, float] | None:
        """One inference, from the input in host memory to the output there, waiting for its end.

        May return parts of its time in seconds, measured by the runtime itself (``{"compute": 0.0012}``).
        """

    def output(self) -> np.ndarray:
        """The logits float32 [b, classes] of the last run."""

    def close(self) -> None:
        """Free what the runtime holds."""


def logits(runner: Runner, images: np.ndarray, batch_size: int) -> np.ndarray:
    """The logits [n, classes] of images [n, 3, H, W], in full batches: the last is filled up from the first."""
    order = np.arange(-(-len(images) // batch_size) * batch_size) % len(images)
    parts = []
    for start in range(0, len(order), batch_size):
        runner.prepare(np.ascontiguousarray(images[order[start : start + batch_size]]))
        runner.run()
        parts.append(runner.output().copy())
    return np.concatenate(parts)[: len(images)]


def runtime_of(path: Path) -> str:
    """The runtime for a file, by its suffix; a folder that holds a pruned model is opened by PyTorch."""
    suffix = ".safetensors" if (path / "pruned.safetensors").is_file() else path.suffix
    if suffix in RUNTIMES:
        return RUNTIMES[suffix]
    if suffix and entry_points(group=GROUP, name=suffix[1:]):
        return suffix[1:]
    raise InputError(f"{path} is not a model file that can be timed: give one of {', '.join(RUNTIMES)}, or a bundle.")


def runs_here(path: Path) -> bool:
    """Whether the file's own runtime exists for this system."""
    return path.suffix != ".mlpackage" or sys.platform == "darwin"


def require_cpu(device: str, runs: str) -> None:
    """Refuse any other device for what runs on the CPU alone; ``runs``: «LiteRT runs»."""
    if device.partition(":")[0] not in ("auto", "cpu"):
        raise EnvironmentMissing(f"{device} was asked for, and {runs} on the CPU here: pass --device cpu.")


def module_of(runtime: str) -> ModuleType:
    """The runtime's module, imported with all that it needs."""
    for entry in entry_points(group=GROUP, name=runtime) if runtime not in RUNTIMES.values() else ():
        module: ModuleType = entry.load()
        return module
    return import_module(f"mvp_deploy.benchmark.{runtime}")


def open_runner(path: Path, runtime: str | None = None, *, threads: int | None = None, device: str = "cpu") -> Runner:
    """Load the model file into ``runtime`` (None: by its suffix), with ``threads`` (None: one per core).

    Raises:
        MvpError: (INPUT) no such file, or no runtime opens it; (ENVIRONMENT) no such runtime or device.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}: check the path.")
    runtime = runtime or runtime_of(path)
    if not path.is_dir():  # a RUN is a folder, and so is an .mlpackage
        with reading_errors(path):
            plain_file(path)
    try:
        runner: Runner = module_of(runtime).open_runner(path, threads=threads, device=device)
    except ModuleNotFoundError as error:
        raise EnvironmentMissing(
            f"{path.name} needs {runtime}, and {error.name} is not installed: `{sys.executable} -m pip install "
            f"{error.name}`.",
        ) from error
    return runner
