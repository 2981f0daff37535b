"""All tasks of a deploy.yaml: models first, several at once; then, one by one, times, gates and bundles."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvp_deploy import bundle
from mvp_deploy.base.cluster import Cluster
from mvp_deploy.base.environment import commit, environment
from mvp_deploy.base.errors import ExitCode, InputError, MvpError, worst
from mvp_deploy.base.fetching import cache, is_url
from mvp_deploy.base.files import locked, sha256
from mvp_deploy.base.folders import refuse_inside
from mvp_deploy.base.reporter import Named, Reporter, Silent
from mvp_deploy.bundle import signing
from mvp_deploy.pipeline import ondevices, profiles, steps
from mvp_deploy.pipeline.baseline import SCHEMA, compare
from mvp_deploy.pipeline.build import build_all, plan
from mvp_deploy.pipeline.config import Config
from mvp_deploy.pipeline.gates import Verdict, judge
from mvp_deploy.pipeline.places import content, local
from mvp_deploy.pipeline.progress import Failure, Progress, caught, go_on
from mvp_deploy.pipeline.steps import Work
from mvp_deploy.pipeline.times import measure
from mvp_deploy.remote.inventory import Inventory
from mvp_deploy.tasks.load import refuse_far_table, require_source
from mvp_deploy.tasks.task import place_of

if TYPE_CHECKING:
    from mvp_deploy.backbones import Backbone


@dataclass(frozen=True)
class Acceptance:
    """How a finished task is judged, and signed where it passes.

    Attributes:
        baseline: The report of the last accepted run.
        sign_key: The private key that bundles are signed with.
        devices: Machines that every task's models are timed on too.
        allow_missing: Whether one of them that is away is a named gap, and no failure.
    """

    baseline: Mapping[str, Any] | None = None
    sign_key: Path | None = None
    devices: Inventory = field(default_factory=dict)
    allow_missing: bool = False

    def public_key(self) -> str | None:
        """The key's public half, None without a key. Raises MvpError for one that cannot be used."""
        return None if self.sign_key is None else signing.public_half(self.sign_key)

    @property
    def before(self) -> Mapping[str, Any]:
        """The tasks of the baseline, by name."""
        return self.baseline["tasks"] if self.baseline else {}


def run(
    config: Config,
    base: Path,
    acceptance: Acceptance,
    *,
    inventory: Path,
    only: Sequence[str] = (),
    jobs: int = 1,
    cluster: Cluster | None = None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Bring every task up to date and judge it; gives what report.json holds. If a task fails, the report says why.

    Args:
        base: what the config's paths are relative to.
        inventory: devices.yaml, for devices that a task is pruned for.
        only: names of tasks; all if empty.
        jobs: how many tasks are pruned and exported at once, each in a process of its own.
        cluster: where they are pruned and exported instead.

    Raises:
        MvpError: (INPUT) no such task, no bank, no usable key; (ENVIRONMENT) another run is at work in the same
            folder, or what the key or the cluster needs is missing.
    """
    acceptance.public_key()  # an unusable key is said before hours of pruning
    with alone(folder(config, base)):
        settled = settle(config, base, inventory, only, reporter, take=True)
        works = {name: caught(partial(_possible, work, here=cluster is None)) for name, work in settled.items()}
        built = build_all(
            {name: work for name, work in works.items() if isinstance(work, Work)}, jobs, cluster, reporter
        )
        tasks = {}
        for name, work in works.items():
            if isinstance(work, Failure):
                tasks[name] = _told(Progress(failure=work), [], {})
            else:
                tasks[name] = _finish(work, built[name], acceptance, Named(reporter, name))
    for path in orphans(folder(config, base), config.tasks):
        reporter.warn(f"{path} is of a task that the config no longer has: no run renews it. Remove it.")
    code = worst(ExitCode(task["code"]) for task in tasks.values())
    return {
        "schema": SCHEMA,
        "code": int(code),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "only": list(only),
        "environment": environment(),
        "gone": sorted(set(acceptance.before) - set(config.tasks)),
        "tasks": tasks,
        "commit": commit(),
    }


def settle(
    config: Config, base: Path, inventory: Path, only: Sequence[str], reporter: Reporter, *, take: bool = False
) -> dict[str, Work | Failure]:
    """Every task asked for with its keys, or why it cannot be started.

    take: whether devices are profiled that tasks are pruned for, where that was not done.
    """
    if unknown := [name for name in only if name not in config.tasks]:
        raise InputError(f"there is no task {unknown[0]!r}: the config has {', '.join(config.tasks)}.")
    (bank, backbone), out = _bank(config, base, reporter), folder(config, base)
    refuse_inside(out, bank)
    shared = steps.Shared(bank, content(str(bank)), config.device, config.seed, out)

    def settled(name: str) -> Work:
        task = config.tasks[name]
        refuse_far_table(task.data)
        data = local(task.data, base, reporter)
        require_source(data)
        refuse_inside(out, place_of(data))
        there = None if task.time is None else profiles.device_of(task.time.profile, base, inventory)
        if task.time is None:
            profile = None
        elif there is None:
            profile = Path(local(task.time.profile, base, reporter))
        else:
            profile = profiles.of_device(there, task, backbone, out, reporter, take=take)
        return steps.settle(name, task, data, profile, there, shared)

    return {name: caught(partial(settled, name)) for name in only or config.tasks}


def orphans(out: Path, tasks: Collection[str]) -> list[Path]:
    """Bundles in ``out`` of tasks that are not among these: whoever ships the folder would ship them."""
    bundles = out / "bundles"
    there = sorted(bundles.iterdir()) if bundles.is_dir() else []
    return [path for path in there if path.name not in tasks and bundle.is_bundle(path)]


def folder(config: Config, base: Path) -> Path:
    """Where the run's files lie on this machine; for an ``out`` elsewhere, where they wait to be published."""
    if is_url(config.out):
        return cache() / "out" / steps.key(out=config.out)[:16]
    return Path(os.path.relpath(base / config.out))


def _bank(config: Config, base: Path, reporter: Reporter) -> tuple[Path, Backbone]:
    from mvp_deploy.bank.store import Bank

    bank = Path(local(config.bank, base, reporter))
    found = Bank.open(bank).backbone
    if config.backbone is not None and found.name != config.backbone:
        raise InputError(f"the bank {config.bank} is of {found.name}, the config asks for {config.backbone}.")
    return bank, found


def alone(out: Path) -> AbstractContextManager[None]:
    """Keep other runs from the folder."""
    busy = f"another run is at work in {out}: wait for it, or give this one another folder (--set out=FOLDER)."
    return locked(out / ".lock", busy)


def _possible(work: Work | Failure, *, here: bool) -> Work | Failure:
    """The task; before hours of work, a device or package that it will need and that is missing is reported.

    here: whether it is pruned on this machine, and not on a cluster's.
    """
    if isinstance(work, Failure) or plan(work)[1].status == "unchanged":
        return work
    from mvp_deploy.base.devices import resolve
    from mvp_deploy.export.artefacts import plan as plan_export

    if here:
        resolve(work.device)
        plan_export(work.task.export, Silent())
    return work


def _finish(work: Work, progress: Progress, acceptance: Acceptance, reporter: Named) -> dict[str, Any]:
    """Time, judge and bundle one task, alone on the machine; gives its part of report.json."""
    progress = go_on(work, progress, work.keys, {"benchmark": lambda: measure(work, reporter)})
    verdicts: list[Verdict] = []
    facts: dict[str, Any] = {}
    if progress.failure is None:
        facts = steps.facts(work)
        verdicts = judge(facts, work.task.gates)
        if acceptance.devices:
            there = ondevices.measure_on(work, acceptance.devices, acceptance.allow_missing, reporter)
            facts["devices"] = ondevices.to_json(there)
            verdicts += ondevices.judge_on(there, work.task.gates)
        if before := acceptance.before.get(work.name):
            verdicts += compare(facts, before, work.task.gates.max_regression)
    failed = any(verdict.code for verdict in verdicts)
    if progress.failure is None and not failed:
        measured = ondevices.files(work)
        inputs: dict[str, Any] = {"signed_by": acceptance.public_key(), "measured": steps.measured(work)}
        inputs |= {"devices": {name: sha256(file) for name, file in measured.items()}} if measured else {}
        keys = {"bundle": steps.key(after=work.keys["benchmark"], **inputs)}
        progress = go_on(work, progress, keys, {"bundle": lambda: steps.pack(work, acceptance.sign_key, measured)})
    elif failed:
        _withdraw(work, reporter)
    if progress.failure:
        left = f" ({work.bundle} is an earlier run's.)" if bundle.is_bundle(work.bundle) else ""
        reporter.warn(progress.failure.message + left)
    packed = any(done.step == "bundle" and done.status != "failed" for done in progress.done)
    facts["bundle"] = str(work.bundle) if packed else None
    return _told(progress, verdicts, {"data": work.task.data, **facts})


def _withdraw(work: Work, reporter: Named) -> None:
    """Take away the bundle of an older run: nobody should take it for this one's, which failed."""
    try:
        bundle.withdraw(work.bundle)
    except MvpError as error:
        reporter.warn(f"an older run's bundle may be left: {error}")


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
