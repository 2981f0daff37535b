"""All tasks of a deploy.yaml: models first, in as many processes as asked; then, one by one, times and gates."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mvp_deploy.benchmark.environment import cores, environment
from mvp_deploy.errors import DeployError, ExitCode
from mvp_deploy.pipeline import steps
from mvp_deploy.pipeline.baseline import SCHEMA, compare
from mvp_deploy.pipeline.config import Config
from mvp_deploy.pipeline.gates import Verdict, judge
from mvp_deploy.pipeline.places import local
from mvp_deploy.pipeline.steps import Done, Work
from mvp_deploy.reporter import Reporter

# Of several failures the first of these decides: what stopped the work before what the work found.
WORST = (
    ExitCode.ERROR,
    ExitCode.ENVIRONMENT,
    ExitCode.INPUT,
    ExitCode.PARITY,
    ExitCode.ACCURACY,
    ExitCode.LATENCY,
    ExitCode.OK,
)


@dataclass(frozen=True)
class Failure:
    """Why a task's steps could not go on."""

    message: str
    code: ExitCode


@dataclass(frozen=True)
class Progress:
    """A task on its way: what was done, and what stopped it, if anything did."""

    done: tuple[Done, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class Named:
    """Speaks of one task; without ``bars`` it shows no progress (several tasks would write over each other)."""

    reporter: Reporter
    name: str
    bars: bool = True

    def say(self, text: str) -> None:
        self.reporter.say(f"{self.name}: {text}")

    def warn(self, text: str) -> None:
        self.reporter.warn(f"{self.name}: {text}")

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., Any]]:
        if not self.bars:
            yield lambda *args: None
            return
        with self.reporter.progress(f"{self.name}: {label}") as step:
            yield step


def run(
    config: Config,
    base: Path,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    baseline: Mapping[str, Any] | None = None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Bring every task up to date and judge it; gives what report.json holds. A task's failure is told in there.

    Args:
        base: what the config's paths are relative to.
        only: names of tasks; all if empty.
        jobs: how many tasks are pruned and exported at once, each in a process of its own.
        baseline: the report of the last accepted run.

    Raises:
        DeployError: (INPUT) no such task or no bank; (ENVIRONMENT) another run is at work in the same folder.
    """
    out = Path(os.path.relpath(base / config.out))
    with _locked(out):
        works = settle(config, base, only)
        with ThreadPoolExecutor(jobs) as pool:
            built = list(pool.map(lambda work: _build(work, jobs, reporter), works.values()))
        tasks = {
            name: _finish(work, progress, baseline, Named(reporter, name))
            for (name, work), progress in zip(works.items(), built, strict=True)
        }
    code = worst(ExitCode(task["code"]) for task in tasks.values())
    return {
        "schema": SCHEMA,
        "code": int(code),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "only": list(only),
        "environment": environment(),
        "gone": sorted(set(baseline["tasks"]) - set(config.tasks)) if baseline else [],
        "tasks": tasks,
    }


def settle(config: Config, base: Path, only: Sequence[str] = ()) -> dict[str, Work | Failure]:
    """Every task asked for with its keys, or why it cannot be started."""
    if unknown := [name for name in only if name not in config.tasks]:
        raise DeployError(f"there is no task {unknown[0]!r}: the config has {', '.join(config.tasks)}.")
    bank = _bank(config, base)
    out = Path(os.path.relpath(base / config.out))

    def settled(name: str) -> Work:
        task = config.tasks[name]
        data = local(task.data, base)
        return steps.settle(name, task, data, bank, device=config.device, seed=config.seed, out=out)

    return {name: _caught(partial(settled, name)) for name in only or config.tasks}


def plan(work: Work) -> list[Done]:
    """What a run would do now: each step 'unchanged' or 'to do'."""
    found: list[Done] = []
    for step in ("prune", "export", "benchmark"):
        fresh = all(done.status == "unchanged" for done in found) and steps.is_done(work, step, work.keys[step])
        found.append(Done(step, "unchanged" if fresh else "to do"))
    return found


def worst(codes: Iterator[ExitCode]) -> ExitCode:
    """What the command ends with when its tasks would end with these."""
    return min(codes, key=WORST.index, default=ExitCode.OK)


def _bank(config: Config, base: Path) -> Path:
    bank = Path(local(config.bank, base))
    if not (bank / "bank.json").is_file():
        raise DeployError(
            f"{config.bank} is not a bank: make one with `mvp-deploy bank init {config.bank} --backbone resnet18`."
        )
    if config.backbone is not None:
        import json

        found = json.loads((bank / "bank.json").read_text())["backbone"]["name"]
        if found != config.backbone:
            raise DeployError(f"the bank {config.bank} is of {found}, the config asks for {config.backbone}.")
    return bank


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DeployError(
            f"another run is at work in {out}: wait for it, or give this one another folder (--set out=FOLDER).",
            ExitCode.ENVIRONMENT,
        ) from error
    try:
        yield
    finally:
        lock.release()


def _build(work: Work | Failure, jobs: int, reporter: Reporter) -> Progress:
    """Prune and export one task; with several jobs in a process of its own, so that its death harms no other."""
    if isinstance(work, Failure):
        return Progress(failure=work)
    named = Named(reporter, work.name, bars=jobs == 1)
    if jobs == 1 or plan(work)[1].status == "unchanged":
        return build(work, named)
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context, initializer=_begin_worker, initargs=(jobs,)) as pool:
            return pool.submit(build, work, named).result()
    except BrokenProcessPool:
        message = "its process was killed, perhaps for want of memory: try fewer --jobs. A new run goes on from there."
        return Progress(failure=Failure(message, ExitCode.ERROR))


def build(work: Work, reporter: Reporter) -> Progress:
    """The steps that may share the machine with other tasks'."""
    actions = {"prune": lambda: steps.prune(work, reporter), "export": lambda: steps.export(work, reporter)}
    return _go(work, Progress(), work.keys, actions)


def _begin_worker(jobs: int) -> None:
    """Take a fair share of the cores; and end with the parent, whose lock keeps other runs from the folder."""
    import torch

    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(max(1, cores() // jobs))


def _go(work: Work, progress: Progress, keys: Mapping[str, str], actions: Mapping[str, Callable[[], None]]) -> Progress:
    for step, action in actions.items():
        if progress.failure:
            break
        found = _caught(partial(steps.once, work, step, keys[step], action), work.folder)
        if isinstance(found, Failure):
            progress = Progress((*progress.done, Done(step, "failed")), found)
        else:
            progress = Progress((*progress.done, found))
    return progress


def _caught(action: Callable[[], Any], folder: Path | None = None) -> Any:
    """What ``action`` gives, or the failure that stopped it: no task's trouble is another's."""
    try:
        return action()
    except DeployError as error:
        return Failure(str(error), error.code)
    except Exception as error:
        where = ""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(traceback.format_exc())
            where = f" (traceback in {folder / 'error.txt'})"
        return Failure(f"unexpected {type(error).__name__}: {error}{where}", ExitCode.ERROR)


def _finish(
    work: Work | Failure, progress: Progress, baseline: Mapping[str, Any] | None, reporter: Named
) -> dict[str, Any]:
    """Time, judge and bundle one task, alone on the machine; gives its part of report.json."""
    if isinstance(work, Failure):
        return _told(progress, [], {})
    progress = _go(work, progress, work.keys, {"benchmark": lambda: steps.measure(work, reporter)})
    verdicts: list[Verdict] = []
    facts: dict[str, Any] = {}
    if progress.failure is None:
        facts = steps.facts(work)
        verdicts = judge(facts, work.task.gates)
        before = (baseline or {"tasks": {}})["tasks"].get(work.name)
        if before and before.get("models"):
            verdicts += compare(facts, before, work.task.gates.max_regression)
    if progress.failure is None and not any(verdict.code for verdict in verdicts):
        keys = {"bundle": steps.key(after=work.keys["benchmark"])}
        progress = _go(work, progress, keys, {"bundle": lambda: steps.pack(work)})
    else:
        shutil.rmtree(work.bundle, ignore_errors=True)  # nobody should take an older run's bundle for this one's
    if progress.failure:
        reporter.warn(progress.failure.message)
    facts["bundle"] = str(work.bundle) if (work.bundle / "manifest.json").is_file() else None
    return _told(progress, verdicts, {"data": work.task.data, **facts})


def _told(progress: Progress, verdicts: Sequence[Verdict], facts: Mapping[str, Any]) -> dict[str, Any]:
    failure = progress.failure
    code = failure.code if failure else worst(verdict.code for verdict in verdicts)
    return {
        "code": int(code),
        "outcome": "error" if failure else "failed" if code else "met",
        "error": failure.message if failure else None,
        "steps": [asdict(done) for done in progress.done],
        "gates": [asdict(verdict) for verdict in verdicts],
        **facts,
    }
