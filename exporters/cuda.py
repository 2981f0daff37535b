"""CUDA memory, streams, events and graphs by ctypes on the driver's own library; needs numpy alone.

The driver (libcuda) is there wherever a GPU works, and its binary interface is stable. The runtime library
(libcudart) is another one for CUDA 11, 12 and 13 and often absent: TensorRT's wheels carry theirs inside.
Both share a device's primary context, so streams and addresses from here are good for TensorRT.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from ctypes import byref, c_char, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mvp_deploy.exporters.errors import EnvironmentMissing, MvpError

_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_OWN_STREAM = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL_CAPTURE = 1  # other threads may go on allocating while a graph is captured


@dataclass(frozen=True)
class Gpu:
    """What tells one GPU from another, as far as an engine's validity and speed go."""

    name: str
    compute_capability: str  # «8.7»
    multiprocessors: int
    memory: int  # bytes
    cuda: str  # newest CUDA version the driver knows, «12.6»


def select(index: int = 0) -> Gpu:
    """Make GPU ``index`` the one that CUDA calls of this thread use, and say what it is.

    Raises:
        MvpError: (ENVIRONMENT) no driver, no such GPU, or the driver does not start.
    """
    driver = _driver()
    count = _value(c_int, driver.cuDeviceGetCount)
    if index >= count:
        raise EnvironmentMissing(
            f"GPU {index} was asked for and the NVIDIA driver sees {count}: check `nvidia-smi` and "
            "CUDA_VISIBLE_DEVICES.",
        )
    device = _value(c_int, driver.cuDeviceGet, index)
    name = (c_char * 256)()
    driver.cuDeviceGetName(name, len(name), device)
    major, minor, multiprocessors = (
        _value(c_int, driver.cuDeviceGetAttribute, what, device) for what in (*_COMPUTE_CAPABILITY, _MULTIPROCESSORS)
    )
    version = _value(c_int, driver.cuDriverGetVersion)
    context = _value(c_void_p, driver.cuDevicePrimaryCtxRetain, device)
    driver.cuCtxSetCurrent(c_void_p(context))
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        multiprocessors=multiprocessors,
        memory=_value(c_size_t, driver.cuDeviceTotalMem_v2, device),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
    )


def available() -> bool:
    """Whether this machine has a GPU that its driver can use."""
    try:
        select()
    except MvpError:
        return False
    return True


class Stream:
    """A queue of work on the GPU."""

    def __init__(self) -> None:
        self.handle: int = _value(c_void_p, _driver().cuStreamCreate, _OWN_STREAM)

    def wait(self) -> None:
        """Return when everything queued is done."""
        _driver().cuStreamSynchronize(c_void_p(self.handle))

    def close(self) -> None:
        _driver().cuStreamDestroy_v2(c_void_p(self.handle))


class Event:
    """A point in a stream, with the time when the GPU reached it."""

    def __init__(self) -> None:
        self._handle = c_void_p(_value(c_void_p, _driver().cuEventCreate, 0))

    def record(self, stream: Stream) -> None:
        _driver().cuEventRecord(self._handle, c_void_p(stream.handle))

    def seconds_since(self, earlier: Event) -> float:
        """Seconds between two events that the GPU has passed."""
        return 1e-3 * float(_value(c_float, _driver().cuEventElapsedTime, earlier._handle, self._handle))

    def close(self) -> None:
        _driver().cuEventDestroy_v2(self._handle)


class Buffer:
    """One array in pinned host memory (``host``) and its twin on the GPU (``address``)."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = max(int(np.prod(shape)) * dtype.itemsize, 1)
        self._pinned = c_void_p(_value(c_void_p, _driver().cuMemAllocHost_v2, c_size_t(size)))
        try:
            self.address: int = _value(c_ulonglong, _driver().cuMemAlloc_v2, c_size_t(size))
        except MvpError:
            _driver().cuMemFreeHost(self._pinned)
            raise
        memory: Any = (c_char * size).from_address(self._pinned.value or 0)
        self.host = np.frombuffer(memory, dtype, count=int(np.prod(shape))).reshape(shape)

    def to_gpu(self, stream: Stream) -> None:
        """Queue the copy from host to GPU."""
        _driver().cuMemcpyHtoDAsync_v2(
            c_ulonglong(self.address), self._pinned, c_size_t(self.host.nbytes), c_void_p(stream.handle)
        )

    def to_host(self, stream: Stream) -> None:
        """Queue the copy from GPU to host."""
        _driver().cuMemcpyDtoHAsync_v2(
            self._pinned, c_ulonglong(self.address), c_size_t(self.host.nbytes), c_void_p(stream.handle)
        )

    def close(self) -> None:
        del self.host
        _driver().cuMemFree_v2(c_ulonglong(self.address))
        _driver().cuMemFreeHost(self._pinned)


class Graph:
    """Work recorded once and started again with one call, which spares the CPU from launching each kernel."""

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        """Record what ``work`` queues on ``stream``.

        Raises:
            MvpError: (ENVIRONMENT) something in it cannot be recorded.
        """
        driver, handle = _driver(), c_void_p(stream.handle)
        driver.cuStreamBeginCapture_v2(handle, _THREAD_LOCAL_CAPTURE)
        try:
            work()
        except MvpError:
            with suppress(MvpError):  # the capture must end, whatever state it is in
                _value(c_void_p, driver.cuStreamEndCapture, before=(handle,))
            raise
        graph = c_void_p(_value(c_void_p, driver.cuStreamEndCapture, before=(handle,)))
        try:
            instance = _value(c_void_p, driver.cuGraphInstantiateWithFlags, graph, c_ulonglong(0))
        finally:
            driver.cuGraphDestroy(graph)
        self._handle = c_void_p(instance)

    def launch(self, stream: Stream) -> None:
        _driver().cuGraphLaunch(self._handle, c_void_p(stream.handle))

    def close(self) -> None:
        _driver().cuGraphExecDestroy(self._handle)


class _Driver:
    """The driver's functions; each raises a MvpError in place of returning an error code."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = getattr(self._library, name)

        def call(*arguments: Any) -> None:
            code = function(*arguments)
            if code:
                raise EnvironmentMissing(f"CUDA: {self._error(code)} in {name}.")

        setattr(self, name, call)
        return call

    def _error(self, code: int) -> str:
        name, text = c_char_p(), c_char_p()
        self._library.cuGetErrorName(c_int(code), byref(name))
        self._library.cuGetErrorString(c_int(code), byref(text))
        return f"{(name.value or b'error').decode()} ({(text.value or str(code).encode()).decode()})"


@cache
def _driver() -> _Driver:
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # load kernels when they are needed, as TensorRT advises
    driver = _Driver(_library())
    try:
        driver.cuInit(c_uint(0))
    except MvpError as error:
        message = f"the NVIDIA driver is there but does not start: {error} Check `nvidia-smi`."
        raise EnvironmentMissing(message) from None
    return driver


def _library() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise EnvironmentMissing(
            "no NVIDIA driver here (libcuda.so.1 is not found): this needs an NVIDIA GPU, so run it on a machine "
            "that has one.",
        ) from None


def _value(kind: type[Any], function: Callable[..., None], *after: Any, before: tuple[Any, ...] = ()) -> Any:
    """What a driver function returns through a pointer, its first argument after those in ``before``."""
    result = kind()
    function(*before, byref(result), *after)
    return result.value
