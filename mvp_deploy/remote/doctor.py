"""What a device has and lacks for our commands, with the line to run there. Nothing is installed or changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mvp_deploy.base.board import Board, State, differs
from mvp_deploy.base.errors import EnvironmentMissing
from mvp_deploy.base.findings import OLDEST_PYTHON, Finding, python
from mvp_deploy.base.formats import loads, parse
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.remote.command import call
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.session import CLOCK, NEEDED, ROOM, Hello, Session, session, span

LOOK = "look.json"
RUNTIMES = {"onnxruntime": "onnxruntime", "tensorrt": "tensorrt", "openvino": "openvino",
            "ai_edge_litert": "ai-edge-litert", "executorch": "executorch", "ncnn": "ncnn", "MNN": "MNN"}  # fmt: skip
PATIENCE = 5.0  # seconds for another look at the same machine
WORTH = 2**30  # bytes of free disk below which a bundle and its files may not fit


@dataclass(frozen=True)
class Look:
    """What the agent reads from a device's system."""

    board: Board
    state: State


def examine(name: str, device: Device, reporter: Reporter) -> list[Finding]:
    """Look at a device, but not while another run times there.

    Raises:
        MvpError: (DEVICE) it is away.
    """
    with session(name, device, reporter, alone=False) as there:
        findings = [*_machine(there.hello), *_packages(there.hello)]
        if any(finding.error(name) for finding in findings):
            return findings
        try:
            there.hold(PATIENCE)
        except EnvironmentMissing:
            return [*findings, Finding("lock", "ok", "another run holds it now; the board was left in peace")]
        return [*findings, *_board(_look(there), device)]


def _machine(hello: Hello) -> Iterator[Finding]:
    yield Finding("reached", "ok", f"{hello.machine}, {hello.executable}")
    yield python(hello.python, "install Python 3.10 or newer there, and set `python` in devices.yaml to it")
    free = f"{hello.free / 1e9:.1f} GB free in {hello.workdir}"
    if hello.free < ROOM:
        yield Finding("disk", "broken", free, "free some space there, or set another `workdir`", needed=True)
    else:
        little = hello.free < WORTH
        yield Finding("disk", "ok", free + (": little" if little else ""))
    if abs(hello.clock_off) > CLOCK:
        yield Finding("clock", "broken", span(hello.clock_off), "set it; results carry this machine's time")


def _packages(hello: Hello) -> Iterator[Finding]:
    if hello.python < OLDEST_PYTHON:
        return  # nothing is worth installing into it
    pip = f"{hello.executable} -m pip install"
    for package in NEEDED:
        state: Literal["ok", "missing"] = "ok" if package in hello.packages else "missing"
        cure = "" if state == "ok" else f"{pip} {package}"
        yield Finding(package, state, "every command needs it", cure, needed=True)
    there = [name for module, name in RUNTIMES.items() if module in hello.packages]
    if there:
        yield Finding("runtime", "ok", ", ".join(there), needed=True)
    else:
        yield Finding("runtime", "missing", "nothing runs a model", f"{pip} onnxruntime", needed=True)


def _look(there: Session) -> Look:
    there.send({})
    _, made = call(there, "_look", [], LOOK)
    return parse(Look, loads(there.content(*made[LOOK])))


def _board(look: Look, device: Device) -> Iterator[Finding]:
    board, state = look.board, look.state
    memory = "" if board.memory is None else f", {board.memory / 2**30:.1f} GiB"
    yield Finding("board", "ok", f"{board.model}{f', {board.soc}' if board.soc else ''}{memory}; {board.os}")
    for name, version in board.drivers.items():
        yield Finding(name, "ok", version)
    hot = max(state.temperatures.values(), default=None)
    told = [
        f"governor {', '.join(state.governors)}" if state.governors else "",
        f"power mode {state.power_mode}" if state.power_mode else "",
        f"{hot:.0f} °C" if hot is not None else "",
    ]
    yield Finding("state", "ok", ", ".join(filter(None, told)) or "the system tells no clocks and no temperatures")
    if state.held_back:
        yield Finding(
            "clocks", "broken", f"lowered now: {', '.join(state.held_back)}", "cool it, or give it more power"
        )
    for wrong in differs(device.power.model_dump(exclude_none=True), state):
        what, _, cure = wrong.partition(": ")
        yield Finding("power", "broken", what, cure, needed=True)
