"""What the stand-in TensorRT answers: one class for each of TensorRT's, with the methods that are called.

An engine is JSON with the ONNX file inside; running it runs that file in ONNX Runtime, so outputs, shapes and
addresses are real. Which methods exist, and with which parameters, the version's snapshot decides.
"""

from __future__ import annotations

import base64
import ctypes
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mvp_deploy.exporters.opset import fields

TIMING = b"timing"  # how a timing cache of the stand-in begins, followed by the version it is of


class Builder:
    def __init__(self, logger: Any) -> None:
        if self._trt.gpu.current is None:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        assert isinstance(logger, self._trt.ILogger)
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        return _new(self._trt.INetworkDefinition, _flags=flags or 0, _onnx=None)

    def create_builder_config(self) -> Any:
        flags = {self._trt.BuilderFlag.TF32}
        names_only = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        config = _new(self._trt.IBuilderConfig, _flags=flags, _profiles=[], _cache=None, profiling_verbosity=names_only)
        return config

    def create_optimization_profile(self) -> Any:
        return _new(self._trt.IOptimizationProfile, _shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        for message in self._trt.builder_errors:
            self._logger.log(self._trt.ILogger.ERROR, message)
        if self._trt.builder_errors or network._onnx is None:
            return None
        shape = onnxruntime.InferenceSession(network._onnx).get_inputs()[0].shape
        if not isinstance(shape[0], int) and not config._profiles:
            self._logger.log(self._trt.ILogger.ERROR, "4: no optimization profile has been defined")
            return None
        if config._cache is not None:
            config._cache._kernels.add(f"{zlib.crc32(network._onnx):08x}")
        return _memory(self._trt, _plan(self._trt, network, config))


class INetworkDefinition:
    num_inputs = property(lambda self: len(self._session.get_inputs()))

    @property
    def _session(self) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self._onnx)

    def get_input(self, index: int) -> Any:
        tensor = self._session.get_inputs()[index]
        shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
        return _new(self._trt.ITensor, name=tensor.name, shape=shape)


class OnnxParser:
    num_errors = property(lambda self: len(self._trt.parser_errors))

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger

    def parse_from_file(self, model: str) -> bool:
        trt = self._trt
        explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        if explicit is not None and not self._network._flags >> int(explicit) & 1:
            self._logger.log(trt.ILogger.ERROR, "the network must have an explicit batch dimension")
            return False
        for number, operator, name, why in trt.parser_errors:
            for line in (
                f'While parsing node number {number} [{operator} -> "{name}_out"]:',
                "--- Begin node ---",
                f'name: "{name}"',
                "--- End node ---",
                f"ERROR: importer.cpp:1 In function parse:\n[8] {why}",
            ):
                self._logger.log(trt.ILogger.ERROR, f"ModelImporter.cpp:726: {line}")
        if not trt.parser_errors:
            self._network._onnx = Path(model).read_bytes()
        return not trt.parser_errors

    def get_error(self, index: int) -> Any:
        return _new(self._trt.ParserError, _error=self._trt.parser_errors[index])


class ParserError:
    def node(self) -> int:
        return self._error[0]

    def node_operator(self) -> str:
        return self._error[1]

    def node_name(self) -> str:
        return self._error[2]

    def desc(self) -> str:
        return self._error[3]


class IBuilderConfig:
    def set_flag(self, flag: Any) -> None:
        assert isinstance(flag, self._trt.BuilderFlag)
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert isinstance(pool, self._trt.MemoryPoolType)
        assert pool_size > 0

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        kernels = set()
        if serialized_timing_cache:
            begin, version, *kernels = bytes(serialized_timing_cache).decode(errors="replace").split("\n")
            if begin.encode() != TIMING or version != self._trt.__version__:
                return None
        return _new(self._trt.ITimingCache, _kernels=set(kernels))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class ITimingCache:
    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._kernels |= input_cache._kernels
        return True

    def serialize(self) -> Any:
        lines = [TIMING.decode(), self._trt.__version__, *sorted(self._kernels)]
        return _memory(self._trt, "\n".join(lines).encode())


class IOptimizationProfile:
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class IHostMemory:
    nbytes = property(lambda self: len(self._content))

    def __bytes__(self) -> bytes:
        return self._content


class IProfiler:
    def __init__(self) -> None: ...

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError("a profiler says what it does with times")


class ILogger:
    def __init__(self) -> None: ...

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError("a logger says what it does with messages")


class Runtime:
    def __init__(self, logger: Any) -> None:
        if self._trt.gpu.current is None:
            raise SystemExit(139)  # the real one ends the process with a segmentation fault
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        try:
            plan = json.loads(serialized_engine)
        except ValueError:
            self._logger.log(self._trt.ILogger.ERROR, "1: Serialization assertion failed. magicTag does not match")
            return None
        if plan["version_compatible"] and not getattr(self, "engine_host_code_allowed", False):
            self._logger.log(self._trt.ILogger.ERROR, "engine host code is not allowed")
            return None
        session = onnxruntime.InferenceSession(base64.b64decode(plan["onnx"]))
        return _new(self._trt.ICudaEngine, _plan=plan, _session=session)


class ICudaEngine:
    num_io_tensors = property(lambda self: len(self._tensors))
    num_optimization_profiles = property(lambda self: max(len(self._plan["profiles"]), 1))

    @property
    def _tensors(self) -> dict[str, Any]:
        return {each.name: each for each in (*self._session.get_inputs(), *self._session.get_outputs())}

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name == self._session.get_inputs()[0].name else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType.FLOAT if "float)" in self._tensors[name].type else self._trt.DataType.HALF

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        if not self._plan["profiles"]:
            return [self.get_tensor_shape(name)] * 3
        return [tuple(shape) for shape in self._plan["profiles"][profile_index]]

    def create_execution_context(self, strategy: Any = None) -> Any:
        return _new(self._trt.IExecutionContext, _engine=self, _profile=0, _shape=None, _addresses={}, _warm=False)

    def create_engine_inspector(self) -> Any:
        return _new(self._trt.EngineInspector, _plan=self._plan)


class EngineInspector:
    def get_engine_information(self, format: Any) -> str:
        assert format == self._trt.LayerInformationFormat.JSON
        later = not hasattr(self._trt.BuilderFlag, "FP16")  # 11 split one field in two and renamed the list
        ends = {"I/O Tensors" if later else "Bindings": ["input", "logits"]}
        if not self._plan["detailed"]:
            return json.dumps({"Layers": ["conv1", "fc"], **ends})
        kind = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}

        def tensor(precision: str) -> dict[str, str]:
            if later:
                return {"Name": "x", "Format": "kLINEAR", "Datatype": kind[precision]}
            return {"Name": "x", "Format/Datatype": f"Row major linear {kind[precision]} format"}

        layers = [
            {"Name": "in", "LayerType": "Reformat", "Inputs": [tensor("fp32")], "Outputs": [tensor("fp16")]},
            *(
                {
                    "Name": "conv",
                    "LayerType": "CaskConvolution",
                    "Inputs": [tensor(each)],
                    "Outputs": [tensor(each)],
                }
                for each in self._plan["precisions"]
            ),
        ]
        return json.dumps({"Layers": layers, **ends})


class IExecutionContext:
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile, self._shape = profile_index, None
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: Any) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shape, self._warm = tuple(shape), False
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._shape is not None
        return (self._shape[0], *self._engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory in self._trt.gpu.device

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu, session = self._trt.gpu, self._engine._session
        if self._shape is None or set(self._addresses) != set(self._engine._tensors):
            return False
        if gpu.capturing is not None and not self._warm:
            return False  # the first run after a change of shape allocates, which cannot be captured
        self._warm = True
        source, target = session.get_inputs()[0], session.get_outputs()[0]

        def run() -> None:
            images = _view(gpu, self._addresses[source.name], self._shape)
            result = session.run(None, {source.name: images})[0]
            _view(gpu, self._addresses[target.name], result.shape)[:] = result

        if self.profiler is not None:
            assert gpu.capturing is None  # the real one waits for its events, which a graph cannot
            for name in _layers(base64.b64decode(self._engine._plan["onnx"])):
                self.profiler.report_layer_time(name, 1.0)
        return gpu.work(stream_handle, run) == 0


def _layers(onnx: bytes) -> list[str]:
    """An engine's layers as TensorRT 8 names them: by their nodes, element-wise ones fused with what is before."""
    layers = ["Reformatting CopyNode for Input Tensor 0 to "]
    (graph,) = (value for field, value in fields(onnx) if field == 7)
    for node in (dict(fields(value)) for field, value in fields(graph) if field == 1):
        name, kind = node[3].decode(), node[4].decode()
        if kind in ("Add", "Clip", "Relu"):
            layers[-1] += f" + {name}"
        else:
            layers.append(f"PWN({name})" if kind in ("Mul", "Sigmoid") else name)
    layers[0] += layers[1].split()[0]
    return layers


def _new(kind: type, **state: Any) -> Any:
    """An object of a class that the bindings do not let users construct."""
    made = kind.__new__(kind)
    for name, value in state.items():
        setattr(made, name, value)
    return made


def _memory(trt: Any, content: bytes) -> Any:
    return _new(trt.IHostMemory, _content=content)


def _plan(trt: Any, network: Any, config: Any) -> bytes:
    flags = trt.BuilderFlag
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if not hasattr(flags, "FP16") or (typed is not None and network._flags >> int(typed) & 1):
        precisions = _types(network._onnx)
    else:
        lower = [("int8", "INT8"), ("fp16", "FP16")]
        quantized = b"DequantizeLinear" in network._onnx
        precisions = [p for p, flag in lower if getattr(flags, flag) in config._flags and (p != "int8" or quantized)]
        precisions.append("fp32")
    content = {
        "version": trt.__version__,
        "onnx": base64.b64encode(network._onnx).decode(),
        "precisions": ["fp32"] if trt.ignores_precision else precisions,
        "detailed": config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED,
        "version_compatible": any(flag.name == "VERSION_COMPATIBLE" for flag in config._flags),
        "profiles": [next(iter(profile._shapes.values())) for profile in config._profiles],
    }
    return json.dumps(content).encode()


def _types(onnx: bytes) -> list[str]:
    """The precisions that a graph's own types ask for: its weights' types, and int8 where it dequantizes."""
    graph = dict(fields(onnx))[7]
    kinds = {dict(fields(value)).get(2) for field, value in fields(graph) if field == 5}  # initializer.data_type
    found = ["int8"] * (b"DequantizeLinear" in onnx) + ["fp16"] * (10 in kinds) + ["fp32"] * (1 in kinds)
    return found


def _view(gpu: Any, address: int, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * 4
    assert size <= len(gpu.device[address])
    memory: Any = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(memory, np.float32).reshape(shape)
