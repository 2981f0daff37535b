"""kill -9 `bank add` and `prune` at random moments, then check that nothing is broken and that they finish.

    python benchmarks/kill/run.py [--kills 10] [--seed 0] [--out benchmarks/kill/result.json]

Every trial starts the command, kills it after a time drawn between nothing and what a whole call takes, checks the
bank (`bank verify`, `bank list`) or the run, and starts it again, up to the end. Works on the embedded digits.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mvp_deploy.base.environment import cpu_name

START = [sys.executable, "-c", "from mvp_deploy.cli import main; main()"]
SMALL = ["--keep", "0.4", "--batch-size", "16", "--steps", "40", "--device", "cpu"]
LONG = [*SMALL, "--rounds", "3", "--round-steps", "20"]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*START, *arguments], capture_output=True, text=True)


def finish(*arguments: str) -> float:
    """Run to the end; the seconds it took."""
    begun = time.monotonic()
    done = call(*arguments)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return time.monotonic() - begun


def kill(after: float, *arguments: str) -> bool:
    """Kill the command ``after`` seconds; False where it had ended before."""
    process = subprocess.Popen([*START, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def broken(bank: Path) -> str | None:
    """What `bank verify` or `bank list` complain of."""
    for verb in ("verify", "list"):
        done = call("bank", verb, str(bank))
        if done.returncode:
            return done.stderr
    return None


def trial(whole: float, random: random.Random, bank: Path, *arguments: str) -> dict[str, Any]:
    after = random.uniform(0, whole)
    died = kill(after, *arguments)
    complaint = broken(bank)
    done = call(*arguments)
    finished = done.returncode == 0 or "--replace" in done.stderr  # the kill came after the task was stored
    result = {"killed_after_s": round(after, 2), "died": died, "broken": complaint, "finished": finished}
    print(arguments[0], arguments[-1], result, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "result.json")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    pairs = [f"digits#{a},{b}" for a in range(10) for b in range(a)]
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "bank"
        finish("bank", "init", str(bank), "--backbone", "test_resnet", "--image-size", "32")
        adding = finish("bank", "add", str(bank), *LONG, pairs.pop())
        added = [trial(adding, draw, bank, "bank", "add", str(bank), *LONG, pairs.pop()) for _ in range(options.kills)]
        asked = ["--bank", str(bank), *SMALL, "--out"]
        pruning = finish("prune", pairs.pop(), *asked, str(Path(folder) / "whole"))
        runs = [
            trial(pruning, draw, bank, "prune", pairs.pop(), *asked, str(Path(folder) / f"run{index}"))
            for index in range(options.kills)
        ]
        stored = json.loads(call("bank", "list", str(bank), "--json").stdout)["tasks"]
    result = {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "timm", "safetensors", "filelock")}
        | {"python": platform.python_version()},
        "seed": options.seed,
        "whole_call_s": {"bank add": round(adding, 1), "prune": round(pruning, 1)},
        "bank add": added,
        "prune": runs,
        "tasks_in_the_bank": len(stored),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    bad = [entry for entry in added + runs if entry["broken"] or not entry["finished"]]
    if bad or len(stored) != options.kills + 1:
        sys.exit(f"{len(bad)} trials went wrong, {len(stored)} tasks stored of {options.kills + 1}")
    print(f"{2 * options.kills} kills: nothing broken, every command finished when run again")


if __name__ == "__main__":
    main()
