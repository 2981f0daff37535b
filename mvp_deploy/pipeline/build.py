"""The steps that may share machines with other tasks': prune and export, here, in processes, or on a Ray cluster."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import partial
from multiprocessing.pool import ThreadPool

from mvp_deploy.base.cluster import Cluster, spread
from mvp_deploy.base.environment import cores, versions
from mvp_deploy.base.errors import EnvironmentMissing, ExitCode, MvpError
from mvp_deploy.base.processes import apart
from mvp_deploy.base.reporter import Named, Reporter
from mvp_deploy.pipeline import steps
from mvp_deploy.pipeline.progress import Failure, Progress, go_on
from mvp_deploy.pipeline.steps import Done, Work


def build_all(works: Mapping[str, Work], jobs: int, cluster: Cluster | None, reporter: Reporter) -> dict[str, Progress]:
    """Bring each task's models up to date, ``jobs`` at once in processes of their own, or on the cluster."""
    fresh = {name for name, work in works.items() if plan(work)[1].status == "unchanged"}
    here = {name: build(work, reporter) for name, work in works.items() if name in fresh}  # takes no time
    left = {name: work for name, work in works.items() if name not in fresh}
    if not left:
        made = {}
    elif cluster is not None:
        made = _on_cluster(left, cluster, reporter)
    elif jobs == 1:
        made = {name: build(work, Named(reporter, name)) for name, work in left.items()}
    else:
        with ThreadPool(jobs) as pool:  # Ctrl-C leaves it at once: its threads are daemons, their processes end with us
            calls = [(work, jobs, Named(reporter, name, bars=False)) for name, work in left.items()]
            made = dict(zip(left, pool.starmap(_in_process, calls, chunksize=1), strict=True))
    return here | made


def build(work: Work, reporter: Reporter) -> Progress:
    """Prune and export one task."""
    actions = {"prune": lambda: steps.prune(work, reporter), "export": lambda: steps.export(work, reporter)}
    return go_on(work, Progress(), work.keys, actions)


def plan(work: Work) -> list[Done]:
    """What a run would do now: each step 'unchanged' or 'to do'."""
    found: list[Done] = []
    for step in ("prune", "export", "benchmark"):
        fresh = all(done.status == "unchanged" for done in found) and steps.is_done(work, step, work.keys[step])
        found.append(Done(step, "unchanged" if fresh else "to do"))
    return found


def _in_process(work: Work, jobs: int, reporter: Reporter) -> Progress:
    """Build in a process of its own, so that its death harms no other task, and this one's ends it."""
    try:
        return apart(_share, work, jobs, reporter)
    except ChildProcessError:
        message = "its process was killed, perhaps for want of memory: try fewer --jobs. A new run goes on from there."
        return Progress(failure=Failure(message, ExitCode.ERROR))


def _share(work: Work, jobs: int, reporter: Reporter) -> Progress:
    """Build with a fair share of the cores."""
    import torch

    torch.set_num_threads(max(1, cores() // jobs))
    return build(work, reporter)


def _on_cluster(works: Mapping[str, Work], cluster: Cluster, reporter: Reporter) -> dict[str, Progress]:
    made_with = _made_with()
    pieces = {name: partial(_build_alike, work, made_with) for name, work in works.items()}
    made = {}
    for name, found in spread(cluster, pieces, reporter):
        made[name] = Progress(failure=Failure(str(found), found.code)) if isinstance(found, MvpError) else found
    return {name: made[name] for name in works}


def _build_alike(work: Work, made_with: str, reporter: Reporter) -> Progress:
    """Build on another machine, with the code and libraries that the task's keys speak of."""
    if _made_with() != made_with:
        raise EnvironmentMissing(
            f"{platform.node()} has another mvp-deploy or other libraries than the machine that started the run: "
            "install the same on all.",
        )
    return build(work, reporter)


def _made_with() -> str:
    return steps.key(code=[steps.code("prune"), steps.code("export")], versions=versions())
