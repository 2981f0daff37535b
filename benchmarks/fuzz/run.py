"""Damaged files for as long as one likes: every reader must end well or in a sentence, soon and within its memory.

    nice -n 19 python benchmarks/fuzz/run.py --seconds 600 --out benchmarks/fuzz/result.json

The inputs are of the kinds of tests/fuzz, from other seeds, one to three changes at once: of a JSON file's fields, or
of a file's bytes. Counted for each file: inputs, refusals, faults (the first with the change that made it), and the
longest read in seconds. Peak memory is the whole process's, in bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from fuzz.mutate import GONE, VALUES, changed, contents, places, remove, text
from fuzz.targets import Target, all_targets, refused, reseal

from mvp_deploy.base.environment import environment, peak_memory


def several(data: Any, draw: random.Random) -> tuple[str, bytes]:
    """The JSON text of the data with one to three values another or gone."""
    told = []
    for _ in range(draw.randint(1, 3)):
        there = list(places(data))
        if not there:
            break
        place, value = draw.choice(there), draw.choice((GONE, *VALUES))
        data = changed(data, place, value)
        told.append(f"{'.'.join(map(str, place))} = {'gone' if value is GONE else repr(value)[:20]}")
    return "; ".join(told), text(data)


def tried(target: Target, whole: bytes, data: Any, draw: random.Random, row: dict[str, Any]) -> None:
    """Change the file, read it, and count how that ended."""
    if data is not None and draw.random() < 0.7:
        what, content = several(data, draw)
    else:
        what, content = draw.choice(list(contents(whole, count=4, seed=draw.randrange(2**31))))
    target.file.write_bytes(reseal(content) if target.sealed and draw.random() < 0.5 else content)
    target.settle()
    begin = time.perf_counter()
    try:
        row["refused"] += refused(target.read)
    except Exception as error:
        row["faults"] += 1
        row.setdefault("first", f"{what}: {error!r}"[:300])
    row["inputs"] += 1
    row["longest_s"] = max(row["longest_s"], round(time.perf_counter() - begin, 3))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    asked = options.parse_args()
    draw, end = random.Random(asked.seed), time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory() as folder:
        targets = all_targets(Path(folder))
        wholes = [target.file.read_bytes() for target in targets]
        parsed = [
            yaml.safe_load(w) if t.file.suffix in (".json", ".yaml") else None
            for t, w in zip(targets, wholes, strict=True)
        ]
        rows = {t.file.name: {"inputs": 0, "refused": 0, "faults": 0, "longest_s": 0.0} for t in targets}
        while time.monotonic() < end:
            for target, whole, data in zip(targets, wholes, parsed, strict=True):
                tried(target, whole, data, draw, rows[target.file.name])
                remove(target.file)
                target.file.write_bytes(whole)
                target.settle()
    total = {key: sum(row[key] for row in rows.values()) for key in ("inputs", "refused", "faults")}
    found = {"seed": asked.seed, "seconds": asked.seconds, "total": total, "peak_memory": peak_memory(), "files": rows}
    asked.out.write_text(json.dumps(found | {"environment": environment()}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(total))


if __name__ == "__main__":
    main()
