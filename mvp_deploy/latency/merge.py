"""Several profiles of one backbone on one device as one: taken at other hours, or at other widths. NumPy alone.

A machine drifts from one hour to the next, and a whole profile with it. So every time counts relative to its own
profile's unpruned model, which has twice as many turns as the others for that. The merged profile's level is the median
of the unpruned times: a day on which the machine was slow does not move it, as it would a mean. Widths that several
profiles have timed get the median of their times at that level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvp_deploy.base.errors import InputError
from mvp_deploy.latency.format import RUNS, Kernel, Profile, Run, Sample, Shape
from mvp_deploy.latency.measure import NOISE

Key = tuple[tuple[Shape, ...], int]  # a variant: its shapes, and how many of the same its profile has before it


@dataclass(frozen=True, eq=False)
class _Timed:
    """A variant in one profile: its place there, and its times relative to the unpruned model's."""

    place: int
    whole: float
    layers: np.ndarray


def merge(profiles: Mapping[str, Profile]) -> Profile:
    """One profile of several, in whichever order they are given.

    It is as noisy as its noisiest part, or as its parts differ at the widths that they share. Variants that one part
    left out count as left out only where no other variant takes their place. A merged profile counts as one when it is
    merged again: merge all parts at once.

    Args:
        profiles: by the names that errors call them.

    Raises:
        InputError: there are fewer than two, they differ in more than times and widths, or have too many widths.
    """
    if len(profiles) < 2:
        raise InputError("one profile alone is merged with nothing: name two or more.")
    _check_alike(profiles)
    parts = list(profiles.values())
    level = float(np.median([part.full_ms for part in parts]))
    timed: dict[Key, list[_Timed]] = {}
    for part in parts:
        for key, one in _relative(part):
            timed.setdefault(key, []).append(one)
    if len(timed) > RUNS.high:
        raise InputError(f"they have {len(timed)} widths, and a profile at most {RUNS.high}: merge fewer of them.")
    keys = sorted(timed, key=lambda key: (min(one.place for one in timed[key]), key))  # the unpruned model first
    whole = [level * np.median([one.whole for one in timed[key]]) for key in keys]
    layers = [level * np.median([one.layers for one in timed[key]], axis=0) for key in keys]
    noise = min(1.0, max(_apart(timed[key] for key in keys[1:]), *(part.noise for part in parts)))
    stable = noise <= NOISE and all(part.stable for part in parts)
    float32 = [part.float32_ms / part.full_ms for part in parts if part.float32_ms is not None]
    return replace(
        parts[0],
        machine=max((part.machine for part in parts), key=lambda machine: machine.system),
        kernels=_kernels(parts[0], [shapes for shapes, _ in keys], layers),
        runs=tuple(Run(shapes, float(ms)) for (shapes, _), ms in zip(keys, whole, strict=True)),
        noise=noise,
        stable=stable,
        loud=() if stable else _loudest(parts),
        left_out=max(0, max(len(part.runs) + part.left_out for part in parts) - len(keys)),
        float32_ms=level * float(np.median(float32)) if float32 else None,
    )


def _relative(profile: Profile) -> Iterator[tuple[Key, _Timed]]:
    """Each variant of a profile."""
    layers = np.zeros((len(profile.runs), len(profile.layers)))
    for number, kernel in enumerate(profile.kernels):
        owners = _layers_of(profile, number)
        ms = np.array([sample.ms for sample in kernel.samples])
        layers[:, owners] = ms.reshape(len(owners), len(profile.runs)).T
    before = Counter[tuple[Shape, ...]]()
    for place, run in enumerate(profile.runs):
        yield (run.shapes, before[run.shapes]), _Timed(place, run.ms / profile.full_ms, layers[place] / profile.full_ms)
        before[run.shapes] += 1


def _kernels(
    profile: Profile, variants: Sequence[tuple[Shape, ...]], times: Sequence[np.ndarray]
) -> tuple[Kernel, ...]:
    """A profile's kernels with a sample for each of their layers in each of these variants."""
    return tuple(
        Kernel(
            kernel.kind,
            tuple(
                Sample(shapes[layer], float(ms[layer]))
                for layer in _layers_of(profile, number)
                for shapes, ms in zip(variants, times, strict=True)
            ),
        )
        for number, kernel in enumerate(profile.kernels)
    )


def _layers_of(profile: Profile, kernel: int) -> list[int]:
    """The layers of a kernel, in the order of its samples."""
    return [number for number, layer in enumerate(profile.layers) if layer.kernel == kernel]


def _apart(variants: Iterator[Sequence[_Timed]]) -> float:
    """The median over variants that several profiles have of the standard error of their times, relative."""
    times = [sorted(one.whole for one in variant) for variant in variants if len(variant) > 1]
    errors = [np.std(each, ddof=1) / np.mean(each) / np.sqrt(len(each)) for each in times]
    return float(np.median(errors)) if errors else 0.0


def _loudest(parts: Sequence[Profile]) -> tuple[str, ...]:
    """What was loud in any of them, the loudest first."""
    place: dict[str, int] = {}
    for part in parts:
        for number, name in enumerate(part.loud):
            place[name] = min(number, place.get(name, number))
    return tuple(sorted(place, key=lambda name: (place[name], name)))


def _check_alike(profiles: Mapping[str, Profile]) -> None:
    (name, first), *others = ((name, _facts(profile)) for name, profile in profiles.items())
    for other, facts in others:
        for fact, value in first.items():
            if facts[fact] != value:
                raise InputError(
                    f"{name} has {fact} {value}, and {other} has {facts[fact]}: profiles become one where all but "
                    "their times and widths is the same. Merge those that are alike, or profile again as one of them."
                )


def _facts(profile: Profile) -> dict[str, object]:
    """What must be the same, named for people; each layer's facts last but for the hash of all."""
    conditions, machine = profile.conditions, profile.machine
    facts: dict[str, object] = {
        "backbone": profile.backbone,
        "images of": "x".join(map(str, profile.input_size)),
        "precision": profile.precision,
        "runtime": conditions.runtime,
        "runtime version": profile.version,
        "device": conditions.device,
        "threads": conditions.threads,
        "batch": conditions.batch,
        "CPU": machine.cpu,
        "cores": machine.cores,
        "GPU": machine.gpu or "none",
        "number of layers": len(profile.layers),
    }
    for number, (layer, (rows, columns)) in enumerate(zip(profile.layers, profile.runs[0].shapes, strict=True), 1):
        kind = profile.kernels[layer.kernel].kind.strip()
        facts[f"layer {number}"] = f"{layer.weight} of {rows}x{columns}, kernel {layer.kernel} ({kind})"
    return {**facts, "layout": profile.layout}
