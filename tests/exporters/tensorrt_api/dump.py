"""python dump.py: writes <version>.json beside itself, the API of the TensorRT bindings that import here.

Run once for each version to pin, in its own environment (for Python 3.10 there are all: tensorrt==8.5.3.1 and
8.6.0, tensorrt_cu12_bindings==10.3.0, 10.16.1.11 and 11.4.0.106, with --no-deps). Importing them needs no GPU
but libraries to link with: libnvinfer, libnvinfer_plugin and libnvonnxparser (.so.8, .so.10 or .so.11). Where
a wheel brings none, or ones that need cuBLAS, stand-ins will do, compiled from one empty C function for each
name that `nm -D --undefined-only tensorrt.so` lists as create…, get… or init….
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
from pathlib import Path
from typing import Any

CLASSES = (
    "Builder", "BuilderFlag", "DataType", "EngineInspector", "HardwareCompatibilityLevel", "IBuilderConfig",
    "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger", "ILogger.Severity", "INetworkDefinition",
    "IOptimizationProfile", "IProfiler", "ITensor", "ITimingCache", "LayerInformationFormat", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "ProfilingVerbosity", "Runtime",
    "TensorIOMode",
)  # fmt: skip


def signatures(name: str, thing: object) -> list[str]:
    """«name(first, second=)» for each way to call a bound function; «name» for an attribute."""
    calls = rf"^(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> |$)"
    found = re.findall(calls, inspect.getdoc(thing) or "", re.MULTILINE)
    return [f"{name}({', '.join(parameters(text))})" for text in found if text != "*args, **kwargs"] or [name]


def parameters(text: str) -> list[str]:
    """Parameter names without ``self``; those with a default end in «=»."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    names = [part.split(":")[0].strip() + ("=" if " = " in part else "") for part in parts if part.strip()]
    return names[1:] if names[:1] == ["self"] else names


def describe(kind: type) -> Any:
    """An enum's members with their values, or a class's attributes and the ways to call its methods."""
    if hasattr(kind, "__members__"):
        return {name: int(value) for name, value in kind.__members__.items()}
    skipped = ("_", "add_") if kind.__name__ == "INetworkDefinition" else "_"  # its 60 kinds of layers
    names = ["__init__", *(name for name in dir(kind) if not name.startswith(skipped))]
    return [text for name in names for text in signatures(name, getattr(kind, name))]


def main() -> None:
    module = next(name for name in ("tensorrt", "tensorrt_bindings") if importlib.util.find_spec(name))
    trt = importlib.import_module(module)
    found: dict[str, Any] = {}
    for name in CLASSES:
        thing: Any = trt
        for part in name.split("."):
            thing = getattr(thing, part, None)
        if thing is not None:
            found[name] = describe(thing)
    lines = [f"{json.dumps(name)}: {json.dumps(what)}" for name, what in found.items()]
    content = f'{{"version": {json.dumps(trt.__version__)}, "classes": {{\n' + ",\n".join(lines) + "\n}}\n"
    Path(__file__).with_name(f"{trt.__version__}.json").write_text(content)


if __name__ == "__main__":
    main()
