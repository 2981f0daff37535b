"""Reading YAML within bounds: a file of 30 lines may else fill the memory (aliases of aliases), or hang."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mvp_deploy.base.errors import InputError, first_line
from mvp_deploy.base.formats import read_bytes

MAX_BYTES = 256 * 1024  # a task takes some 200
MAX_DEPTH = 20
MAX_NODES = 20_000  # keys and values, those that an alias repeats counted each time
MAX_LENGTH = 10_000  # characters of one key or value
LARGEST = 2**63  # of a whole number


class _Refused(yaml.MarkedYAMLError):
    """It is YAML, and more than is taken."""


class _Loader(yaml.SafeLoader):
    """yaml's safe loader, which ends where the bounds are passed: before anything is built of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.count = 0
        self.weights: dict[int, int] = {}  # nodes below each finished one, itself and what its aliases repeat included

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH:
            raise _stop(event, f"more than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent) and (what := _unfit(event.value)):
            raise _stop(event, what)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent) and id(node) not in self.weights:
            raise _stop(event, f"*{event.anchor} within what it stands for")
        if not isinstance(event, yaml.AliasEvent):
            self.weights[id(node)] = 1 + sum(self.weights[id(child)] for child in _children(node))
        if max(self.count, self.weights[id(node)]) > MAX_NODES:
            raise _stop(event, f"more than {MAX_NODES:,} keys and values, aliases counted each time")
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[object] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                raise _Refused(None, None, f"{key.value}: this key is there twice", key.start_mark)
            seen.add(name)
        return node


def read(path: Path, missing: str) -> tuple[yaml.Node | None, Any]:
    """The file's nodes (for the lines of its keys) and its values.

    Raises:
        MvpError: (INPUT) it is ``missing``, too large, or not YAML, with its line; (ENVIRONMENT) it cannot be read.
    """
    content = read_bytes(path, MAX_BYTES, missing)
    try:
        return parse(content.decode("utf-8-sig"))
    except NotYaml as error:
        where = "" if error.line is None else f", line {error.line}"
        raise InputError(f"{path}{where}: {error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is not text in UTF-8 ({error}).") from error


def parse(text: str) -> tuple[yaml.Node | None, Any]:
    """A text's nodes and values. Raises NotYaml."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        problem, mark = str(error.problem)[:200], error.problem_mark
        told = problem if isinstance(error, _Refused) else f"this is not YAML ({problem})"
        raise NotYaml(told, None if mark is None else mark.line + 1) from error
    except Exception as error:  # dates, numbers and tags without sense raise whatever they meet
        raise NotYaml(f"this is not YAML ({first_line(error)[:200]})", None) from error


def line_of(node: yaml.Node, where: Sequence[str | int]) -> int:
    """The line of the deepest key on the way that the file has."""
    line = node.start_mark.line
    for part in where:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1


def wrong(problem: Mapping[str, Any], known: Collection[str]) -> str:
    """What pydantic found wrong with a value or key: the rest of a sentence. known: the keys there are."""
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):  # of a model, of a dataclass
        key = str(problem["loc"][-1])
        close = difflib.get_close_matches(key, {*known} - {key}, n=1)  # it may be known elsewhere
        return "there is no such key" + (f"; did you mean {close[0]}?" if close else "")
    if problem["type"] == "missing":
        return "this key is missing"
    if problem["type"] in ("model_type", "dataclass_type", "dict_type"):
        return "there must be keys below it"
    message = problem["msg"].removeprefix("Value error, ")
    shown = f", not {repr(problem['input'])[:100]}" if isinstance(problem["input"], str | int | float) else ""
    return message[0].lower() + message[1:] + shown


class NotYaml(ValueError):
    """What is wrong with a text, and on which line (from 1) where that is known."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem)
        self.line = line


def _unfit(text: str) -> str | None:
    """Why a text is not taken as a key or value; None if it is."""
    if len(text) > MAX_LENGTH:
        return f"a value of more than {MAX_LENGTH:,} characters"
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        return "a character that no text has"
    return None


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    value = int(yaml.SafeLoader.construct_yaml_int(loader, node))
    if abs(value) >= LARGEST:
        raise _Refused(None, None, "this has too large a number", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_implicit_resolver(  # YAML 1.1 takes 1e-3 for a text (it wants 1.0e-3); people mean a number
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), [*"-+0123456789"]
)


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _stop(event: yaml.Event, problem: str) -> _Refused:
    return _Refused(None, None, f"this has {problem}", event.start_mark)
