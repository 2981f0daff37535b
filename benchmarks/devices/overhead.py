"""What `bench --on` costs beyond the measuring itself: seconds by step, requests, and bytes over ssh.

Each time the same `bench` runs over ssh to a server on the loopback, and without ssh in the device's own Python. The
first run over ssh finds an empty device, the others one that has everything. Bytes are those that go into ssh and come
out of it. Seconds mean something only if nothing else runs: `others` has the cores that other processes kept busy,
just before.

    python benchmarks/devices/overhead.py --out benchmarks/devices/overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import loopback  # noqa: E402
from samples import make_bundle  # noqa: E402

from mvp_deploy.base.environment import environment, other_work  # noqa: E402
from mvp_deploy.base.reporter import Silent  # noqa: E402
from mvp_deploy.remote.connection import Connection  # noqa: E402
from mvp_deploy.remote.inventory import Device  # noqa: E402
from mvp_deploy.remote.measured import keep, measure  # noqa: E402

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
WIDTHS = 372_000, 93_000  # 45 MB of weights and a quarter of that
BENCH = ("--duration", "1", "--precision", "fp32", "--threads", "1")
DIRECT = "import sys; sys.path[0] = sys.argv.pop(1); from mvp_deploy.cli import main; main()"


class Count:
    """What goes over one connection."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.requests: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __enter__(self) -> Count:
        write, begin, ask, read = Connection._write, Connection.begin, Connection.ask, os.read
        start = Connection.__init__

        def counting_write(line: Connection, data: bytes) -> None:
            self.sent += len(data)
            write(line, data)

        def counting_read(file: int, most: int) -> bytes:
            found = read(file, most)
            self.received += len(found)
            return found

        def timed_ask(line: Connection, do: str, *rest, **named):
            self.requests[do] += 1
            with self.step(do):
                return ask(line, do, *rest, **named)

        def timed_start(line: Connection, *rest) -> None:
            with self.step("start ssh"):
                start(line, *rest)

        def timed_begin(line: Connection) -> None:
            with self.step("log in"):
                begin(line)

        self.patches = [
            patch.object(Connection, "_write", counting_write),
            patch.object(Connection, "ask", timed_ask),
            patch.object(Connection, "__init__", timed_start),
            patch.object(Connection, "begin", timed_begin),
            patch("mvp_deploy.remote.connection.os.read", counting_read),
        ]
        for each in self.patches:
            each.start()
        return self

    def __exit__(self, *error: object) -> None:
        for each in self.patches:
            each.stop()

    def step(self, name: str) -> Step:
        return Step(self, name)


class Step:
    def __init__(self, count: Count, name: str) -> None:
        self.count, self.name = count, name

    def __enter__(self) -> None:
        self.begin = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.count.seconds[self.name] += time.perf_counter() - self.begin


def over_ssh(device: Device, bundle: Path) -> dict[str, object]:
    start = time.perf_counter()
    with Count() as count:
        measured, error = measure("pi", device, bundle, BENCH, Silent())
        with count.step("keep in the bundle"):
            keep(bundle, {"pi": measured}, None)
    if error:
        raise error
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 3),
        "seconds_but_the_command": round(seconds - count.seconds["run"], 3),
        "bytes": count.sent + count.received,
        "sent": count.sent,
        "received": count.received,
        "requests": dict(count.requests),
        "steps": {name: round(seconds, 3) for name, seconds in count.seconds.items()},
    }


def direct(machine: loopback.Machine, bundle: Path) -> float:
    """Seconds of the same command there, without ssh."""
    program = next((machine.workdir / "runtime").iterdir())
    call = [machine.python, "-c", DIRECT, program, "bench", bundle, *BENCH, "--json"]
    start = time.perf_counter()
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    return round(time.perf_counter() - start, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="To measure with.  [default: one as large as a ResNet-18's]")
    parser.add_argument("--python", type=Path, help="The device's.  [default: this one, with its runtime alone]")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        bundle = (
            shutil.copytree(asked.bundle, folder / "bundle")
            if asked.bundle
            else make_bundle(folder / "bundle", widths=WIDTHS)
        )
        (folder / "keys").mkdir()
        keys = loopback.Keys.make(folder / "keys")
        os.environ["PATH"] = f"{folder / 'keys' / 'bin'}:{os.environ['PATH']}"
        python = asked.python or loopback.python_with(folder / "python", "numpy", "click", "onnxruntime")
        runs, alone = [], []
        with other_work() as others:
            time.sleep(2.0)
        with loopback.serving(folder / "machine", keys, python) as machine:
            device = Device.model_validate(machine.entry)
            for _ in range(asked.repeats + 1):
                runs.append(over_ssh(device, bundle))
                alone.append(direct(machine, bundle))
        first, *later = runs
        found = {
            "environment": environment(),
            "device_python": subprocess.run([python, "-V"], capture_output=True, text=True).stdout.strip(),
            "bundle_bytes": sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()),
            "share_of_bytes_moved_again": round(max(run["bytes"] for run in later) / first["bytes"], 6),
            "seconds_but_the_command": {
                "first": first["seconds_but_the_command"],
                "later": median(run["seconds_but_the_command"] for run in later),
            },
            "overhead_seconds": {
                "first": round(first["seconds"] - alone[0], 3),
                "later": round(median(run["seconds"] - each for run, each in zip(later, alone[1:], strict=True)), 3),
            },
            "others": others,
            "runs": runs,
            "seconds_without_ssh": alone,
        }
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    told = ("share_of_bytes_moved_again", "seconds_but_the_command", "overhead_seconds", "others")
    print(json.dumps({key: found[key] for key in told}))


if __name__ == "__main__":
    main()
