"""python engine_logits.py BUNDLE PRECISION OUT.npz: what this machine's engines give for the bundle's samples.

Needs numpy and TensorRT alone, so that the Python that has TensorRT can run it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.bundle import read
from mvp_deploy.export.engines import engines_of


def main(folder: str, precision: str, out: str) -> None:
    bundle = read(Path(folder))
    found = {}
    for file in engines_of(bundle):
        if file.precision == precision:
            runner = open_runner(bundle.path / file.file, device="auto")
            found[file.model] = logits(runner, bundle.samples["images"], 8)
            runner.close()
    if not found:
        sys.exit(f"{folder} has no {precision} engine for this machine")
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
