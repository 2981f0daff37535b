"""kill -9 of commands at random moments, then check that nothing is broken or lost and that they finish.

    python benchmarks/kill/run.py [--kills 10] [--seed 0] [--out benchmarks/kill/result.json]

Of `bank add`, `prune` over an older run, one of two `prune` at work on one RUN, `export` over an older bundle, and
`run` that publishes to a URL. Every trial starts the command, kills it after a time drawn between nothing and what a
whole call takes, checks what is left (`bank verify`, `bank list`, `verify`, the run, files of others), and starts it
again, up to the end. Works on the embedded digits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mvp_deploy import bundle, runs
from mvp_deploy.base.environment import cpu_name
from mvp_deploy.base.errors import MvpError

START = [sys.executable, "-c", "from mvp_deploy.cli import main; main()"]
SMALL = ["--keep", "0.4", "--batch-size", "16", "--steps", "40", "--device", "cpu"]
LONG = [*SMALL, "--rounds", "3", "--round-steps", "20"]
OTHERS = ("index.html", "bundles/other/notes.txt")  # where the run publishes, of somebody else
states = {"whole": 0, "refused": 0}  # published bundles after a kill


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*START, *arguments], capture_output=True, text=True)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*START, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(*arguments: str) -> float:
    """Run to the end; the seconds it took."""
    begun = time.monotonic()
    done = call(*arguments)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return time.monotonic() - begun


def kill(after: float, *arguments: str) -> bool:
    """Kill the command ``after`` seconds; False where it had ended before."""
    process = start(*arguments)
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


def bank_broken(bank: Path) -> str | None:
    return told("bank", "verify", str(bank)) or told("bank", "list", str(bank))


def run_broken(run: Path) -> str | None:
    """A run is whole, or says that it is not finished."""
    try:
        found = runs.load(run)
        found.pruned(), found.unpruned()
    except MvpError as error:
        return None if "not a finished run" in str(error) else str(error)
    return None


def published_broken(place: Path) -> str | None:
    """A published bundle is whole, or `verify` refuses it; other people's files stay."""
    if not all((place / name).read_text() == "somebody's" for name in OTHERS):
        return "a file of somebody else is gone"
    bundles = [path.parent for path in place.glob("bundles/*/manifest.json") if path.parent.name != "other"]
    wrong = {path: bundle.verify(path) for path in bundles}
    states["whole"] += sum(not problems for problems in wrong.values())
    states["refused"] += sum(bool(problems) for problems in wrong.values())
    return None


def trial(
    whole: float, draw: random.Random, broken: Callable[[], str | None], *arguments: str, beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Kill, check, finish. beside: a second command, started with the one that is killed and left to its end."""
    other = (
        subprocess.Popen([*START, *beside], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if beside else None
    )
    after = draw.uniform(0, whole)
    died = kill(after, *arguments)
    complaint = broken()
    if other is not None:
        other.wait()
        complaint = complaint or broken()
    done = call(*arguments)
    left = complaint or broken()
    result = {"killed_after_s": round(after, 2), "died": died, "broken": left, "finished": done.returncode == 0}
    if other is not None:
        result["other_exit_code"] = other.returncode  # 6 where it was told that the folder is in use
    print(arguments[0], arguments[-1], result, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "result.json")
    options = parser.parse_args()
    draw, times = random.Random(options.seed), range(options.kills)
    pairs = [f"digits#{a},{b}" for a in range(10) for b in range(a)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bank, run, shipped, there = (folder / name for name in ("bank", "whole", "bundle", "there"))
        finish("bank", "init", str(bank), "--backbone", "test_resnet", "--image-size", "32")
        whole = {"bank add": finish("bank", "add", str(bank), *LONG, pairs.pop())}
        trials = {
            "bank add": [
                trial(whole["bank add"], draw, lambda: bank_broken(bank), "bank", "add", str(bank), *LONG, pairs.pop())
                for _ in times
            ]
        }
        asked = ["--bank", str(bank), *SMALL, "--out"]
        whole["prune"] = finish("prune", pairs.pop(), *asked, str(run))
        trials["prune over an older run"] = [
            trial(whole["prune"], draw, lambda: run_broken(run), "prune", pairs.pop(), *asked, str(run)) for _ in times
        ]
        trials["two prune, one RUN"] = [
            trial(
                whole["prune"], draw, lambda: run_broken(run), "prune", pairs.pop(), *asked, str(run),
                beside=["prune", pairs.pop(), *asked, str(run)],
            )
            for _ in times
        ]  # fmt: skip
        pack = ["export", str(run), "--out", str(shipped), "--measure", ""]
        whole["export"] = finish(*pack)
        trials["export over an older bundle"] = [
            trial(whole["export"], draw, lambda: told("verify", str(shipped)), *pack) for _ in times
        ]
        for name in OTHERS:
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            (there / name).write_text("somebody's")
        deploy = ["run", str(folder / "deploy.yaml"), "-q"]
        write_config(folder, steps=20)
        whole["run"] = finish(*deploy)
        trials["run that publishes"] = []
        for index in times:
            write_config(folder, steps=21 + index)
            trials["run that publishes"].append(trial(whole["run"], draw, lambda: published_broken(there), *deploy))
        stored = json.loads(call("bank", "list", str(bank), "--json").stdout)["tasks"]
    result = {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "timm", "safetensors", "filelock", "fsspec")}
        | {"python": platform.python_version()},
        "seed": options.seed,
        "whole_call_s": {name: round(seconds, 1) for name, seconds in whole.items()},
        **trials,
        "published_bundles_seen": states,
        "tasks_in_the_bank": len(stored),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    bad = [entry for entries in trials.values() for entry in entries if entry["broken"] or not entry["finished"]]
    if bad or len(stored) != options.kills + 1:
        sys.exit(f"{len(bad)} trials went wrong, {len(stored)} tasks stored of {options.kills + 1}")
    print(f"{len(trials) * options.kills} kills: nothing broken or lost, every command finished when run again")


def write_config(folder: Path, steps: int) -> None:
    """A deploy.yaml whose run begins with pruning, since its steps are new."""
    (folder / "deploy.yaml").write_text(
        f"bank: bank\nout: file://{folder}/there\ndevice: cpu\nbudget: {{fraction: 0.5}}\n"
        f"training: {{steps: {steps}, batch_size: 16}}\n"
        "benchmark: {batches: []}\ntasks:\n  ones: {data: 'digits#1,8'}\n  twos: {data: 'digits#2,3'}\n"
    )


if __name__ == "__main__":
    main()
