"""A pipeline of six tasks on real images: run twice, killed at random moments and finished, each kind of gate failed.

    python benchmarks/pipeline/show.py DATA BANK WORK [--out benchmarks/pipeline/results.json] [--go-on]

DATA holds cifar100_200x50.npz, caltech101_64.npz and omniglot28.npz; BANK is what benchmarks/main_job/run.sh makes of
resnet18 at 32 pixels; WORK is a folder to work in, made anew. With --go-on, WORK and the parts that the result has are
kept. Ends with exit code 1 where something is not as promised.

On a busy machine a speed-up and a latency above its limit are too noisy to tell; the exit codes are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvp_deploy import bundle
from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import sha256
from mvp_deploy.pipeline.gates import disturbed

RUN = [sys.executable, "-c", "from mvp_deploy.cli import main; main()", "run", "deploy.yaml", "--quiet"]
QUICK = 15.0  # seconds that a second run may take
TASK = "things"  # the gates' example: it loses some accuracy when pruned, so that a drop of 0 is not met
GATES = {  # gate: (what to set, the exit code due, the outcome due)
    "min_accuracy": ("min_accuracy=1.0", 3, "failed"),
    "max_drop": ("max_drop=0", 3, "failed"),
    "latency": ("latency=[{at_most_ms: 0.001}]", 4, "failed"),
    "latency, too noisy": ("latency=[{at_most_ms: MEDIAN}]", 4, "too noisy to tell"),
    "latency, not measured": ("latency=[{at_most_ms: 20, runtime: openvino}]", 4, "not measured"),
    "speed_up": ("speed_up=[{at_least: 1000}]", 4, "failed"),
    "max_size_mb": ("max_size_mb=0.001", 4, "failed"),
    "max_parity": ("max_parity=1.0e-12", 5, "failed"),
}
BROKEN = {  # what stops the work: (arguments, the exit code due)
    "no such key": (["--set", "gates.max_drpo=1"], 2),
    "no such data": (["--only", TASK, "--set", f"tasks.{TASK}.data=nowhere"], 2),
    "no such GPU": (["--only", TASK, "--set", "device=cuda:9", "--set", "seed=1"], 6),
    "no such URL": (["--only", TASK, "--set", f"tasks.{TASK}.data=memory://nowhere"], 6),
}


def run(*arguments: str) -> tuple[int, float, str]:
    """Exit code, seconds and stderr of a call."""
    begun = time.monotonic()
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True)
    return done.returncode, time.monotonic() - begun, done.stderr


def report(out: str = "deploy") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "report.json").read_text(encoding="utf-8"))
    return found


def statuses(out: str = "deploy") -> dict[str, list[str]]:
    return {name: [step["status"] for step in task["steps"]] for name, task in report(out)["tasks"].items()}


def models(out: str) -> dict[str, str]:
    """Checksums of everything that training and export made."""
    files = [file for file in sorted(Path(out, "work").glob("*/exported/models/*")) if file.is_file()]
    return {file.relative_to(out).as_posix(): sha256(file) for file in files}


def twice() -> dict[str, Any]:
    code, seconds, said = run("--jobs", "2")
    if code not in (0, 3, 4):  # a limit may be missed; what must not be is that the work breaks
        sys.exit(f"the first run ended with {code}:\n{said}")
    first = statuses()
    again, quick, _ = run("--jobs", "2")
    return {
        "first": {"seconds": seconds, "exit": code, "steps": first, "said": said},
        "second": {"seconds": quick, "exit": again, "steps": statuses()},
        "met": again == code and quick < QUICK and all(set(s) == {"unchanged"} for s in statuses().values()),
    }


def tasks() -> dict[str, Any]:
    return {
        name: {"outcome": task["outcome"], "metrics": task.get("metrics"), "gates": task["gates"]}
        for name, task in report()["tasks"].items()
    }


def killed(seconds: float, kills: int, seed: int) -> dict[str, Any]:
    """Kill a fresh run again and again after random times, then let it finish; the models must be the unbroken's."""
    draw, moments = random.Random(seed), []
    arguments = ["--jobs", "2", "--set", "out=killed"]
    while len(moments) < kills:
        moment = draw.uniform(1, 1.5 * seconds / kills)
        process = subprocess.Popen([*RUN, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(round(moment, 1))
            continue
        shutil.rmtree("killed")  # it was through already: once more from the start
    code, last, _ = run(*arguments)
    whole = [bundle.verify(path) == [] for path in sorted(Path("killed/bundles").glob("*"))]
    equal = models("killed") == models("deploy")
    return {
        "kills after seconds": moments,
        "last run": {"seconds": last, "exit": code, "steps": statuses("killed")},
        "bundles whole": sum(whole),
        "models equal the unbroken run's": equal,
        "met": equal and all(whole) and code in (0, 3, 4),
    }


def gates() -> dict[str, Any]:
    rows = report()["tasks"][TASK]["times"]["rows"]
    median = next(r["timing"]["median"]["value"] for r in rows if r["model"] == "pruned" and r["precision"] == "fp32")
    noisy, found = disturbed(report()["tasks"][TASK]), {}
    for name, (change, due, outcome) in GATES.items():
        change = f"tasks.{TASK}.gates.{change.replace('MEDIAN', f'{median}, precision: fp32')}"
        code, seconds, said = run("--only", TASK, "--set", change)
        gate = name.partition(",")[0]
        told = [g["outcome"] for g in report()["tasks"][TASK]["gates"] if g["gate"] == gate]
        if noisy and name in ("latency", "speed_up"):
            outcome = "too noisy to tell"
        met = code == due and outcome in told and not Path("deploy/bundles", TASK).exists()
        found[name] = {"exit": code, "seconds": seconds, "said": said, "outcomes": told, "met": met}
    return found


def regression() -> dict[str, Any]:
    """A baseline that was twice as small and fast."""
    run()
    before = report()
    for model in before["tasks"][TASK]["models"]:
        model["bytes"] //= 2
    for row in before["tasks"][TASK]["times"]["rows"]:
        row["timing"]["median"] = {key: value / 2 for key, value in row["timing"]["median"].items()}
    Path("accepted.json").write_text(json.dumps(before), encoding="utf-8")
    code, _, said = run("--baseline", "accepted.json")
    return {"exit": code, "said": said, "met": code == 4 and "latency growth" in said and "size growth" in said}


def broken() -> dict[str, Any]:
    found = {}
    for name, (arguments, due) in BROKEN.items():
        code, _, said = run(*arguments)
        found[name] = {"exit": code, "said": said, "met": code == due}
    return found


def read_back() -> dict[str, Any]:
    """junit.xml and the Markdown summary, as CI reads them."""
    os.environ["GITHUB_STEP_SUMMARY"] = str(Path("step_summary.md").absolute())
    run("--set", f"tasks.{TASK}.gates.max_size_mb=0.001")
    suites = [dict(suite.attrib) for suite in ET.parse("deploy/junit.xml").getroot()]
    failures = [str(f.get("message")) for f in ET.parse("deploy/junit.xml").getroot().iter("failure")]
    summary = Path("step_summary.md").read_text(encoding="utf-8")
    run()  # and all is well again
    return {"junit": suites, "failures": failures, "summary": summary, "met": "max_size_mb" in " ".join(failures)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("bank", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--go-on", action="store_true")
    asked = parser.parse_args()
    out, here = asked.out.absolute(), Path(__file__).parent.absolute()
    if not asked.go_on:
        shutil.rmtree(asked.work, ignore_errors=True)
        asked.work.mkdir(parents=True)
        (asked.work / "data").symlink_to(asked.data.absolute())
        (asked.work / "bank").symlink_to(asked.bank.absolute())
        shutil.copy(here / "deploy.yaml", asked.work)
    os.chdir(asked.work)
    result: dict[str, Any] = json.loads(out.read_text()) if asked.go_on and out.exists() else {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "environment": lambda: {**environment(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        "config": lambda: {"deploy.yaml": Path("deploy.yaml").read_text(encoding="utf-8")},
        "run twice": twice,
        "tasks": tasks,
        "killed": lambda: killed(result["run twice"]["first"]["seconds"], asked.kills, asked.seed),
        "gates": gates,
        "baseline": regression,
        "broken": broken,
        "read back": read_back,
    }
    for name, part in parts.items():
        if name not in result:
            result[name] = part()
            out.write_text(json.dumps(result, indent=1).replace(f"{Path.cwd()}/", "") + "\n")
    shown = [(name, result[name]) for name in ("run twice", "killed", "baseline", "read back")]
    shown += [*result["gates"].items(), *result["broken"].items()]
    for name, found in shown:
        print(f"{name}: {'as promised' if found['met'] else 'NOT as promised'}")
    sys.exit(not all(found["met"] for _, found in shown))


if __name__ == "__main__":
    main()
