"""Timing the pieces on the device: needs NumPy, click and the runtime alone.

Each turn opens one variant, times the whole model, then its kernels by the runtime's own trace. The variants take turns
in rounds, and every turn is kept on disk: a command that is killed goes on from there. A turn that something disturbed
(other processes, clocks that the board lowered) never counts: the rounds go on, and a variant that has too few others
in the end is left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mvp_deploy.base import board
from mvp_deploy.base.environment import cores, cpu_name, environment, loudest
from mvp_deploy.base.errors import EnvironmentMissing, InputError, LatencyError
from mvp_deploy.base.files import write_text
from mvp_deploy.base.formats import read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.base.watch import Seen, cool_down, watched
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.benchmark.measure import Settings, session
from mvp_deploy.benchmark.runner import Runner, module_of, open_runner
from mvp_deploy.latency import pack
from mvp_deploy.latency.engines import engine_of, gpu_of
from mvp_deploy.latency.format import (
    CURE,
    FORMAT,
    Conditions,
    Kernel,
    Layer,
    Machine,
    Precision,
    Profile,
    Run,
    Sample,
    Subject,
    Variant,
    Visit,
    Visits,
)

VISITS = "visits.json"
ROUNDS = (3, 8)  # at least, and at most where the machine is not quiet
QUIET = 2  # undisturbed turns that a variant needs
ENOUGH = 0.5  # share of the variants that must have them; the unpruned model always
NOISE = 0.02  # stable: the whole models' times have at most this relative standard error
WINDOWS = Settings(duration=0.6, processes=2, window=0.1, warm_up=0.1)  # half of the duration in each turn
KERNEL_RUNS = 30

Look = Callable[[Path, Variant, Conditions, Subject], tuple[float, tuple[float, ...]]]
Watch = Callable[[], AbstractContextManager[list[Seen]]]


def measure(
    folder: Path,
    conditions: Conditions,
    *,
    rounds: tuple[int, int] = ROUNDS,
    look: Look | None = None,
    watch: Watch | None = None,
    reporter: Reporter,
) -> Profile:
    """Time the pieces in ``folder`` until the machine was quiet enough, or often enough.

    Args:
        rounds: how many at least, and how many at most in this call.
        look: times one variant; by default `timed`, on this machine.
        watch: sees what disturbs it; by default `watched`.

    Raises:
        MvpError: (INPUT) the folder is damaged, or half timed under other conditions; (ENVIRONMENT) the runtime is
            missing, or tells no times of its kernels; (LATENCY) too many variants were disturbed each time.
    """
    subject = read_json(folder / pack.SUBJECT, Subject, cure=CURE, versions=(FORMAT,))
    variants = [read_json(folder / f"{n:02}.json", Variant, cure=CURE) for n in range(len(subject.variants))]
    _check(folder, subject, variants, conditions)
    turns = [(folder / f"{number:02}.onnx", variant, subject) for number, variant in enumerate(variants)]
    if subject.precision != "fp32":
        turns.append((folder / pack.FLOAT32, variants[0], replace(subject, precision="fp32")))
    look, watch, count = look or timed, watch or watched, len(turns)
    order = _order(count, float32=count > len(variants))
    done, cool = _resumed(folder, conditions), board.state()
    least, most = rounds[0] * len(order), len(done.visits) + rounds[1] * len(order)
    with loudest() as loud, reporter.progress("timing") as step:
        while len(done.visits) < least or (len(done.visits) < most and not _settled(done, count)):
            step(len(done.visits), max(least, len(done.visits) + 1))
            turn, place = divmod(len(done.visits), len(order))
            if place == 0 and any(visit.throttled for visit in done.visits[-len(order) :]):
                cool_down(cool)
            number = order[place if turn % 2 == 0 else -1 - place]  # A B C, C B A: slow drift is shared
            with watch() as seen:
                file, variant, what = turns[number]
                ms, layers = look(file, variant, conditions, what)
            visit = Visit(number, ms, layers, seen[0].others, seen[0].throttled)
            done = replace(done, visits=(*done.visits, visit))
            write_text(folder / VISITS, json.dumps(asdict(done)))
    return profile_of(subject, variants, done, loud)


def _order(count: int, *, float32: bool) -> list[int]:
    """A round's turns: the unpruned model, and what it is in float32, which comes last, have one in the middle too.

    All times are counted from these, and in two rounds the last turn of the one and the first of the next are the same
    model's, so that one disturbance meets both.
    """
    middle = count // 2
    return [*range(middle), 0, *([count - 1] if float32 else []), *range(middle, count)]


def timed(path: Path, variant: Variant, conditions: Conditions, subject: Subject) -> tuple[float, tuple[float, ...]]:
    """The milliseconds of one variant, and of each of its layers."""
    batch = np.random.default_rng(0).standard_normal((conditions.batch, *subject.input_size), np.float32)
    with closing(opened(path, subject.precision, conditions)) as runner:
        (found,) = session([runner], batch, WINDOWS)
    kernels = module_of(conditions.runtime).kernel_times(
        ready(path, subject.precision, conditions),
        batch,
        runs=KERNEL_RUNS,
        threads=conditions.threads,
        device=conditions.device,
    )
    ms = 1000 * float(np.percentile(found.seconds, 25))  # as of the kernels: other work can only lengthen a run
    return ms, by_layer(kernels, variant.labels, len(variant.shapes))


def opened(path: Path, precision: Precision, conditions: Conditions) -> Runner:
    """An ONNX file of a piece's form, ready to be timed under the conditions."""
    file = ready(path, precision, conditions)
    return open_runner(file, conditions.runtime, threads=conditions.threads, device=conditions.device)


def ready(path: Path, precision: Precision, conditions: Conditions) -> Path:
    """What the runtime opens: the file itself, or for TensorRT its engine."""
    return engine_of(path, precision, conditions) if conditions.runtime == "tensorrt" else path


def by_layer(kernels: Sequence[tuple[str, float]], labels: Mapping[str, int], layers: int) -> tuple[float, ...]:
    """Milliseconds of each layer: of the kernels with its names, and of those without any that follow them.

    Runtimes build a kernel's name on that of a node or tensor it came from: the longest one counts. TensorRT joins
    names («conv + relu», «PWN(sigmoid, mul)», «Reformatting CopyNode for Input Tensor 0 to conv»): the first counts.
    """
    sums = [0.0] * layers
    owner = 0
    for name, seconds in kernels:
        owner = next((labels[part] for part in _parts(name) if part in labels), owner)
        sums[owner] += 1000 * seconds
    return tuple(sums)


def _parts(name: str) -> Iterator[str]:
    """The name and its beginnings, then those of each name in it."""
    yield from _beginnings(name)
    for part in re.findall(r"[^\s,+()\[\]{}]+", name):
        yield from _beginnings(part)


def _beginnings(name: str) -> list[str]:
    """The name, and its beginnings up to each break, longest first."""
    return [name, *(name[: match.start()] for match in reversed(list(re.finditer(r"[_/ ,+:.]", name))))]


def profile_of(subject: Subject, variants: Sequence[Variant], done: Visits, loud: Sequence[str]) -> Profile:
    """What all undisturbed turns together say: medians of each variant's."""
    kept = _kept(done, len(variants), loud)
    whole, layers = _medians(done, kept)
    left = [variants[number] for number in kept]
    kinds: dict[tuple[str, object], int] = {}
    samples: list[list[Sample]] = []
    places = []
    for number, kind in enumerate(variants[0].kinds):
        key = kind, variants[0].shapes[number]
        if key not in kinds:
            kinds[key] = len(samples)
            samples.append([])
        places.append(kinds[key])
        samples[kinds[key]] += [
            Sample(variant.shapes[number], float(ms[number])) for variant, ms in zip(left, layers, strict=True)
        ]
    machine = environment()
    noise = _noise(done, kept)
    float32 = [turn.ms for turn in _quiet(done, len(variants))]
    return Profile(
        FORMAT,
        subject.backbone,
        subject.layout,
        subject.input_size,
        subject.precision,
        done.conditions,
        done.version,
        Machine(str(machine["cpu"])[:300], cores(), str(machine["system"])[:300], gpu_of(done.conditions.device)),
        tuple(Layer(weight, place) for weight, place in zip(subject.layers, places, strict=True)),
        tuple(Kernel(kind, tuple(found)) for (kind, _), found in zip(kinds, samples, strict=True)),
        tuple(Run(variant.shapes, float(ms)) for variant, ms in zip(left, whole, strict=True)),
        noise=min(noise, 1.0),
        stable=noise <= NOISE,
        loud=() if noise <= NOISE else tuple(loud),
        left_out=len(variants) - len(kept),
        float32_ms=float(np.median(float32)) if float32 else None,
    )


def _kept(done: Visits, count: int, loud: Sequence[str]) -> list[int]:
    """The variants with undisturbed turns enough. Raises LatencyError if too few have them, or the unpruned has not."""
    kept = [number for number in range(count) if len(_quiet(done, number)) >= QUIET]
    if 0 in kept and len(kept) >= ENOUGH * count:
        return kept
    lowered = dict.fromkeys(reason for visit in done.visits for reason in visit.throttled)
    why = [f"the clocks were lowered ({', '.join(lowered)})"] if lowered else []
    if any(_busy(visit) for visit in done.visits):
        why.append(f"other processes worked ({', '.join(loud) or 'the system does not tell which'})")
    raise LatencyError(
        f"{count - len(kept)} of {count} models were disturbed each time they were timed, and no plan can be made by "
        f"such times: {' and '.join(why)}. Let nothing else run, give the machine cooling and power, and profile again."
    )


def _settled(done: Visits, count: int) -> bool:
    """Whether every variant was timed undisturbed, and closely enough."""
    return all(len(_quiet(done, n)) >= QUIET for n in range(count)) and _noise(done, range(count)) <= NOISE


def _medians(done: Visits, kept: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of each variant, float [kept], and of its layers, float [kept, layers]."""
    turns = [_quiet(done, number) for number in kept]
    whole = [np.median([turn.ms for turn in each]) for each in turns]
    return np.array(whole), np.array([np.median([turn.layers for turn in each], axis=0) for each in turns])


def _quiet(done: Visits, number: int) -> list[Visit]:
    """The turns of a variant that nothing disturbed."""
    return [visit for visit in done.visits if visit.variant == number and not (visit.throttled or _busy(visit))]


def _busy(visit: Visit) -> bool:
    return disturbed({"others": visit.others, "cores": cores()})


def _noise(done: Visits, kept: Sequence[int]) -> float:
    """The median over variants of the standard error of their times, relative."""
    times = [[turn.ms for turn in _quiet(done, number)] for number in kept]
    return float(np.median([np.std(each, ddof=1) / np.mean(each) / np.sqrt(len(each)) for each in times]))


def _resumed(folder: Path, conditions: Conditions) -> Visits:
    new = Visits(conditions, runtime_version(conditions), cpu_name()[:300])
    file = folder / VISITS
    if not file.exists():
        return new
    found = read_json(file, Visits, cure=f"remove {folder}")
    if replace(found, visits=()) != new:
        raise InputError(
            f"{folder} is half timed in {found.conditions} ({found.version}, {found.cpu}), and now {conditions} "
            f"({new.version}, {new.cpu}) is asked for: finish that one, or remove the folder."
        )
    return found


def runtime_version(conditions: Conditions) -> str:
    """The installed version of a runtime that tells what its kernels take, and has the device."""
    runtime = conditions.runtime
    try:
        module = module_of(runtime)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mvp_deploy"):
            raise InputError(f"there is no runtime {runtime!r}: choose onnxruntime, openvino or tensorrt.") from error
        pip = f"{sys.executable} -m pip install {error.name}"
        raise EnvironmentMissing(f"{runtime} is not installed: `{pip}`.") from error
    if not hasattr(module, "kernel_times"):
        raise EnvironmentMissing(f"{runtime} cannot be profiled yet: choose onnxruntime, openvino or tensorrt.")
    return str(module.version(conditions.device)).split("-")[0]


def _check(folder: Path, subject: Subject, variants: Sequence[Variant], conditions: Conditions) -> None:
    forms = {subject.form, conditions.form}
    if len(forms) > 1 and (subject.precision == "int8" or "engine" in forms):
        raise InputError(
            f"the pieces are not made for {conditions.runtime}: make them with `mvp-deploy profile {subject.backbone} "
            f"--runtime {conditions.runtime} --precision {subject.precision} --out PIECES.zip`."
        )
    for name in pack.names(subject):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: {CURE}.")
    layers = len(subject.layers)
    for number, variant in enumerate(variants):
        if len(variant.shapes) != layers or len(variant.kinds) != layers:
            raise InputError(f"{folder / f'{number:02}.json'} is of another model: {CURE}.")
        if any(owner >= layers for owner in variant.labels.values()):
            raise InputError(f"{folder / f'{number:02}.json'} names a layer that is not there: {CURE}.")
