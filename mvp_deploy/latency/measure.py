"""Timing the pieces on the device: needs NumPy, click and the runtime alone.

Each turn opens one variant, times the whole model, then its kernels by the runtime's own trace. The variants take turns
in rounds, and every turn is kept on disk: a command that is killed goes on from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mvp_deploy.base.environment import cores, environment, loudest, other_work
from mvp_deploy.base.errors import EnvironmentMissing, InputError
from mvp_deploy.base.files import write_text
from mvp_deploy.base.formats import read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.benchmark.measure import Settings, session
from mvp_deploy.benchmark.runner import Runner, module_of, open_runner
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
from mvp_deploy.latency.pack import SUBJECT

VISITS = "visits.json"
ROUNDS = (3, 8)  # at least, and at most where the machine is not quiet
NOISE = 0.02  # stable: the whole models' times have at most this relative standard error
WINDOWS = Settings(duration=0.6, processes=2, window=0.1, warm_up=0.1)  # half of the duration in each turn
KERNEL_RUNS = 30

Look = Callable[[Path, Variant, Conditions, Subject], tuple[float, tuple[float, ...]]]


def measure(
    folder: Path,
    conditions: Conditions,
    *,
    rounds: tuple[int, int] = ROUNDS,
    look: Look | None = None,
    reporter: Reporter,
) -> Profile:
    """Time the pieces in ``folder`` until the machine was quiet enough, or often enough.

    Args:
        rounds: how many at least, and at most.
        look: times one variant; by default `timed`, on this machine.

    Raises:
        MvpError: (INPUT) the folder is damaged, or half timed under other conditions; (ENVIRONMENT) the runtime is
            missing, or tells no times of its kernels.
    """
    subject = read_json(folder / SUBJECT, Subject, cure=CURE, versions=(FORMAT,))
    variants = [read_json(folder / f"{n:02}.json", Variant, cure=CURE) for n in range(len(subject.variants))]
    _check(folder, subject, variants, conditions)
    done = _resumed(folder, conditions)
    least, most = (count * len(variants) for count in rounds)
    with loudest() as loud, reporter.progress("timing") as step:
        while len(done.visits) < least or (len(done.visits) < most and _noise(done, len(variants)) > NOISE):
            step(len(done.visits), max(least, len(done.visits) + 1))
            turn, place = divmod(len(done.visits), len(variants))
            number = place if turn % 2 == 0 else len(variants) - 1 - place  # A B C, C B A: slow drift is shared
            with other_work() as others:
                ms, layers = (look or timed)(folder / f"{number:02}.onnx", variants[number], conditions, subject)
            visit = Visit(number, ms, layers, others[0] if others else None)
            done = replace(done, visits=(*done.visits, visit))
            write_text(folder / VISITS, json.dumps(asdict(done)))
    return profile_of(subject, variants, done, loud)


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
    """What all turns together say: medians of each variant's."""
    whole, layers = _medians(done, len(variants))
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
            Sample(variant.shapes[number], float(ms[number])) for variant, ms in zip(variants, layers, strict=True)
        ]
    machine = environment()
    noise = _noise(done, len(variants))
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
        tuple(Run(variant.shapes, float(ms)) for variant, ms in zip(variants, whole, strict=True)),
        noise=min(noise, 1.0),
        stable=noise <= NOISE,
        loud=() if noise <= NOISE else tuple(loud),
    )


def _medians(done: Visits, variants: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of each variant, float [variants], and of its layers, float [variants, layers].

    Turns that other work disturbed count only where a variant has too few without.
    """
    whole, layers = [], []
    for number in range(variants):
        turns = _turns(done, number)
        whole.append(np.median([turn.ms for turn in turns]))
        layers.append(np.median([turn.layers for turn in turns], axis=0))
    return np.array(whole), np.array(layers)


def _turns(done: Visits, number: int) -> list[Visit]:
    turns = [visit for visit in done.visits if visit.variant == number]
    quiet = [visit for visit in turns if not disturbed({"others": visit.others, "cores": cores()})]
    return quiet if len(quiet) >= 3 else turns


def _noise(done: Visits, variants: int) -> float:
    """The median over variants of the standard error of their times, relative."""
    errors = []
    for number in range(variants):
        times = [turn.ms for turn in _turns(done, number)]
        errors.append(np.std(times, ddof=1) / np.mean(times) / np.sqrt(len(times)) if len(times) > 1 else 1.0)
    return float(np.median(errors))


def _resumed(folder: Path, conditions: Conditions) -> Visits:
    version = runtime_version(conditions)
    file = folder / VISITS
    if not file.exists():
        return Visits(conditions, version)
    found = read_json(file, Visits, cure=f"remove {folder}")
    if (found.conditions, found.version) != (conditions, version):
        raise InputError(
            f"{folder} is half timed in {found.conditions} ({found.version}), and now {conditions} ({version}) is "
            "asked for: finish that one, or remove the folder."
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
        raise EnvironmentMissing(f"{runtime} is not installed: `mvp-deploy doctor` gives the install line.") from error
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
    layers = len(subject.layers)
    for number, variant in enumerate(variants):
        if len(variant.shapes) != layers or len(variant.kinds) != layers:
            raise InputError(f"{folder / f'{number:02}.json'} is of another model: {CURE}.")
        if any(owner >= layers for owner in variant.labels.values()):
            raise InputError(f"{folder / f'{number:02}.json'} names a layer that is not there: {CURE}.")
        if not (folder / f"{number:02}.onnx").is_file():
            raise InputError(f"{folder / f'{number:02}.onnx'} is missing: {CURE}.")
