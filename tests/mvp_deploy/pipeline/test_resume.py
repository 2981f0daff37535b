from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mvp_deploy import bundle

COMMAND = [sys.executable, "-c", "from mvp_deploy.cli import main; main()", "run", "--quiet"]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL)


def kill_when(process: subprocess.Popen[bytes], pattern: str) -> list[psutil.Process]:
    """Kill the process as soon as a file of that name is there; gives its children."""
    while not list(Path("deploy").glob(pattern)):
        assert process.poll() is None, f"it ended before there was {pattern}"
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    return children


@pytest.mark.usefixtures("project")
def test_a_run_killed_again_and_again_ends_as_an_unbroken_one(finished: Path) -> None:
    shutil.rmtree("deploy")
    workers = kill_when(start("--only", "ones", "--jobs", "2"), "work/ones/run/.work/*")
    assert workers
    assert psutil.wait_procs(workers, timeout=120)[1] == []  # they end with the command, and its lock
    kill_when(start("--only", "ones"), "work/ones/.exported.*.tmp")
    assert start("--only", "ones", "--jobs", "2").wait() == 0
    for file in ("run/pruned.safetensors", "exported/models/pruned.fp32.onnx", "exported/models/unpruned.fp32.onnx"):
        ours, unbroken = (folder / "deploy/work/ones" / file for folder in (Path(), finished))
        assert ours.read_bytes() == unbroken.read_bytes(), file
    assert bundle.verify("deploy/bundles/ones") == []
    steps = json.loads(Path("deploy/report.json").read_text(encoding="utf-8"))["tasks"]["ones"]["steps"]
    times = steps.pop(2)["status"]
    assert times in ("done", "disturbed")  # by what else this machine does
    assert [step["status"] for step in steps] == ["unchanged", "done", "done"]
