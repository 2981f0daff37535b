"""Which models a benchmark times, and which is each one's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvp_deploy.benchmark.compare import Candidate, Expected
from mvp_deploy.benchmark.runner import runtime_of
from mvp_deploy.bundle import Bundle, ModelFile


def of_bundle(bundle: Bundle) -> list[Candidate]:
    """Every model of the bundle; the baseline is the unpruned model of the same target and precision.

    Where the bundle has no such model, it is the target's unpruned fp32 model, then the first model.
    """
    samples = bundle.samples

    def candidate(file: ModelFile) -> Candidate:
        path = bundle.path / file.file
        expected = Expected(samples["images"], samples[file.model], file.tolerance)
        return Candidate(
            file.model,
            file.precision,
            path,
            runtime_of(path),
            _baseline(file, bundle),
            file.accuracy,
            expected,
        )

    return [candidate(file) for file in bundle.models]


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


def _baseline(file: ModelFile, bundle: Bundle) -> int:
    for precision in (file.precision, "fp32"):
        for index, other in enumerate(bundle.models):
            if (other.model, other.target, other.precision) == ("unpruned", file.target, precision):
                return index
    return 0
