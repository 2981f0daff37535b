"""The device's side on aarch64, by qemu's user emulation and over a real ssh: whether it computes right, not how fast.

Debian's arm64 Python and PyPI's aarch64 wheels of numpy, click and onnxruntime are unpacked into a folder; nothing is
installed. A server on the loopback then has that Python as its own, and `devices doctor`, `predict`, `evaluate`'s
logits and `bench` run there as on a board. Emulation is slow and uneven: no time of it means anything.

    dpkg --add-architecture arm64 && apt-get update && apt-get install qemu-user-static openssh-server
    python benchmarks/devices/aarch64.py --out benchmarks/devices/aarch64.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import loopback  # noqa: E402
from onnxfiles import run_onnx  # noqa: E402
from samples import make_bundle  # noqa: E402

from mvp_deploy import bundle as bundles  # noqa: E402
from mvp_deploy.base.environment import environment  # noqa: E402
from mvp_deploy.base.reporter import Silent  # noqa: E402
from mvp_deploy.remote.classify import crops, logits_on  # noqa: E402
from mvp_deploy.remote.doctor import examine  # noqa: E402
from mvp_deploy.remote.inventory import Device  # noqa: E402
from mvp_deploy.remote.measured import measure  # noqa: E402

DEBIAN = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1", "libstdc++6",
    "libexpat1", "zlib1g", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libcrypt1",
)  # fmt: skip
WHEELS = ("numpy", "click", "onnxruntime", "flatbuffers", "packaging", "protobuf")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
QEMU = "qemu-aarch64-static"
CPU = "cortex-a72"  # a Raspberry Pi 4's
# ONNX Runtime reads this file, and qemu shows the host's unless the emulated system has one of its own.
CPUINFO = """processor\t: {}
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


def make_python(folder: Path) -> Path:
    """A command that is Python on aarch64, with the runtime."""
    root, site, debs = folder / "root", folder / "site", folder / "debs"
    debs.mkdir()
    subprocess.run(["apt-get", "download", *(f"{name}:arm64" for name in DEBIAN)], cwd=debs, check=True)
    for file in debs.iterdir():
        subprocess.run(["dpkg", "-x", file, root], check=True)
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text("".join(map(CPUINFO.format, range(4))), encoding="utf-8")
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", *platforms]
    subprocess.run([*pip, "--python-version", "3.11", "--target", site, *WHEELS], check=True)
    python = folder / "python"
    python.write_text(
        f"#!/bin/sh\nexec {QEMU} -cpu {CPU} -L '{root}' -E 'PYTHONHOME={root}/usr' -E 'PYTHONPATH={site}' "
        f'-0 "$0" \'{root}/usr/bin/python3.11\' "$@"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    return python


def difference(device: Device, bundle: bundles.Bundle, images: np.ndarray) -> float:
    """The largest between logits computed there and here, of what a bundle's preprocessing makes of uint8 images."""
    file = next(each for each in bundle.models if each.model == "pruned")
    files = crops(lambda number: images[number], len(images))
    there = logits_on("arm", device, bundle, file, files, threads=1, reporter=Silent())
    how = json.loads((bundle.path / "preprocessing.json").read_text(encoding="utf-8"))
    scaled = (images / np.float32(255) - np.float32(how["mean"])) / np.float32(how["std"])
    batch = scaled.astype(np.float32).transpose(0, 3, 1, 2)
    here = run_onnx(bundle.path / file.file, batch)
    return float(np.abs(here - there).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        python = make_python(folder)
        (folder / "keys").mkdir()
        keys = loopback.Keys.make(folder / "keys")
        os.environ["PATH"] = f"{folder / 'keys' / 'bin'}:{os.environ['PATH']}"
        bundle = make_bundle(folder / "bundle")
        with loopback.serving(folder / "machine", keys, python) as machine:
            device = Device.model_validate(machine.entry)
            findings = examine("arm", device, Silent())
            images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8)
            largest = difference(device, bundles.read(bundle), images)
            measured, error = measure("arm", device, bundle, ["--duration", "0.1", "--threads", "1"], Silent())
            left = machine.processes()
        there = measured.times.environment
        found = {
            "workstation": environment(),
            "emulator": subprocess.run([QEMU, "--version"], capture_output=True, text=True).stdout.splitlines()[0],
            "doctor": [f"{each.state} {each.name}: {each.detail}" for each in findings if each.name != "disk"],
            "device": {"system": there.system, "cpu": there.cpu, "python": there.python, "versions": there.versions},
            "largest_difference_of_logits": largest,
            "bench": [
                {"model": row.model, "runtime": row.runtime, "samples": row.samples,
                 "parity": row.parity, "agreement": row.agreement, "timed": row.timing is not None, "error": row.error}
                for row in measured.times.rows
            ],
            "error": None if error is None else str(error),
            "processes_left": left,
        }  # fmt: skip
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
