"""kill -9 of commands at random moments, then check that nothing is broken or lost and that they finish.

    python benchmarks/kill/run.py [--kills 10] [--seed 0] [--only NAME...] [--out benchmarks/kill/result.json]

Every trial starts a command of `KINDS`, kills it after a time drawn between nothing and what a whole call takes, checks
what is left (`bank verify`, `bank list`, `verify`, the run, files of others), and starts it again, up to the end. Works
on the embedded digits. The result is written after each trial: stopped and called again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mvp_deploy import bundle, runs
from mvp_deploy.base.environment import cpu_name
from mvp_deploy.base.errors import MvpError

START = [sys.executable, "-c", "from mvp_deploy.cli import main; main()"]
SMALL = ["--keep", "0.4", "--batch-size", "16", "--steps", "40", "--device", "cpu"]
LONG = [*SMALL, "--rounds", "3", "--round-steps", "20"]
PAIRS = [f"digits#{a},{b}" for a in range(10) for b in range(a)]
OTHERS = ("index.html", "bundles/other/notes.txt")  # where runs publish, of somebody else


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*START, *arguments], capture_output=True, text=True)


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*START, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(*arguments: str) -> float:
    """Run to the end; the seconds it took."""
    begun = time.monotonic()
    done = call(*arguments)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return time.monotonic() - begun


def kill(after: float, process: subprocess.Popen[bytes]) -> bool:
    """Kill the command ``after`` seconds; False where it had ended before."""
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def told(*arguments: str) -> str | None:
    """What the command complains of."""
    done = call(*arguments)
    return done.stderr if done.returncode else None


def bank_broken(bank: Path, tasks: int) -> str | None:
    """Every task that was stored before is there, whole."""
    stored = len(json.loads(call("bank", "list", str(bank), "--json").stdout)["tasks"])
    return told("bank", "verify", str(bank)) or (None if stored >= tasks else f"{stored} tasks of {tasks} are left")


def run_broken(run: Path) -> str | None:
    """A run is whole, or says that it is not finished."""
    try:
        found = runs.load(run)
        found.pruned(), found.unpruned()
    except MvpError as error:
        return None if "not a finished run" in str(error) else str(error)
    return None


def bundles_broken(folder: Path) -> str | None:
    """Every bundle is whole."""
    wrong = [problem for path in folder.rglob("manifest.json") for problem in bundle.verify(path.parent)]
    return str(wrong) if wrong else None


def others_gone(folder: Path) -> str | None:
    """Other people's files stay."""
    if all((folder / name).read_text() == "somebody's" for name in OTHERS):
        return None
    return "a file of somebody else is gone"


@dataclass(frozen=True)
class Kind:
    """A command that is killed, anew for every trial's number."""

    command: Callable[[int], list[str]]
    broken: Callable[[int], str | None]
    beside: Callable[[int], list[str]] | None = None  # a second one, started with it and left to its end
    broken_in_the_end: Callable[[int], str | None] | None = None  # where a killed one may leave more undone


def bank_add(folder: Path) -> Kind:
    bank = folder / "bank"
    return Kind(lambda n: ["bank", "add", str(bank), *LONG, PAIRS[n]], lambda n: bank_broken(bank, n + 1))


def bank_build(folder: Path) -> Kind:
    build = ["bank", "build", str(folder / "bank"), "--macs", "0.5,0.4", "--device", "cpu", "--batch-size", "16"]
    return Kind(lambda n: [*build, "--steps", str(60 + n)], lambda n: bank_broken(folder / "bank", 1))


def prune(folder: Path, two: bool = False) -> Kind:
    def command(data: str) -> list[str]:
        return ["prune", data, "--bank", str(folder / "bank"), *SMALL, "--out", str(folder / "run")]

    beside = (lambda n: command(PAIRS[-1 - n])) if two else None
    return Kind(lambda n: command(PAIRS[n]), lambda n: run_broken(folder / "run"), beside)


def export(folder: Path, two: bool = False) -> Kind:
    def command(n: int) -> list[str]:
        return ["export", str(folder / "run"), "--out", str(folder / "bundle"), "--measure", ""]

    return Kind(command, lambda n: bundles_broken(folder), command if two else None)


def shrink(folder: Path) -> Kind:
    def command(n: int) -> list[str]:
        asked = ["--bank", str(folder / "bank"), "--macs", "0.5", "--measure", "", "--device", "cpu"]
        return ["shrink", PAIRS[n], *asked, "--out", str(folder / "small")]

    return Kind(command, lambda n: bundles_broken(folder / "small"))


def run(folder: Path, two: bool = False, url: bool = False) -> Kind:
    there = folder / "there"
    for name in OTHERS:
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text("somebody's")
    out = f"file://{there}" if url else str(there)

    def command(n: int, *only: str) -> list[str]:
        (folder / "deploy.yaml").write_text(
            f"bank: bank\nout: {out}\ndevice: cpu\nbudget: {{fraction: 0.5, of: units}}\n"
            f"training: {{steps: {20 + n}, batch_size: 16}}\n"  # new for each trial, so that it begins with pruning
            "benchmark: {batches: []}\ntasks:\n  ones: {data: 'digits#1,8'}\n  twos: {data: 'digits#2,3'}\n"
        )
        return ["run", str(folder / "deploy.yaml"), "-q", *only]

    def broken(n: int) -> str | None:
        return others_gone(there) or bundles_broken(there)

    beside = (lambda n: command(n, *(["--only", "twos"] if url else []))) if two else None
    if url:  # files of a URL are replaced one by one: `verify` refuses what is half there
        return Kind(command, lambda n: others_gone(there), beside, broken)
    return Kind(command, broken, beside)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "bank add": bank_add,
    "bank build": bank_build,
    "prune over an older run": prune,
    "two prune, one RUN": partial(prune, two=True),
    "export over an older bundle": export,
    "two export, one bundle": partial(export, two=True),
    "shrink over an older bundle": shrink,
    "run that publishes to a folder's URL": partial(run, url=True),
    "two run that publish to one URL": partial(run, two=True, url=True),
    "two run of one config": partial(run, two=True),
}


def trial(kind: Kind, number: int, after: float) -> dict[str, Any]:
    """Kill, check, finish, check."""
    process = start(kind.command(number))
    other = start(kind.beside(number)) if kind.beside else None  # either may come first
    died = kill(after, process)
    complaint = kind.broken(number)
    result: dict[str, Any] = {"killed_after_s": round(after, 2), "died": died}
    if other is not None:
        other.wait()
        complaint = complaint or kind.broken(number)
        result["other_exit_code"] = other.returncode  # 6 where it was told that the folder is in use
    done = call(*kind.command(number))
    result |= {
        "broken": complaint or (kind.broken_in_the_end or kind.broken)(number + 1),
        "finished": done.returncode == 0,
    }
    return result if not done.returncode else {**result, "said": done.stderr[-300:]}


def trials(kind: Kind, kills: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    whole = finish(*kind.command(0))
    for number in range(1, kills + 1):
        yield {"whole_call_s": round(whole, 1), **trial(kind, number, draw.uniform(0, whole))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "result.json")
    options = parser.parse_args()
    conditions = {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "timm", "safetensors", "filelock", "fsspec")}
        | {"python": platform.python_version()},
        "seed": options.seed,
    }
    found = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    done = found.get("trials", {}) if found.get("seed") == options.seed else {}
    with tempfile.TemporaryDirectory() as name:
        first = Path(name, "first")
        finish("bank", "init", str(first / "bank"), "--backbone", "test_resnet", "--image-size", "32")
        finish("bank", "add", str(first / "bank"), *LONG, PAIRS[-1])
        finish("prune", PAIRS[-2], "--bank", str(first / "bank"), *SMALL, "--out", str(first / "run"))
        for kind in options.only:
            left = options.kills - len(done.setdefault(kind, []))
            if left <= 0:
                continue
            folder = Path(shutil.copytree(first, Path(name, str(list(KINDS).index(kind)))))
            for result in trials(KINDS[kind](folder), left, random.Random(f"{options.seed} {kind} {len(done[kind])}")):
                print(kind, result, flush=True)
                done[kind].append(result)
                options.out.write_text(json.dumps({**conditions, "trials": done}, indent=2) + "\n", encoding="utf-8")
    rows = [row for kind in done.values() for row in kind]
    if bad := [row for row in rows if row["broken"] or not row["finished"]]:
        sys.exit(f"{len(bad)} of {len(rows)} trials went wrong")
    print(f"{len(rows)} kills: nothing broken or lost, every command finished when run again")


if __name__ == "__main__":
    main()
