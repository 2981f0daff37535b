"""What this machine can do, and the exact install line for what it can't."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from mvp_deploy.base.environment import cores, cpu_name
from mvp_deploy.base.findings import Finding, python
from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.errors import MvpError, first_line
from mvp_deploy.exporters.protocol import exporter

TORCH_WITH_CUDA = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cu130"
TRAIN = "pip install 'mvp-deploy[train]'"


def examine() -> list[Finding]:
    """Look at everything a command may need. Nothing that is broken here stops the rest from being looked at."""
    gpu = _gpu()
    has_gpu = gpu.state == "ok"
    return [
        Finding("machine", "ok", f"{cpu_name()}, {cores()} cores, {platform.system()} {platform.machine()}"),
        python(sys.version_info[:3]),
        gpu,
        _package("torch", lambda: _torch(has_gpu), "prune, export", TRAIN),
        _package("timm", _timm, "backbones", TRAIN),
        _package("onnx", lambda: None, "export", TRAIN),
        _package("onnxscript", lambda: None, "export", TRAIN),
        _onnxruntime(has_gpu),
        _target("openvino", "openvino"),
        _target("coreml", "coremltools"),
        _target("executorch", "executorch"),
        _target("litert", "litert-torch"),
        _target("mnn", "MNN"),
        _target("ncnn", "ncnn"),
        _tensorrt(gpu),
    ]


def _gpu() -> Finding:
    try:
        gpu = cuda.select()
    except MvpError as error:
        return Finding("NVIDIA GPU", "missing", str(error))
    memory = f"{gpu.memory / 2**30:.0f} GiB"
    return Finding("NVIDIA GPU", "ok", f"{gpu.name}, {memory}, driver for CUDA up to {gpu.cuda}")


def _package(name: str, check: Callable[[], Finding | None], use: str, cure: str) -> Finding:
    """A package by its version, and by ``check`` where being installed is not enough."""
    installed = _version(name)
    if installed is None:
        return Finding(name, "missing", f"needed for {use}", cure)
    try:
        return check() or Finding(name, "ok", installed)
    except Exception as error:  # a broken installation fails in whatever way it likes
        again = f"pip install --force-reinstall {name}"
        return Finding(name, "broken", f"{installed} cannot be imported: {first_line(error)}", again)


def _target(name: str, package: str) -> Finding:
    return _package(package, lambda: None, f"--target {name}", exporter(name).needs)


def _torch(has_gpu: bool) -> Finding:
    torch = import_module("torch")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("torch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda} on {names}")
    if has_gpu:
        return Finding("torch", "broken", f"{torch.__version__} does not see the GPU", TORCH_WITH_CUDA)
    return Finding("torch", "ok", f"{torch.__version__}, CPU only")


def _timm() -> None:
    from mvp_deploy.backbones.timm_import import timm

    timm()


def _onnxruntime(has_gpu: bool) -> Finding:
    cure = "pip install onnxruntime"
    found = _version("onnxruntime") or _version("onnxruntime-gpu")
    if found is None:
        return Finding("onnxruntime", "missing", "needed for export and bench", cure)
    try:
        providers = import_module("onnxruntime").get_available_providers()
    except Exception as error:  # as above
        return Finding("onnxruntime", "broken", f"{found} cannot be imported: {first_line(error)}", cure)
    detail = f"{found}: {', '.join(name.removesuffix('ExecutionProvider') for name in providers)}"
    if has_gpu and "CUDAExecutionProvider" not in providers:
        swap = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        return Finding("onnxruntime", "broken", f"{detail}; it cannot use the GPU", swap)
    return Finding("onnxruntime", "ok", detail)


def _tensorrt(gpu: Finding) -> Finding:
    """By its version alone: some of its calls end the process if there is no driver."""
    installed = _version("tensorrt")
    if gpu.state != "ok":
        has = f"{installed} is installed, but " if installed else ""
        return Finding("tensorrt", "missing", f"{has}there is no NVIDIA GPU to build or run engines on")
    if installed is None:
        return Finding("tensorrt", "missing", "needed for --target tensorrt and build", "pip install tensorrt")
    return Finding("tensorrt", "ok", installed)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
