"""A bundle's model on a device: what it makes of images that are read and cropped here.

The device computes with numpy and the runtime alone; only bytes of crops travel, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mvp_deploy import bundle as bundles
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.bundle import Bundle, ModelFile
from mvp_deploy.exporters.arrays import Plain, read_npz
from mvp_deploy.remote.command import call
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.measured import files_of
from mvp_deploy.remote.session import session

PART = 256  # images in a file
LOGITS = "logits.npz"


def crops(crop: Callable[[int], np.ndarray], count: int) -> dict[str, bytes]:
    """Images as files for devices. crop: gives image k as uint8 [H, W, 3] (`Preprocessing.resize`)."""
    starts = range(0, count, PART)
    parts = (np.stack([crop(k) for k in range(start, min(start + PART, count))]) for start in starts)
    return {f"images/{number}.npz": _npz(part) for number, part in enumerate(parts)}


def logits_on(
    name: str,
    device: Device,
    bundle: Bundle,
    file: ModelFile,
    images: Mapping[str, bytes],
    *,
    threads: int | None = None,
    on: str | None = None,
    reporter: Reporter,
) -> np.ndarray:
    """Logits float32 [n, classes] of `crops`, computed on the device.

    Args:
        threads, on: CPU threads and --device there; those of devices.yaml if None.

    Raises:
        MvpError: (DEVICE) it is away; (ENVIRONMENT) it lacks the runtime.
    """
    where = on or device.device or "cpu"
    arguments = [file.file, str(threads or device.threads or 0), where, str(len(images))]
    with session(name, device, reporter) as there:
        there.send({**files_of(bundle.path), **images})
        _, made = call(there, "_logits", arguments, LOGITS)
        with TemporaryDirectory() as folder:
            target = Path(folder, LOGITS)
            there.fetch(*made[LOGITS], target)
            found = read_npz(target, {"logits": Plain("float32", 2)}, cure="run again")["logits"]
    if found.shape[1] != len(bundle.classes) or not np.isfinite(found).all():
        raise MvpError(f"{name} gave logits of shape {list(found.shape)}, or not finite ones: run again.")
    return found


def _npz(images: np.ndarray) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "images.npz")
        bundles.write_arrays(path, {"images": images})
        return path.read_bytes()
