"""Which models a benchmark times, and which is each one's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvp_deploy.benchmark.compare import Candidate, Expected
from mvp_deploy.benchmark.runner import runtime_of
from mvp_deploy.bundle import Bundle, ModelFile


def of_bundle(bundle: Bundle, built: Sequence[ModelFile] = ()) -> list[Candidate]:
    """Every model of the bundle that runs as it is, and of those ``built`` from it here.

    The baseline is the unpruned model of the same target and precision; where there is none, the target's unpruned
    fp32 model, then the first model.
    """
    samples = bundle.samples
    models = [file for file in [*bundle.models, *built] if not _material(file)]

    def candidate(file: ModelFile) -> Candidate:
        path = bundle.path / file.file
        expected = Expected(samples["images"], samples[file.model], file.tolerance)
        return Candidate(
            file.model,
            file.precision,
            path,
            runtime_of(path),
            _baseline(file, models),
            file.accuracy,
            expected,
        )

    return [candidate(file) for file in models]


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
