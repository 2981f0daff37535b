"""Models that are ready, held-out images and what is known of both, as a bundle: each file checked, then packed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvp_deploy import bundle
from mvp_deploy.base.devices import full_float32
from mvp_deploy.base.environment import versions
from mvp_deploy.base.errors import ExitCode, InputError, MvpError, error_of
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.candidates import of_bundle
from mvp_deploy.benchmark.compare import benchmark
from mvp_deploy.benchmark.format import write_times
from mvp_deploy.benchmark.measure import DEFAULT
from mvp_deploy.bundle import Bundle
from mvp_deploy.bundle.format import HELD_OUT
from mvp_deploy.calibration.images import CalibrationImages, choose
from mvp_deploy.export.artefacts import BATCH, Making, Wanted, make, numbered
from mvp_deploy.export.artefacts import plan as planned
from mvp_deploy.export.config import Exports
from mvp_deploy.export.subjects import Failed, HeldOut, Subject
from mvp_deploy.inference.model import softmax
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images
from mvp_deploy.tasks.task import Split


@dataclass(frozen=True)
class Order:
    """What to make of each model.

    wanted: of what was asked for, what each target delivers.
    measure: batch sizes to time the models at; the result becomes the bundle's measurements.json, unless other work on
        this machine disturbed it.
    threads: the CPU threads that they are timed with; None: one per core.
    pruned_only: leave the unpruned model's files out; its accuracy and sample logits stay, to compare with.
    extra: a folder of the user's own that is copied into the bundle as extra/, with its checksums.
    """

    asked: Exports
    wanted: Sequence[Wanted]
    measure: Sequence[int] = ()
    threads: int | None = None
    pruned_only: bool = False
    extra: Path | None = None

    @classmethod
    def of(cls, asked: Exports, reporter: Reporter, **more: Any) -> Order:
        """An order that this machine can carry out; what `artefacts.plan` refuses is refused here."""
        return cls(asked, planned(asked, reporter), **more)

    @property
    def calibrates(self) -> bool:
        """Whether anything asked for needs calibration images."""
        return any(set(each.precisions) - {"fp32"} for each in self.wanted)


def pack(
    out: str | os.PathLike[str],
    subjects: Sequence[Subject],
    held_out: HeldOut,
    calibration: CalibrationImages | None,
    about: Mapping[str, Any],
    plan: KeepPlan | None,
    order: Order,
    reporter: Reporter,
) -> Bundle:
    """Export the models, check every file in its own runtime, and write the bundle ``out``.

    Args:
        subjects: the model that the bundle is for comes last, before it the one it is compared with, if any.
        about: what bundle.json says of task, backbone and making.
        plan: which units stayed, where that is known.

    Files that do not pass their checks are left out, and `failure` says which of the bundle's are.

    Raises:
        MvpError: (PARITY, ACCURACY) no file of the last model passed: no bundle is written.
    """
    interface = subjects[-1].interface
    with bundle.writing(out) as target:
        (target / "models").mkdir()
        shipped = [each for each in subjects if each.name != "unpruned" or not order.pruned_only]
        how = Making(order.asked, target, calibration, held_out, reporter)
        made = [make(each, order.wanted, how) for each in shipped]
        models = tuple(file for files, _ in made for file in files)
        failed = [each for _, failures in made for each in failures]
        if all(file.model != subjects[-1].name for file in models):
            earlier = f" ({out} is an earlier one's.)" if bundle.is_bundle(Path(out)) else ""
            raise error_of(f"no bundle is written: {failed[-1].error}{earlier}", failed[-1].code)
        info = {
            **about,
            "models": [asdict(model) for model in models],
            "failed": [asdict(each) for each in failed],
            "versions": versions(),
        }
        if calibration is not None:
            calibration.save(target / "calibration.npz")
            told = {"images": len(calibration), "sha256": calibration.sha256, "method": order.asked.int8_method}
            info["calibration"] = told
        arrays = {"images": numbered(held_out.test, held_out.samples), "labels": held_out.labels[held_out.samples]}
        arrays |= {subject.name: subject.logits[held_out.samples] for subject in subjects}
        bundle.write_arrays(target / "samples.npz", arrays)
        bundle.write_arrays(target / HELD_OUT, _answers(subjects, held_out))
        if order.extra is not None:
            _copy(order.extra, target / bundle.EXTRA)
        bundle.write_json(target / "labels.json", list(interface.classes))
        if interface.preprocessing is not None:
            bundle.write_json(target / "preprocessing.json", interface.preprocessing.to_json())
        if plan is not None:
            bundle.write_json(target / "keep_plan.json", plan.to_json())
        bundle.write_json(target / "bundle.json", info)
        candidates = of_bundle(Bundle(target, info, interface.classes, models))
        if order.measure and candidates:
            times = benchmark(
                candidates, order.measure, DEFAULT, threads=order.threads, device="cpu", reporter=reporter
            )
            if error := times.failure():
                raise error
            if times.disturbed:
                reporter.warn("the bundle is packed without measurements, for other work disturbed them.")
            else:
                write_times(target / "measurements.json", times.to_json())
    return bundle.read(out)


def _answers(subjects: Sequence[Subject], held_out: HeldOut) -> dict[str, np.ndarray]:
    """The held-out images' labels, and for each model the class that it gives them and its probability."""
    arrays = {"labels": held_out.labels.astype(np.int64)}
    for subject in subjects:
        arrays[subject.name] = subject.logits.argmax(1).astype(np.int64)
        arrays[f"{subject.name}_sure"] = softmax(subject.logits).max(1)
    return arrays


def _copy(extra: Path, target: Path) -> None:
    try:
        shutil.copytree(extra, target)  # what links lead to is copied
    except (OSError, shutil.Error) as error:
        raise InputError(f"{extra} cannot be copied into the bundle: {str(error)[:300]}") from error


def failure(bundle: Bundle) -> MvpError | None:
    """What to end with, when files that were asked for are not in the bundle."""
    failed = [Failed(**record) for record in bundle.info["failed"]]
    if not failed:
        return None
    code = next((code for code in (ExitCode.PARITY, ExitCode.ACCURACY) if any(f.code == code for f in failed)), None)
    told = "\n".join(f"  {each.error}" for each in failed)
    passed = f"{bundle.path} has the {len(bundle.models)} files that passed; {len(failed)} did not:"
    return error_of(f"{passed}\n{told}", code or ExitCode(failed[0].code))


def held_out(test: Images, split: Split | None, seed: int) -> HeldOut:
    """The images that judge, up to 64 of them drawn to be checked one by one."""
    drawn = np.random.default_rng(seed).permutation(len(test))[: bundle.MAX_SAMPLES]
    return HeldOut(test, split, np.sort(drawn))


def calibration_images(train: Images, seed: int, reporter: Reporter) -> CalibrationImages:
    """Some of the training images, the classes as even as they can be."""
    labels = train.labels.cpu().numpy()
    index = choose(labels, seed=seed)
    images = CalibrationImages(numbered(train, index), labels[index])
    if images.warning:
        reporter.warn(images.warning)
    return images


@full_float32()
@torch.inference_mode()
def reference(model: torch.nn.Module, test: Images) -> np.ndarray:
    """The model's logits on every held-out image."""
    model = model.to(test.device).eval()
    return np.concatenate([model(x).float().cpu().numpy() for x, _ in test.batches(BATCH)])
