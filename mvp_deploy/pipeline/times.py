"""The benchmark step: every exported model timed in turns with the others, on the CPU; engines on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mvp_deploy import bundle
from mvp_deploy.base.environment import environment
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.files import atomic_write
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.bundle import Bundle, ModelFile

if TYPE_CHECKING:
    from mvp_deploy.pipeline.steps import Work


def measure(work: Work, reporter: Reporter) -> bool:
    """Write times.json, and say whether its times are a result: nothing disturbed them.

    Its ``no_engines`` says why engines that were asked for are not timed.
    """
    from mvp_deploy.benchmark.candidates import of_bundle
    from mvp_deploy.benchmark.compare import benchmark
    from mvp_deploy.benchmark.format import write_times
    from mvp_deploy.benchmark.measure import Settings

    asked = work.task.benchmark
    exported = bundle.read(work.output("export"))
    times: dict[str, Any] = {"environment": environment(), "rows": [], "no_engines": None}
    engines: list[ModelFile] = []
    if asked.batches and "tensorrt" in work.task.export.targets:
        engines, times["no_engines"] = _engines(exported, asked.batches, reporter)
    without = replace(exported, models=())
    places = {"cpu": of_bundle(exported), "auto": of_bundle(without, engines)}
    for device, candidates in places.items():
        if not candidates or not asked.batches:
            continue
        found = benchmark(
            candidates,
            asked.batches,
            Settings(duration=asked.duration),
            threads=asked.threads,
            device=device,
            seed=work.seed,
            reporter=reporter,
        )
        if error := found.failure():
            raise error
        made = found.to_json()
        others = [each["environment"].get("others") for each in (times, made)]
        made["environment"]["others"] = max((each for each in others if each is not None), default=None)
        times |= {"environment": made["environment"], "rows": [*times["rows"], *made["rows"]]}
    with atomic_write(work.output("benchmark")) as temporary:
        write_times(temporary, times)
    return not disturbed(times["environment"])


def gpu() -> str | None:
    """The GPU and TensorRT that engines are built for here; None without."""
    from mvp_deploy.exporters.tensorrt import cache
    from mvp_deploy.exporters.tensorrt.probe import probe

    try:
        return cache.folder(probe(0))
    except MvpError:
        return None


def _engines(exported: Bundle, batches: Sequence[int], reporter: Reporter) -> tuple[list[ModelFile], str | None]:
    """The bundle's engines, built in it, or why there are none.

    Raises:
        MvpError: this machine builds engines, and one of them failed.
    """
    from mvp_deploy.export.engines import build_engines, engines_of
    from mvp_deploy.exporters.tensorrt.build import Options, Profile

    options = Options(profiles=tuple(Profile(size, size, size) for size in batches))
    try:
        engines = build_engines(exported, (), options, device="auto", reporter=reporter)
    except MvpError as error:
        reason = f"No TensorRT engine was built or timed: {error}"
        reporter.warn(reason)
        return [], reason
    if failed := next((engine.error for engine in engines if engine.error), None):
        raise failed
    return engines_of(exported), None
