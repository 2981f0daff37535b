"""The steps of a GPU session: each is kept as soon as it ends, and one that ended well is not taken again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
SAMPLED = Path(__file__).with_name("sampled.py")
COMMAND = "from mvp_deploy.cli import main; main()"
TELL = 2000  # characters of what a failed command printed


class Skipped(Exception):
    """A step that this machine cannot take; the message says why."""


@dataclass
class Session:
    """What was found so far, in ``file``.

    tensorrt: a shell file after which `python3.10` is a Python that has TensorRT; None if this Python has it.
    only: patterns of the names of the steps to take, as «lite2: fp16*»; none: all.
    limit: seconds for all steps of this call together.
    """

    file: Path
    device: str
    tensorrt: Path | None
    only: tuple[str, ...]
    limit: float
    about: dict[str, Any]
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        before = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.steps: dict[str, dict[str, Any]] = before.get("steps", {})

    @property
    def failed(self) -> list[str]:
        return [name for name, step in self.steps.items() if "error" in step]

    @property
    def gpu(self) -> bool:
        return self.device != "cpu"

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any] | None]:
        """A step's findings go into the dictionary; None if it is not to be taken, or ended well before.

        An error is kept and ends only this step.
        """
        asked = not self.only or any(fnmatch(name, pattern) for pattern in self.only)
        if not asked or (name in self.steps and not {"error", "skipped"} & self.steps[name].keys()):
            yield None
            return
        found: dict[str, Any] = {}
        self.steps[name] = found
        began = time.monotonic()
        print(f"{began - self.start:6.1f} s  {name}", flush=True)
        try:
            with Watch() if self.gpu else _Nothing() as watch:
                yield found
            found |= watch.found()
        except Skipped as reason:
            found["skipped"] = str(reason)
            print(f"          skipped: {reason}", flush=True)
        except Exception as error:  # whatever a step meets belongs into the record
            found["error"] = f"{type(error).__name__}: {error}"
            print(f"          failed: {found['error']}", flush=True)
        found["seconds"] = round(time.monotonic() - began, 1)
        whole = json.dumps({**self.about, "steps": self.steps}, indent=1, default=str)
        self.file.write_text(whole + "\n")

    def mvp(self, *arguments: object, engines: bool = False, expected: int | None = 0) -> Any:
        """What `mvp-deploy ARGUMENTS --json` prints; None if it prints nothing.

        Args:
            engines: run it by the Python that has TensorRT.
            expected: the exit code; None for any, and then it comes back along with what was said.
        """
        done = self.run("-c", COMMAND, *map(str, arguments), "--json", engines=engines)
        said = (done.stderr.strip() or done.stdout.strip())[-TELL:]
        if expected is None:
            return {"exit_code": done.returncode, "said": said}
        if done.returncode != expected:
            raise RuntimeError(f"`mvp-deploy {arguments[0]}` ended with {done.returncode}: {said}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def sampled(self, *arguments: object) -> dict[str, Any]:
        """What `mvp` gives, as ``run``, and ``where`` its seconds went, also if it did not come to its end."""
        file = self.file.with_name("sampled.json")
        file.unlink(missing_ok=True)
        told: dict[str, Any] = {}
        try:
            done = self.run(str(SAMPLED), str(file), *map(str, arguments), "--json")
            if done.returncode:
                raise RuntimeError(f"`mvp-deploy {arguments[0]}` ended with {done.returncode}: {done.stderr[-TELL:]}")
            told["run"] = json.loads(done.stdout)
        except RuntimeError as error:
            told["error"] = str(error)
        return told | ({"where": json.loads(file.read_text())} if file.is_file() else {})

    def run(self, *arguments: str, engines: bool = False, log: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A Python command's end; it may take what is left of the call's time.

        log: where its output goes as it comes; by default it is kept in what comes back.
        """
        command = [sys.executable, *arguments]
        path = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        if engines and self.tensorrt is not None:
            path = [str(REPOSITORY)]  # the other Python's packages are not for this one
            command = ["bash", "-c", 'source "$0" && exec python3.10 "$@"', str(self.tensorrt), *arguments]
        left = self.limit - (time.monotonic() - self.start)
        if left < 1:
            raise RuntimeError(f"not begun: the steps before took the {self.limit:.0f} s")
        surroundings = {**os.environ, "PYTHONPATH": ":".join(filter(None, path))}
        options: dict[str, Any] = {"env": surroundings, "text": True, "timeout": left, "cwd": REPOSITORY}
        if log is None:
            try:
                return subprocess.run(command, capture_output=True, check=False, **options)
            except subprocess.TimeoutExpired as late:  # how far it came is in what it said
                said = (late.stderr or late.stdout or b"").decode(errors="replace")[-TELL:]
                raise RuntimeError(f"not done after {left:.0f} s: {said}") from None
        with log.open("w", encoding="utf-8") as file:
            return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, **options)


class Watch:
    """Samples the GPU four times a second: its busy share, memory, clock and power."""

    QUERY = ("utilization.gpu", "memory.used", "clocks.sm", "power.draw")

    def __enter__(self) -> Watch:
        command = ["nvidia-smi", f"--query-gpu={','.join(self.QUERY)}", "--format=csv,noheader,nounits", "-lms", "250"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._output = self._process.communicate()[0]

    def found(self) -> dict[str, Any]:
        rows = [line.split(", ") for line in self._output.splitlines()]
        numbers = [[float(value) for value in row] for row in rows if len(row) == len(self.QUERY)]
        if not numbers:
            return {}
        busy, memory, clock, power = zip(*numbers, strict=True)
        return {
            "gpu_busy_percent": round(sum(busy) / len(busy), 1),
            "gpu_memory_peak_mib": max(memory),
            "sm_clock_mhz": [min(clock), max(clock)],
            "power_peak_watts": max(power),
        }


class _Nothing:
    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *error: object) -> None: ...

    def found(self) -> dict[str, Any]:
        return {}
