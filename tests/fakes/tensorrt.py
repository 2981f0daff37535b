"""A stand-in for one version of TensorRT's Python bindings, made from what the real ones declare.

Names, enum members and parameters come from ``tests/exporters/tensorrt_api/<version>.json``. What a version
lacks raises AttributeError, also when set; wrong parameters raise TypeError; and a call that the stand-in has
no answer for (``fakes.behaviour``) raises NotImplementedError. ``calls`` keeps what was called.
"""

from __future__ import annotations

import inspect
import json
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from fakes import behaviour
from fakes.cuda import FakeCuda
from mvp_deploy.exporters import cuda

API = Path(__file__).parent.parent / "exporters" / "tensorrt_api"
VERSIONS = sorted((path.stem for path in API.glob("*.json")), key=lambda v: tuple(map(int, v.split("."))))


class FakeTensorRT(ModuleType):
    """The module ``tensorrt`` of one version, on one GPU."""

    def __init__(self, version: str, gpu: FakeCuda) -> None:
        super().__init__("tensorrt")
        described = json.loads((API / f"{version}.json").read_text())
        self.__version__: str = described["version"]
        self.gpu = gpu
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.parser_errors: list[tuple[int, str, str, str]] = []  # node number, operator, node name, what is wrong
        self.builder_errors: list[str] = []  # what the builder logs before it gives up
        self.ignores_precision = False  # builds float32 whatever is asked
        for name, what in described["classes"].items():
            made = IntEnum(name, what) if isinstance(what, dict) else _class(self, name, what)
            *outer, inner = name.split(".")
            setattr(getattr(self, outer[0]) if outer else self, inner, made)
        for severity in self.ILogger.Severity:
            setattr(self.ILogger, severity.name, severity)

    def called(self, name: str) -> list[dict[str, Any]]:
        """The arguments of each call of «Class.method»."""
        return [arguments for called, arguments in self.calls if called == name]


def install(version: str, gpu: FakeCuda | None = None) -> FakeTensorRT:
    """Put a stand-in in the place of the driver and of ``import tensorrt``; the fixture undoes both."""
    gpu = gpu or FakeCuda()
    cuda._driver.cache_clear()
    cuda._library = lambda: gpu
    trt = FakeTensorRT(version, gpu)
    sys.modules["tensorrt"] = trt
    return trt


def _class(trt: FakeTensorRT, name: str, described: list[str]) -> type:
    """A class with the members that the snapshot lists and no others."""
    calls: dict[str, list[inspect.Signature]] = {}
    attributes = set()
    for text in described:
        member, bracket, rest = text.partition("(")
        if bracket:
            calls.setdefault(member, []).append(_signature(rest.rstrip(")")))
        else:
            attributes.add(member)
    answers = getattr(behaviour, name, object)

    def set_attribute(self: Any, key: str, value: Any) -> None:
        if type(self) is made and key not in attributes and not key.startswith("_"):
            raise AttributeError(f"TensorRT {trt.__version__}: {name} has no attribute {key!r}")
        object.__setattr__(self, key, value)

    members: dict[str, Any] = {"_trt": trt, "__setattr__": set_attribute}
    for member, ways in calls.items():
        members[member] = _method(trt, name, member, ways, getattr(answers, member, None))
    for member in attributes - {"__init__"}:
        given = getattr(answers, member, None)
        members[member] = given if isinstance(given, property) else None
    if "__init__" not in calls and answers is object:
        members["__init__"] = _method(trt, name, "__init__", [], None)
    private = {k: v for k, v in vars(answers).items() if k.startswith("_") and k not in ("__dict__", "__weakref__")}
    made = type(name, (), {**private, **members})
    return made


def _method(trt: FakeTensorRT, kind: str, name: str, ways: list[inspect.Signature], answer: Any) -> Any:
    def method(self: Any, *positional: Any, **named: Any) -> Any:
        for way in ways:
            try:
                bound = way.bind(*positional, **named)
            except TypeError:
                continue
            trt.calls.append((f"{kind}.{name}", dict(bound.arguments)))
            if answer is None:
                raise NotImplementedError(f"the stand-in gives no answer for {kind}.{name}")
            return answer(self, *bound.args, **bound.kwargs)
        raise TypeError(f"TensorRT {trt.__version__}: {kind}.{name} takes {ways}, not {positional} {named}")

    return method


def _signature(text: str) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [name for name in text.split(", ") if name]
    optional = False
    parameters = []
    for name in names:
        optional = optional or name.endswith("=")
        default = None if optional else inspect.Parameter.empty
        parameters.append(inspect.Parameter(name.rstrip("="), kind, default=default))
    return inspect.Signature(parameters)
