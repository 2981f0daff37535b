"""TensorRT engines of a bundle: built and checked on the machine that runs them, kept in the bundle's ``built``.

Needs numpy and TensorRT alone. Engines are good for one GPU and one TensorRT, so each such pair has a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.files import atomic_write, locked
from mvp_deploy.base.formats import inside, read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.runner import logits
from mvp_deploy.benchmark.tensorrt import EngineRunner, gpu_index
from mvp_deploy.bundle import BUILT, Bundle, ModelFile, write_json
from mvp_deploy.exporters.parity import Parity, check_parity
from mvp_deploy.exporters.tensorrt import cache
from mvp_deploy.exporters.tensorrt.build import Options, build
from mvp_deploy.exporters.tensorrt.probe import Offer, probe
from mvp_deploy.inference.model import Which, chosen

MADE_FOR_IT = "tensorrt"  # the target of ONNX files that keep to TensorRT's rules
ENGINE = "engine"  # the target of what is built from them
LIST = "models.json"
# How far an engine's logits may be from PyTorch's, relative to the largest: what other kernels and sums differ by.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25}


@dataclass(frozen=True)
class Engine:
    """The result for one model in one precision; ``error`` says why there is no engine."""

    model: str
    precision: str
    file: str = ""  # inside the bundle
    size: int = 0  # bytes
    layers: dict[str, int] | None = None  # computing layers by precision
    parity: float | None = None
    seconds: float = 0.0
    reused: bool = False
    error: MvpError | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(replace(self, error=None)), "error": None if self.error is None else str(self.error)}


def build_engines(
    bundle: Bundle, precisions: Sequence[str], options: Options, *, device: str, reporter: Reporter
) -> list[Engine]:
    """Build every model of the bundle in the given precisions (none: those it has ONNX files of), and check each.

    An engine that is there and made from the same is kept. One that fails does not stop the others.

    Raises:
        MvpError: (ENVIRONMENT) no GPU or no TensorRT, or another process is building there.
    """
    offer = probe(gpu_index(device))
    folder = _folder(bundle, offer)
    with locked(folder / ".lock", f"another process is building engines in {folder}: wait for it."):
        return _build_engines(bundle, precisions, options, offer, reporter)


def _build_engines(
    bundle: Bundle, precisions: Sequence[str], options: Options, offer: Offer, reporter: Reporter
) -> list[Engine]:
    onnx = [file for file in bundle.models if _may_be_built(file)]
    chosen = precisions or tuple(dict.fromkeys(file.precision for file in onnx))
    wanted = [(model, precision) for model in dict.fromkeys(file.model for file in onnx) for precision in chosen]
    engines, models = [], []
    for model, precision in wanted:
        reporter.say(f"building {model} {precision} for {offer.gpu.name} (this can take minutes)")
        try:
            engine, file = _engine(bundle, model, replace(options, precision=precision), offer)
            models.append(file)
        except MvpError as error:
            engine = Engine(model, precision, error=error)
        engines.append(engine)
    _list(bundle, offer, models)
    return engines


def engines_of(bundle: Bundle, device: str = "auto") -> list[ModelFile]:
    """The bundle's engines for this machine; none if it has no GPU or no TensorRT."""
    if not (bundle.path / BUILT).is_dir():
        return []  # without importing TensorRT, which takes a while
    try:
        offer = probe(gpu_index(device))
    except MvpError:
        return []
    return _listed(bundle, _folder(bundle, offer))


def model_of(bundle: Bundle, which: Which, device: str) -> ModelFile:
    """The bundle's file for a target and precision, where the target ``engine`` means those built on this machine.

    Raises:
        MvpError: as `mvp_deploy.inference.model.chosen`.
    """
    return chosen(bundle, which, engines_of(bundle, device) if which.target == ENGINE else ())


def _engine(bundle: Bundle, model: str, options: Options, offer: Offer) -> tuple[Engine, ModelFile]:
    source = _source(bundle, model, options.precision, offer)
    onnx, path = bundle.path / source.file, _folder(bundle, offer) / f"{model}.{options.precision}.engine"
    identity = cache.identity(offer, onnx, options)
    record = cache.stored(path, identity)
    reused = record is not None
    if record is None:
        record = cache.store(path, build(offer, onnx, options, cache.timing(offer)), identity, onnx)
    tolerance = max(source.tolerance, TOLERANCE[options.precision])
    try:
        parity, accuracy = _check(bundle, model, path, options, offer, tolerance)
    except MvpError:
        cache.remove(path)
        raise
    name = path.relative_to(bundle.path).as_posix()
    file = replace(
        source,
        file=name,
        target=ENGINE,
        precision=options.precision,
        accuracy=accuracy,
        parity=parity.relative,
        tolerance=tolerance,
        tested=len(bundle.samples["labels"]),
        wrong=(),
    )
    seconds = 0.0 if reused else record["build_seconds"]
    size, layers = record["bytes"], record["layers"]
    return Engine(model, options.precision, name, size, layers, parity.relative, seconds, reused), file


def _source(bundle: Bundle, model: str, precision: str, offer: Offer) -> ModelFile:
    """The ONNX file to build from: of the asked precision, but float32 for fp16 where flags decide.

    Files made for TensorRT come first.
    """
    files = {
        (file.precision, file.target == MADE_FOR_IT): file
        for file in bundle.models
        if file.model == model and _may_be_built(file)
    }
    wanted = ["fp32", "fp16"] if precision == "fp16" and not offer.typed else [precision]
    for key in [(name, made) for name in wanted for made in (True, False)]:
        if key in files:
            return files[key]
    raise InputError(
        f"the bundle has no {wanted[0]} ONNX file of the {model} model for TensorRT {offer.version}, which {precision} "
        f"needs: export it again with `--target tensorrt` and {wanted[0]} among `--precision`."
    )


def _may_be_built(file: ModelFile) -> bool:
    """Whether it is an ONNX file that TensorRT takes: int8 in the form of CPUs is none."""
    return file.file.endswith(".onnx") and (file.target == MADE_FOR_IT or file.precision != "int8")


def _check(
    bundle: Bundle, model: str, path: Path, options: Options, offer: Offer, tolerance: float
) -> tuple[Parity, float]:
    """The engine's parity and accuracy on the bundle's samples, at the batch size each profile is best at."""
    samples = bundle.samples
    runner = EngineRunner(path, offer)
    try:
        found = [logits(runner, samples["images"], profile.best) for profile in options.profiles]
    finally:
        runner.close()
    exact = options.precision == "fp32"
    parities = [check_parity(samples[model], each, tolerance, exact=exact) for each in found]
    accuracy = float((found[0].argmax(1) == samples["labels"]).mean())
    return max(parities, key=lambda parity: parity.relative), accuracy


def _folder(bundle: Bundle, offer: Offer) -> Path:
    return bundle.path / BUILT / cache.folder(offer)


def _listed(bundle: Bundle, folder: Path) -> list[ModelFile]:
    """The engines that a folder of the bundle lists."""
    path = folder / LIST
    if not path.is_file():
        return []
    found = read_json(path, tuple[ModelFile, ...], cure="remove it, and build the engines again")
    for file in found:
        if inside(bundle.path, file.file, LIST).parent != folder:
            raise InputError(f"{path} names {file.file!r}, which is not beside it: do not trust it.")
    return list(found)


def _list(bundle: Bundle, offer: Offer, models: Sequence[ModelFile]) -> None:
    """Add checked engines to those the folder lists, replacing older ones of the same name."""
    folder = _folder(bundle, offer)
    known = {file.file: file for file in [*_listed(bundle, folder), *models]}
    there = [asdict(file) for name, file in sorted(known.items()) if (bundle.path / name).is_file()]
    if there:
        with atomic_write(folder / LIST) as temporary:
            write_json(temporary, there)
