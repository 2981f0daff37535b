"""What is done for one task, each step only where its inputs have changed.

OUT/work/TASK/run/        what pruning gave (a RUN folder)
OUT/work/TASK/exported/   the checked models (a bundle without measurements)
OUT/work/TASK/times.json  the benchmark
OUT/work/TASK/STEP.done   the key of the inputs a step was done with, and the checksum of what it gave
OUT/work/NAME-….profile.json   what the backbone takes on a device, see `profiles`
OUT/bundles/TASK/         the bundle, where all gates are met
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mvp_deploy import __file__ as package
from mvp_deploy import bundle
from mvp_deploy.base.environment import cores, cpu_name, versions
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.files import sha256, write_text
from mvp_deploy.base.formats import Amount, read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.bundle import signing
from mvp_deploy.pipeline.config import TaskSection
from mvp_deploy.pipeline.places import content, data_content
from mvp_deploy.pipeline.times import gpu
from mvp_deploy.pruning.config import Budget

if TYPE_CHECKING:
    from mvp_deploy.bank.store import Bank
    from mvp_deploy.latency.meet import Meet
    from mvp_deploy.remote.inventory import Device

# The rooms and files whose code decides what a step gives, beside those of the steps before it.
MADE_BY = {
    "prune": (
        "base", "tasks", "backbones", "training", "structure", "pruning", "bank", "latency", "runs", "remote/clock.py",
    ),
    "export": ("export", "inference", "bundle", "benchmark", "exporters", "calibration"),
    "benchmark": ("pipeline/times.py",),
}  # fmt: skip
STEPS = ("prune", "export", "benchmark", "bundle")  # gates are judged each time: that takes no time


@dataclass(frozen=True)
class Work:
    """One task with its places settled. Travels to worker processes."""

    name: str
    task: TaskSection
    data: str  # SOURCE or SOURCE#classes, local
    bank: Path  # local
    profile: Path | None  # local, where a time is to be met
    there: tuple[str, Device] | None  # the device that it is of, and that times the plans
    device: str
    seed: int
    out: Path
    keys: Mapping[str, str]  # of the inputs of prune, export and benchmark

    @property
    def folder(self) -> Path:
        return self.out / "work" / self.name

    @property
    def bundle(self) -> Path:
        return self.out / "bundles" / self.name

    def output(self, step: str) -> Path:
        names = {"prune": "run", "export": "exported", "benchmark": "times.json"}
        return self.bundle if step == "bundle" else self.folder / names[step]


@dataclass(frozen=True)
class Done:
    """How a step went, or will go; 'disturbed': done, and to be done again by the next run."""

    step: str
    status: Literal["done", "unchanged", "failed", "disturbed", "to do"]
    seconds: Amount = 0.0


@dataclass(frozen=True)
class Shared:
    """What all tasks of a config have in common; ``bank_content``: a checksum of the bank as it is now."""

    bank: Path  # local
    bank_content: str
    device: str
    seed: int
    out: Path


def settle(
    name: str,
    task: TaskSection,
    data: str,
    profile: Path | None,
    there: tuple[str, Device] | None,
    shared: Shared,
) -> Work:
    """A task with the keys of its steps. Each key holds those before it, so a change redoes all that follows."""
    untaken = profile is None or (there is not None and not profile.exists())
    prune = key(
        code=code("prune"),
        versions=versions() | {"python": platform.python_version()},
        spec=task.data,  # not ``data``, which changes with the folder that the command is called in
        data=data_content(data),
        bank=shared.bank_content,
        profile=None if untaken else content(str(profile)),
        device=shared.device,
        seed=shared.seed,
        task=task.model_dump(mode="json", include={"skip_bad", "budget", "time", "recipe", "training"}),
    )
    export = key(after=prune, code=code("export"), export=asdict(task.export))
    machine = {"cpu": cpu_name(), "cores": cores(), "gpu": gpu() if "tensorrt" in task.export.targets else None}
    times = key(after=export, code=code("benchmark"), benchmark=asdict(task.benchmark), **machine)
    keys = {"prune": prune, "export": export, "benchmark": times}
    return Work(name, task, data, shared.bank, profile, there, shared.device, shared.seed, shared.out, keys)


def key(**inputs: Any) -> str:
    """A name for inputs (JSON values): equal ones, equal name."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=len(MADE_BY))
def code(step: str) -> str:
    """A checksum of the code that decides what a step gives, but for comments, docstrings and layout."""
    house = Path(str(package)).parent
    made_by = [house / name for name in MADE_BY[step]]
    files = [file for place in made_by for file in (place.rglob("*") if place.is_dir() else [place])]
    programs = [meaning(file.read_text(encoding="utf-8")) for file in files if file.suffix == ".py"]
    calls = {"prune": (prune, _budget), "export": (export,)}.get(step, ())
    programs += [meaning(inspect.getsource(call)) for call in calls]
    return key(programs=sorted(programs), data=sorted(sha256(file) for file in files if file.suffix == ".npz"))


def meaning(program: str) -> str:
    """A Python program without its comments, docstrings and layout."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [line for line in node.body if not _is_text(line)]
    return ast.dump(tree)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def is_done(work: Work, step: str, step_key: str) -> bool:
    """Whether the step was done with these inputs, and what it gave is still there as it was."""
    output = work.output(step)
    try:
        mark = read_json(work.folder / f"{step}.done", dict, cure="run again")
        return bool(mark == {"key": step_key, "content": _given(output)})
    except (OSError, ValueError, MvpError):
        return False


def _given(output: Path) -> str:
    """A checksum of what a step gave. Of a bundle, what is built or measured with it later does not count."""
    if not (output / bundle.MANIFEST).is_file():
        return content(str(output))
    return key(files=bundle.digest(output), signed=signing.is_signed(output), wrong=bundle.verify(output))


def once(work: Work, step: str, step_key: str, action: Callable[[], bool | None]) -> Done:
    """Do the step, unless that is done. An action that returns False is not marked as done: its result is not kept."""
    if is_done(work, step, step_key):
        return Done(step, "unchanged")
    start = time.perf_counter()
    if action() is False:
        return Done(step, "disturbed", time.perf_counter() - start)
    write_text(work.folder / f"{step}.done", json.dumps({"key": step_key, "content": _given(work.output(step))}))
    return Done(step, "done", time.perf_counter() - start)


def prune(work: Work, reporter: Reporter) -> None:
    """The RUN folder. A killed call goes on where it stopped."""
    from mvp_deploy.bank.store import Bank
    from mvp_deploy.base.devices import resolve
    from mvp_deploy.pruning.original import suited
    from mvp_deploy.runs import Pruning, prune_task
    from mvp_deploy.tasks import load_task

    asked, bank = work.task, Bank.open(work.bank)
    budget, meet = _budget(work, bank, reporter)
    prune_task(
        load_task(work.data, skip_bad=asked.skip_bad),
        bank,
        work.output("prune"),
        Pruning(budget, asked.recipe.recipe(), suited(bank.backbone, asked.training, work.seed), meet),
        device=resolve(work.device),
        reporter=reporter,
    )


def _budget(work: Work, bank: Bank, reporter: Reporter) -> tuple[Budget, Meet | None]:
    """How much stays; for a time to meet, what allots the units too."""
    from mvp_deploy.latency import files
    from mvp_deploy.latency.floor import others
    from mvp_deploy.latency.meet import Meet, Target
    from mvp_deploy.latency.timer import here
    from mvp_deploy.pipeline.shrink import fast_enough, runtimes_of
    from mvp_deploy.remote.clock import clock_there

    asked = work.task.time
    if asked is None or work.profile is None:
        return work.task.budget, None
    profile = files.known(work.profile, reporter)
    files.say_conditions(profile, reporter)
    files.check_shipped(profile, work.task.export.precisions, reporter)
    files.check_runtime(profile, runtimes_of(work.task.export.targets), reporter)
    timed = work.task.benchmark
    files.check_timed(profile, timed.batches, timed.threads or cores(), reporter)
    target = Target(asked.latency_ms, asked.speed_up).than_float32(profile, work.task.export.precisions, reporter)
    if target.gained != 1:
        reporter.say(f"asked for: {target}. Gates compare with the unpruned model of the same precision.")
    clock = partial(clock_there, *work.there) if work.there else here
    known = others(work.profile)
    meet = Meet(target, profile, work.task.budget.round_to, partial(clock, profile, reporter), reporter, known)
    if fast_enough(meet, bank, reporter):
        return Budget(1.0, "macs", meet.round_to), None
    return meet.budget, meet


def export(work: Work, reporter: Reporter) -> None:
    """Every file asked for, checked against PyTorch, as a bundle without measurements."""
    from mvp_deploy.base.devices import resolve
    from mvp_deploy.export.deploy import export_run
    from mvp_deploy.export.pack import Order, failure

    exported = export_run(
        work.output("prune"),
        work.output("export"),
        Order.of(work.task.export, reporter),
        device=resolve(work.device),
        seed=work.seed,
        reporter=reporter,
    )
    if error := failure(exported):
        raise error


def pack(work: Work, sign_key: Path | None, devices: Mapping[str, Path]) -> None:
    """The bundle: what was exported, with its times where nothing disturbed them; signed where there is a key.

    devices: files of what was measured on devices, by their names.
    """
    exported = work.output("export")
    bundle.read(exported)  # refuses what is not as it was written
    seal = None if sign_key is None else partial(signing.sign, private_key=sign_key)
    with bundle.writing(work.bundle, seal) as folder:
        shutil.copytree(
            exported, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(bundle.MANIFEST, bundle.BUILT)
        )
        if measured(work):
            shutil.copyfile(work.output("benchmark"), folder / "measurements.json")
        for name, file in devices.items():
            (folder / bundle.DEVICES).mkdir(exist_ok=True)
            shutil.copyfile(file, folder / bundle.DEVICES / f"{name}.json")


def measured(work: Work) -> bool:
    """Whether the task's times are a result: no other work disturbed them."""
    return not disturbed(_times(work)["environment"])


def _times(work: Work) -> dict[str, Any]:
    from mvp_deploy.benchmark.format import read_times

    return read_times(work.output("benchmark"), cure="remove it and run again")


def facts(work: Work) -> dict[str, Any]:
    """What was found of the task, for gates and reports: JSON values from what the steps wrote."""
    from mvp_deploy import runs
    from mvp_deploy.exporters.protocol import size_of

    run = runs.load(work.output("prune")).info
    exported = work.output("export")
    info = bundle.read(exported).info
    models = [model | {"bytes": size_of(exported / model["file"])} for model in info["models"]]
    times = _times(work)
    shown = ("metrics", "images", "classes", "groups", "votes", "recipe", "budget", "seed")
    return {name: run[name] for name in shown} | {
        "models": models,
        "held_out": info["task"]["held_out"],
        "times": times,
        "warnings": [*run["warnings"], *filter(None, [times["no_engines"]])],
    }
