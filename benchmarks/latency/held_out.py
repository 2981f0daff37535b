"""How well profiles predict variants that their fit has not seen: each on the alignment from all the others.

Needs NumPy and the profiles alone, so that it runs where they were taken. More variants (`mvp-deploy profile …
--variants 16`) make it a better judge.

    python benchmarks/latency/held_out.py PROFILE.json … --out benchmarks/latency/results/held-out.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from mvp_deploy.base.files import write_text
from mvp_deploy.latency import files
from mvp_deploy.latency.model import held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = []
    for path in asked.profiles:
        profile = files.read(path)
        pairs = held_out(profile)
        errors = np.abs([predicted / ms - 1 for ms, predicted in pairs])
        found.append({
            "profile": str(profile),
            "version": profile.version,
            "unpruned_ms": profile.full_ms,
            "noise": profile.noise,
            "median": float(np.median(errors)),
            "worst": float(errors.max()),
            "plans": [{"ms": ms, "predicted": predicted} for ms, predicted in pairs],
        })  # fmt: skip
        print(f"{profile}: median error {found[-1]['median']:.1%}, worst {found[-1]['worst']:.1%}, of {len(pairs)}")
        for ms, predicted in pairs:
            print(f"  {ms:8.4f} ms measured, {predicted:8.4f} predicted, {predicted / ms - 1:+.1%}")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(asked.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
