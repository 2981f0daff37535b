"""Which of timm's architectures a state dict belongs to, told from the names and shapes of its entries.

Building all of timm's models to compare takes minutes, so their digests lie in architectures.json, which
benchmarks/architectures.py writes. A later timm's new models are not in there: they get no hint.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

TABLE = "architectures.json"
HEADS = ("fc.", "head.", "head_dist.", "classifier.", "last_linear.")  # whose sizes are the data's
SIZED = ("pos", "relative")  # in the names of what depends on the image's size
SHOWN = 3  # names that share their shapes


@dataclass(frozen=True)
class Signature:
    """names, shapes: digests of the entries, but for the head; params: numbers in them."""

    names: str
    shapes: str
    params: int

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Signature:
        kept = {
            key: tuple(shape)
            for key, shape in sorted(shapes.items())
            if not key.startswith(HEADS) and not key.endswith("num_batches_tracked")
        }
        told = {key: () if any(part in key for part in SIZED) else shape for key, shape in kept.items()}
        return cls(_digest(list(kept)), _digest(list(told.items())), sum(map(math.prod, kept.values())))


def nearest(shapes: Mapping[str, Sequence[int]], asked: str = "") -> str:
    """Says which architectures have entries of these names and shapes: «timm's resnet34 (or seresnet34)».

    Returns:
        Nothing if there is none, or if it is the one that was ``asked`` for.
    """
    found = Signature.of(shapes)
    known = _known()
    same = sorted((name for name, each in known.items() if each.shapes == found.shapes), key=len)
    if same and asked not in same:
        more = f" (or {', '.join(same[1:SHOWN])}{', …' if len(same) > SHOWN else ''})" if same[1:] else ""
        return f"timm's {same[0]}{more}"
    named = [name for name, each in known.items() if each.names == found.names]
    if named and not same and asked not in named:
        close = min(named, key=lambda name: abs(math.log((known[name].params + 1) / (found.params + 1))))
        return f"timm's {close}, in other sizes"
    return ""


def _digest(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:10]


@cache
def _known() -> dict[str, Signature]:
    text = resources.files("mvp_deploy.backbones").joinpath(TABLE).read_text(encoding="utf-8")
    return {name: Signature(*values) for name, values in json.loads(text).items()}
