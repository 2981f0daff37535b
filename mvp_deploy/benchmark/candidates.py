"""Which models a benchmark times, and which is each one's baseline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from mvp_deploy.benchmark.compare import Candidate, Expected
from mvp_deploy.benchmark.runner import runs_here, runtime_of
from mvp_deploy.bundle import Bundle, ModelFile


def of_bundle(bundle: Bundle, built: Sequence[ModelFile] = ()) -> list[Candidate]:
    """Every model of the bundle that runs as it is on this system, and of those ``built`` from it here.

    The baseline is the unpruned model of the same target and precision; if there is none, the target's unpruned
    fp32 model, then the first model.
    """
    samples = bundle.samples
    found = [file for file in [*bundle.models, *built] if not _material(file) and runs_here(bundle.path / file.file)]
    kinds = list(dict.fromkeys((file.target, file.precision) for file in found))
    # pruned beside unpruned
    models = sorted(found, key=lambda file: (kinds.index((file.target, file.precision)), file.model != "unpruned"))

    def candidate(file: ModelFile) -> Candidate:
        path = bundle.path / file.file
        exact = file.precision == "fp32"
        expected = Expected(samples["images"], samples[file.model], file.tolerance, exact, samples["labels"])
        return Candidate(
            file.model,
            file.precision,
            path,
            runtime_of(path),
            _baseline(file, models),
            file.accuracy,
            file.tested,
            expected,
        )

    return [candidate(file) for file in models]


def only(candidates: Sequence[Candidate], runtimes: Collection[str], precisions: Collection[str]) -> list[Candidate]:
    """Those that run in one of the runtimes and are in one of the precisions (none: all), with their baselines.

    A baseline that is left out is replaced by the first that stays.
    """
    kept = [
        index
        for index, candidate in enumerate(candidates)
        if (not runtimes or candidate.runtime in runtimes) and (not precisions or candidate.precision in precisions)
    ]
    place = {index: number for number, index in enumerate(kept)}
    return [replace(candidates[index], baseline=place.get(candidates[index].baseline, 0)) for index in kept]


def by_provider(candidates: Sequence[Candidate], providers: Sequence[str], device: str) -> list[Candidate]:
    """ONNX files once for each of ONNX Runtime's providers, beside their baselines in the same one."""
    if not providers:
        return list(candidates)
    number = device.partition(":")[2]
    rows = [
        (index, provider)
        for index, candidate in enumerate(candidates)
        for provider in (providers if candidate.runtime == "onnxruntime" else (None,))
    ]

    places = {row: at for at, row in enumerate(rows)}
    firsts = {index: at for at, (index, _) in reversed([*enumerate(rows)])}  # for baselines without the provider

    def place(provider: str | None) -> str | None:
        return f"{provider}:{number}" if number and provider in ("cuda", "tensorrt") else provider

    return [
        replace(
            candidates[index],
            baseline=places.get((base := candidates[index].baseline, provider), firsts[base]),
            device=place(provider),
        )
        for index, provider in rows
    ]


def of_files(paths: Sequence[Path]) -> list[Candidate]:
    """Bare model files, the first the baseline; a RUN folder stands for its unpruned and its pruned model."""
    files = [
        file
        for path in paths
        for file in (
            [path / "unpruned.safetensors", path / "pruned.safetensors"]
            if (path / "pruned.safetensors").is_file()
            else [path]
        )
    ]
    return [Candidate(file.stem, "", file, runtime_of(file), 0) for file in files]


def _material(file: ModelFile) -> bool:
    """Whether engines are built from the file, and it is not run itself."""
    return file.target == "tensorrt" and file.file.endswith(".onnx")


def _baseline(file: ModelFile, models: Sequence[ModelFile]) -> int:
    for precision in (file.precision, "fp32"):
        for index, other in enumerate(models):
            if (other.model, other.target, other.precision) == ("unpruned", file.target, precision):
                return index
    return 0
