"""Makes on a CPU what a GPU session starts from, so that none of its minutes go to downloads or to what needs no GPU.

    python benchmarks/gpu/prepare.py caltech101_160.tar --out kit

The kit holds photographs of twelve classes, ImageNet weights of lite2, a bundle of it to build engines of, and its
pieces, which a profile times.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "pretrained"))
from everything import JOBS, TENSORRT
from prepare import photographs, weights  # type: ignore[attr-defined]

CLASSES = 12  # evenly spaced among all, as in the study of pretrained weights


@click.command()
@click.argument("tar", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", default="kit", show_default=True, type=click.Path(path_type=Path))
@click.option("--work", default="build/kit", show_default=True, type=click.Path(path_type=Path), help="For all files.")
def main(tar: Path, out: Path, work: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(weights("lite2", work), out / "lite2.safetensors")
    whole = photographs(tar, work)
    names = sorted(folder.name for folder in (whole / "train").iterdir())
    for number in np.linspace(0, len(names) - 1, CLASSES).round().astype(int):
        for part in ("train", "test"):
            name = names[number]
            shutil.copytree(whole / part / name, out / "photographs" / part / name, dirs_exist_ok=True)
    backbone, size, _, macs = JOBS["lite2"]
    of = [backbone, "--image-size", size]
    _mvp("profile", *of, "--runtime", "tensorrt", "--precision", "fp16", "--out", out / "pieces.zip")
    given = ["--backbone", *of, "--weights", out / "lite2.safetensors", "--macs", macs]
    _mvp("prune", out / "photographs", *given, "--steps", 100, "--flip", "--out", work / "run")
    _mvp("export", work / "run", "--out", out / "bundle", "--precision", "fp32,int8", *TENSORRT)


def _mvp(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "mvp_deploy", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
