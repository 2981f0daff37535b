"""A stand-in for libcuda.so.1: its memory is the host's, its streams run at once, its graphs replay."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import memmove, string_at
from typing import Any

OUT_OF_MEMORY, NOT_PERMITTED, INVALID_DEVICE = 2, 800, 101
NAMES = {
    OUT_OF_MEMORY: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    NOT_PERMITTED: ("CUDA_ERROR_NOT_PERMITTED", "operation not permitted"),
    INVALID_DEVICE: ("CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    100: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
}


class FakeCuda:
    """Pass it where ``exporters.cuda`` loads the driver's library. Every function returns an error code."""

    def __init__(self, name: str = "Orin", compute: tuple[int, int] = (8, 7), multiprocessors: int = 16) -> None:
        self.name, self.attributes = name, {75: compute[0], 76: compute[1], 16: multiprocessors}
        self.init_code = 0
        self.count = 1
        self.memory = 8 << 30  # bytes that may be allocated
        self.device: dict[int, Any] = {}  # live device memory by address
        self.pinned: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.events: dict[int, float | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: tuple[int, list[Callable[[], None]]] | None = None
        self.current: int | None = None  # the context that calls use
        self.clock = 0.0  # milliseconds; each piece of work takes one
        self.launches = 0
        self._next = 0x1000

    @property
    def leaks(self) -> int:
        """Everything not given back."""
        return sum(map(len, (self.device, self.pinned, self.streams, self.events, self.graphs)))

    def work(self, stream: Any, do: Callable[[], None]) -> int:
        """Queue work: it runs at once, or is recorded when the stream is being captured."""
        if _value(stream) not in self.streams:
            return 400
        if self.capturing is not None and self.capturing[0] == _value(stream):
            self.capturing[1].append(do)
        else:
            self.clock += 1
            do()
        return 0

    def cuInit(self, flags: Any) -> int:
        return self.init_code

    def cuGetErrorName(self, code: Any, out: Any) -> int:
        out._obj.value = NAMES.get(_value(code), ("CUDA_ERROR", ""))[0].encode()
        return 0

    def cuGetErrorString(self, code: Any, out: Any) -> int:
        out._obj.value = NAMES.get(_value(code), ("", "something"))[1].encode()
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:
        return _give(out, 12060)

    def cuDeviceGetCount(self, out: Any) -> int:
        return _give(out, self.count)

    def cuDeviceGet(self, out: Any, index: int) -> int:
        return _give(out, index)

    def cuDeviceGetName(self, out: Any, length: int, device: int) -> int:
        out.value = self.name.encode()
        return 0

    def cuDeviceGetAttribute(self, out: Any, what: int, device: int) -> int:
        return _give(out, self.attributes[what])

    def cuDeviceTotalMem_v2(self, out: Any, device: int) -> int:
        return _give(out, self.memory)

    def cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> int:
        return _give(out, 0xC0 + device)

    def cuCtxSetCurrent(self, context: Any) -> int:
        self.current = _value(context)
        return 0

    def cuMemAlloc_v2(self, out: Any, size: Any) -> int:
        if _value(size) + sum(len(buffer) for buffer in self.device.values()) > self.memory:
            return OUT_OF_MEMORY
        return self._allocate(self.device, out, size)

    def cuMemFree_v2(self, address: Any) -> int:
        del self.device[_value(address)]
        return 0

    def cuMemAllocHost_v2(self, out: Any, size: Any) -> int:
        return self._allocate(self.pinned, out, size)

    def cuMemFreeHost(self, address: Any) -> int:
        del self.pinned[_value(address)]
        return 0

    def cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        target, source, size = map(_value, (target, source, size))
        assert target in self.device
        assert source in self.pinned
        assert size <= len(self.device[target])
        return self.work(stream, lambda: _copy(target, source, size))

    def cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        target, source, size = map(_value, (target, source, size))
        assert target in self.pinned
        assert source in self.device
        return self.work(stream, lambda: _copy(target, source, size))

    def cuStreamCreate(self, out: Any, flags: int) -> int:
        self.streams.add(self._handle())
        return _give(out, self._next)

    def cuStreamDestroy_v2(self, stream: Any) -> int:
        self.streams.remove(_value(stream))
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:
        return 0 if self.capturing is None else NOT_PERMITTED

    def cuEventCreate(self, out: Any, flags: int) -> int:
        self.events[self._handle()] = None
        return _give(out, self._next)

    def cuEventDestroy_v2(self, event: Any) -> int:
        del self.events[_value(event)]
        return 0

    def cuEventRecord(self, event: Any, stream: Any) -> int:
        self.events[_value(event)] = self.clock
        return 0

    def cuEventElapsedTime(self, out: Any, start: Any, end: Any) -> int:
        began, ended = self.events[_value(start)], self.events[_value(end)]
        assert began is not None
        assert ended is not None
        return _give(out, ended - began)

    def cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> int:
        self.capturing = (_value(stream), [])
        return 0

    def cuStreamEndCapture(self, stream: Any, out: Any) -> int:
        assert self.capturing is not None
        self.graphs[self._handle()] = self.capturing[1]
        self.capturing = None
        return _give(out, self._next)

    def cuGraphInstantiateWithFlags(self, out: Any, graph: Any, flags: Any) -> int:
        self.graphs[self._handle()] = self.graphs[_value(graph)]
        return _give(out, self._next)

    def cuGraphDestroy(self, graph: Any) -> int:
        del self.graphs[_value(graph)]
        return 0

    cuGraphExecDestroy = cuGraphDestroy

    def cuGraphLaunch(self, graph: Any, stream: Any) -> int:
        self.launches += 1
        for do in self.graphs[_value(graph)]:
            self.work(stream, do)
        return 0

    def _handle(self) -> int:
        self._next += 1
        return self._next

    def _allocate(self, where: dict[int, Any], out: Any, size: Any) -> int:
        buffer = ctypes.create_string_buffer(b"\xff" * _value(size), _value(size))  # not zeros: nobody may rely on it
        where[ctypes.addressof(buffer)] = buffer
        return _give(out, ctypes.addressof(buffer))


def _value(argument: Any) -> Any:
    return getattr(argument, "value", argument)


def _give(out: Any, value: Any) -> int:
    out._obj.value = value
    return 0


def _copy(target: int, source: int, size: int) -> None:
    memmove(target, string_at(source, size), size)
