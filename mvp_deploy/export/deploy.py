"""From a RUN folder to a bundle: both models exported, each file checked in its own runtime, then packed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvp_deploy import bundle, runs
from mvp_deploy.base.environment import versions
from mvp_deploy.base.errors import ExitCode, InputError, MvpError, error_of
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.candidates import of_bundle
from mvp_deploy.benchmark.compare import benchmark
from mvp_deploy.benchmark.format import write_times
from mvp_deploy.benchmark.measure import DEFAULT, Settings
from mvp_deploy.bundle import Bundle, ModelFile
from mvp_deploy.calibration.images import CalibrationImages, choose
from mvp_deploy.export.artefacts import BATCH, Failed, HeldOut, Subject, make, numbered, plan
from mvp_deploy.export.graphs import Precision
from mvp_deploy.pruning.pruned import PrunedModel
from mvp_deploy.tasks import Images, Task, load_again, prepare
from mvp_deploy.tasks.task import Split

DEFAULT_PRECISION = Precision()


def export_run(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data: str | None = None,
    targets: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    reduced: Precision = DEFAULT_PRECISION,
    measure: Sequence[int] = (),
    settings: Settings = DEFAULT,
    device: torch.device | str = "cpu",
    seed: int = 0,
    pruned_only: bool = False,
    extra: Path | None = None,
    reporter: Reporter,
) -> Bundle:
    """Export a finished run's pruned and unpruned model, check them, and write the bundle ``out``.

    Args:
        data: where the task's images are now, as SOURCE[#class,class,…]; by default where they were.
        targets, precisions: what to make of each model; a target leaves out, and tells, what it does not deliver.
        reduced: how fp16 and int8 are made.
        measure: batch sizes to time both at; the result becomes the bundle's measurements.json, unless other work on
            this machine disturbed it.
        device: where PyTorch computes the reference logits of the held-out part.
        seed: chooses the sample images that go into the bundle.
        pruned_only: leave the unpruned model's files out; its accuracy and sample logits stay, to compare with.
        extra: a folder of the user's own that is copied into the bundle as extra/, with its checksums.

    Files that do not pass their checks are left out, and `failure` says which of the bundle's are.

    Raises:
        MvpError: no bundle is written: (INPUT) no finished run, or its data are gone or changed, or an unknown
            target; (ENVIRONMENT) a target's packages are missing; (PARITY, ACCURACY) no file of the pruned model
            passed.
    """
    wanted = plan(targets, precisions, reporter)
    if extra is not None and not extra.is_dir():
        raise InputError(f"{extra} is not a folder: --extra takes the folder whose files go into the bundle's extra/.")
    run = runs.load(folder)
    task = task_of(run, data)
    unpruned, pruned = run.unpruned(), run.pruned()
    test = prepare(task.test, pruned.backbone.preprocessing, device)
    held_out = HeldOut(test, task.test, _samples(test, seed))
    images = _calibration(task, pruned, seed, reporter) if set(precisions) - {"fp32"} else None
    with bundle.writing(out) as target:
        (target / "models").mkdir()
        subjects = [_subject(name, model, run, test) for name, model in (("unpruned", unpruned), ("pruned", pruned))]
        shipped = [subject for subject in subjects if subject.name == "pruned" or not pruned_only]
        made = [make(subject, wanted, reduced, target, images, held_out, reporter) for subject in shipped]
        models = tuple(file for files, _ in made for file in files)
        failed = [each for _, failures in made for each in failures]
        if all(file.model != "pruned" for file in models):
            raise error_of(f"no bundle is written: {failed[-1].error}", failed[-1].code)
        info = describe(run, task, models, failed)
        if images is not None:
            images.save(target / "calibration.npz")
            info["calibration"] = {"images": len(images), "sha256": images.sha256, "method": reduced.method}
        arrays = {"images": numbered(test, held_out.samples), "labels": held_out.labels[held_out.samples]}
        arrays |= {subject.name: subject.logits[held_out.samples] for subject in subjects}
        bundle.write_arrays(target / "samples.npz", arrays)
        if extra is not None:
            _copy(extra, target / bundle.EXTRA)
        bundle.write_json(target / "labels.json", list(pruned.classes))
        bundle.write_json(target / "preprocessing.json", pruned.backbone.preprocessing.to_json())
        bundle.write_json(target / "keep_plan.json", pruned.plan.to_json())
        bundle.write_json(target / "bundle.json", info)
        candidates = of_bundle(Bundle(target, info, pruned.classes, models))
        if measure and candidates:
            times = benchmark(candidates, measure, settings, threads=None, device="cpu", reporter=reporter)
            if error := times.failure():
                raise error
            if times.disturbed:
                reporter.warn("the bundle is packed without measurements, for other work disturbed them.")
            else:
                write_times(target / "measurements.json", times.to_json())
    return bundle.read(out)


def failure(bundle: Bundle) -> MvpError | None:
    """What to end the command with, when files that were asked for are not in the bundle."""
    failed = [Failed(**record) for record in bundle.info["failed"]]
    if not failed:
        return None
    code = next((code for code in (ExitCode.PARITY, ExitCode.ACCURACY) if any(f.code == code for f in failed)), None)
    told = "\n".join(f"  {each.error}" for each in failed)
    passed = f"{bundle.path} has the {len(bundle.models)} files that passed; {len(failed)} did not:"
    return error_of(f"{passed}\n{told}", code or ExitCode(failed[0].code))


def task_of(run: runs.Run, data: str | None = None) -> Task:
    """The run's task, loaded again from ``data``, or from where it was.

    Raises:
        MvpError: (INPUT) its images are not found, or are not those of the run.
    """
    name, source = data or run.info["task"], None if data else run.info["source"]
    try:
        task = load_again(name, run.info["data"], run.info["seed"], source=source, beside=run.folder)
    except MvpError as error:
        raise InputError(f"{error}. Where are they now? Tell with --data.") from error
    if task is None:
        raise InputError(
            f"the images of {source or name} have changed since {run.folder} was made: run `mvp-deploy prune` again."
        )
    return task


def describe(run: runs.Run, task: Task, models: Sequence[ModelFile], failed: Sequence[Failed]) -> dict[str, Any]:
    """bundle.json: where the models come from and what is known of them."""
    backbone = run.info["backbone"]
    return {
        "task": {
            "name": run.info["task"],
            "data": task.fingerprint,
            "held_out": _fingerprint(task.test),
            "images": run.info["images"],
        },
        "backbone": backbone,
        "licence": {"backbone weights": backbone["license"] or "not stated", "source": backbone["weights"]},
        "metrics": run.info["metrics"],
        "votes": run.info["votes"],
        "recipe": run.info["recipe"],
        "seed": run.info["seed"],
        "models": [asdict(model) for model in models],
        "failed": [asdict(each) for each in failed],
        "versions": versions(),
    }


def _copy(extra: Path, target: Path) -> None:
    try:
        shutil.copytree(extra, target)  # what links lead to is copied
    except (OSError, shutil.Error) as error:
        raise InputError(f"{extra} cannot be copied into the bundle: {str(error)[:300]}") from error


def _fingerprint(test: Split) -> str:
    """SHA-256 over the held-out images and labels: runs that agree in it are judged by the same images."""
    digest = hashlib.sha256(test.labels.astype("<i8").tobytes())
    for image in test.images:
        content = image.read_bytes() if isinstance(image, Path) else image.tobytes()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _subject(name: str, loaded: PrunedModel, run: runs.Run, test: Images) -> Subject:
    metrics = run.info["metrics"][name]
    return Subject(name, loaded, metrics["params"], metrics["macs"], _reference(loaded.model, test))


@torch.inference_mode()
def _reference(model: torch.nn.Module, test: Images) -> np.ndarray:
    """The model's logits on every held-out image, in full float32 (a GPU would else round to TF32)."""
    model = model.to(test.device).eval()
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        return np.concatenate([model(x).float().cpu().numpy() for x, _ in test.batches(BATCH)])


def _samples(test: Images, seed: int) -> np.ndarray:
    """The numbers of up to 64 held-out images, rising."""
    index: np.ndarray = np.sort(np.random.default_rng(seed).permutation(len(test))[: bundle.MAX_SAMPLES])
    return index


def _calibration(task: Task, pruned: PrunedModel, seed: int, reporter: Reporter) -> CalibrationImages:
    """Images of the training part, the classes as even as they can be."""
    index = choose(task.train.labels, seed=seed)
    train = prepare(task.train, pruned.backbone.preprocessing)
    images = CalibrationImages(numbered(train, index), task.train.labels[index])
    if images.warning:
        reporter.warn(images.warning)
    return images
