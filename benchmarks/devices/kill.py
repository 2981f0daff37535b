"""Kills `bench --on` at moments all over its run, on either end: what is left on the device, and whether it is free.

A server on the loopback is the device. One undisturbed run says how long a run takes; then the workstation's command,
or the process that answers on the device, is killed (SIGKILL) after 1/N, 2/N, … of that time. Afterwards nothing of
ours may run there, the next session must get the device at once and find no files of the last, and the bundle must be
whole.

    python benchmarks/devices/kill.py --out benchmarks/devices/kill.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import loopback  # noqa: E402
from samples import make_bundle  # noqa: E402

from mvp_deploy import bundle as bundles  # noqa: E402
from mvp_deploy.base.environment import environment  # noqa: E402
from mvp_deploy.base.reporter import Silent  # noqa: E402
from mvp_deploy.remote.inventory import Device  # noqa: E402
from mvp_deploy.remote.session import session  # noqa: E402

BENCH = [sys.executable, "-m", "mvp_deploy", "bench", "bundle", "--on", "pi", "--duration", "1"]
ANSWERS = "iter(lambda"  # in the command line of the process that answers on the device
PATIENCE = 30.0  # seconds for everything there to end


def started(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        BENCH, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def killed(machine: loopback.Machine, folder: Path, victim: str, after: float) -> dict[str, object]:
    """What one kill left."""
    run = started(folder)
    time.sleep(after)
    if victim == "workstation":
        run.kill()
    else:
        for pid, line in machine.pids().items():
            if ANSWERS in line:
                os.kill(pid, signal.SIGKILL)
    told = run.communicate(timeout=120)[1]
    end = time.monotonic() + PATIENCE
    while machine.processes() and time.monotonic() < end:
        time.sleep(0.05)
    left = machine.processes()
    with session(
        "pi", Device.model_validate({**machine.entry, "wait_s": 0}), Silent()
    ) as there:  # raises if it is held
        files = [path.name for path in (machine.workdir / "work").iterdir()]
        there.send({})
    return {
        "victim": victim,
        "after_seconds": round(after, 2),
        "exit_code": run.returncode,
        "traceback": "Traceback" in told,
        "processes_left": left,
        "files_left": files,
        "bundle_faults": bundles.verify(folder / "bundle"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=12, help="For each end.")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "keys").mkdir()
        keys = loopback.Keys.make(folder / "keys")
        os.environ["PATH"] = f"{folder / 'keys' / 'bin'}:{os.environ['PATH']}"
        python = loopback.python_with(folder / "python", "numpy", "click", "onnxruntime")
        make_bundle(folder / "bundle")
        with loopback.serving(folder / "machine", keys, python) as machine:
            (folder / "devices.yaml").write_text(yaml.safe_dump({"pi": machine.entry}), encoding="utf-8")
            start = time.monotonic()
            started(folder).communicate()
            whole = time.monotonic() - start
            kills = [
                killed(machine, folder, victim, whole * (number + 1) / (asked.moments + 1))
                for number in range(asked.moments)
                for victim in ("workstation", "device")
            ]
    faults = [each for each in kills if each["traceback"] or each["processes_left"] or each["bundle_faults"]]
    found = {"environment": environment(), "seconds_of_a_run": round(whole, 2), "kills": kills, "faults": len(faults)}
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(kills)} kills, {len(faults)} with faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
