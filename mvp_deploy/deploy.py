"""From a RUN folder to a bundle: both models exported, each file checked in its own runtime, then packed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.onnx import export_onnx
from exporters.parity import FP32_TOLERANCE, check_parity
from mvp_deploy import bundle, runs
from mvp_deploy.benchmark.candidates import of_bundle
from mvp_deploy.benchmark.compare import benchmark
from mvp_deploy.benchmark.environment import versions
from mvp_deploy.benchmark.measure import DEFAULT, Settings
from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.bundle import Bundle, ModelFile
from mvp_deploy.errors import DeployError
from mvp_deploy.pruned import PrunedModel
from mvp_deploy.reporter import Reporter
from mvp_deploy.tasks import Images, Task, load_task, prepare

BATCH = 64  # of the check on the whole held-out part; samples are checked at batch 1 too


@dataclass(frozen=True, eq=False)
class Subject:
    """A PyTorch model to export, and what its artefacts must give."""

    name: str  # 'pruned' or 'unpruned'
    loaded: PrunedModel
    params: int
    macs: int
    logits: np.ndarray  # float32 [held-out images, classes]


def export_run(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    measure: Sequence[int] = (),
    settings: Settings = DEFAULT,
    device: torch.device | str = "cpu",
    seed: int = 0,
    reporter: Reporter,
) -> Bundle:
    """Export a finished run's pruned and unpruned model, check them, and write the bundle ``out``.

    Args:
        measure: batch sizes to time both at; the result becomes the bundle's measurements.json.
        device: where PyTorch computes the reference logits of the held-out part.
        seed: chooses the sample images that go into the bundle.

    Raises:
        DeployError: (INPUT) no finished run, or its data are gone or changed; (PARITY) an exported model
            disagrees with PyTorch, and no bundle is written.
    """
    run = runs.load(folder)
    task = task_of(run)
    unpruned, pruned = run.unpruned(), run.pruned()
    test = prepare(task.test, pruned.backbone.preprocessing, device)
    samples = _samples(test, seed)
    with bundle.writing(out) as target:
        (target / "models").mkdir()
        subjects = [_subject(name, model, run, test) for name, model in (("unpruned", unpruned), ("pruned", pruned))]
        models = tuple(_export(subject, target, test, samples["index"], reporter) for subject in subjects)
        info = describe(run, task, models)
        arrays = {"images": samples["images"], "labels": samples["labels"]}
        arrays |= {subject.name: subject.logits[samples["index"]] for subject in subjects}
        bundle.write_arrays(target / "samples.npz", arrays)
        bundle.write_json(target / "labels.json", list(pruned.classes))
        bundle.write_json(target / "preprocessing.json", pruned.backbone.preprocessing.to_json())
        bundle.write_json(target / "keep_plan.json", pruned.plan.to_json())
        bundle.write_json(target / "bundle.json", info)
        if measure:
            unsealed = Bundle(target, info, pruned.classes, models)
            times = benchmark(of_bundle(unsealed), measure, settings, threads=None, device="cpu", reporter=reporter)
            if error := times.failure():
                raise error
            bundle.write_json(target / "measurements.json", times.to_json())
    return bundle.read(out)


def task_of(run: runs.Run) -> Task:
    """The run's task, loaded again. Raises DeployError when its images are not those of the run."""
    task = load_task(run.info["task"], seed=run.info["seed"], skip_bad=True)
    if task.fingerprint != run.info["data"]:
        raise DeployError(
            f"the images of {run.info['task']} have changed since {run.folder} was made: run `mvp-deploy prune` again."
        )
    return task


def describe(run: runs.Run, task: Task, models: Sequence[ModelFile]) -> dict[str, Any]:
    """bundle.json: where the models come from and what is known of them."""
    backbone = run.info["backbone"]
    return {
        "task": {"name": task.name, "data": task.fingerprint, "images": run.info["images"]},
        "backbone": backbone,
        "licence": {"backbone weights": backbone["license"] or "not stated", "source": backbone["weights"]},
        "metrics": run.info["metrics"],
        "votes": run.info["votes"],
        "recipe": run.info["recipe"],
        "seed": run.info["seed"],
        "models": [asdict(model) for model in models],
        "versions": versions(),
    }


def _subject(name: str, loaded: PrunedModel, run: runs.Run, test: Images) -> Subject:
    metrics = run.info["metrics"][name]
    return Subject(name, loaded, metrics["params"], metrics["macs"], _reference(loaded.model, test))


def _export(subject: Subject, target: Path, test: Images, samples: np.ndarray, reporter: Reporter) -> ModelFile:
    """Write one ONNX file and check it on the whole held-out part, and on the samples at batch 1."""
    loaded = subject.loaded
    file = f"models/{subject.name}.fp32.onnx"
    reporter.say(f"exporting the {subject.name} model to ONNX")
    metadata = {
        "classes": list(loaded.classes),
        "preprocessing": loaded.backbone.preprocessing.to_json(),
        "model": subject.name,
    }
    example = torch.zeros(1, *loaded.backbone.preprocessing.input_size)
    path = export_onnx(loaded.model, example, target / file, metadata)
    accuracy, parity = check_artefact(path, test, subject.logits, samples, FP32_TOLERANCE)
    reporter.say(f"{subject.name}: parity {parity:.1e}, accuracy {accuracy:.1%} in ONNX Runtime")
    return ModelFile(file, subject.name, "onnx", "fp32", accuracy, parity, FP32_TOLERANCE, subject.params, subject.macs)


def check_artefact(
    path: Path, test: Images, reference: np.ndarray, samples: np.ndarray, tolerance: float
) -> tuple[float, float]:
    """An artefact's accuracy (0..1) on the held-out part, in its own runtime on the CPU, and its parity.

    Parity is against ``reference``, float32 [held-out images, classes]: over all images in batches, and over
    those numbered ``samples`` one by one.

    Raises:
        DeployError: (PARITY) it differs from the reference by more than ``tolerance``.
    """
    runner = open_runner(path)
    try:
        found = np.concatenate([logits(runner, x.cpu().numpy(), BATCH) for x, _ in test.batches(BATCH)])
        single = logits(runner, _images(test, samples), 1)
    finally:
        runner.close()
    parity = max(
        check_parity(reference, found, tolerance).relative,
        check_parity(reference[samples], single, tolerance).relative,
    )
    return float((found.argmax(1) == test.labels.cpu().numpy()).mean()), parity


@torch.inference_mode()
def _reference(model: torch.nn.Module, test: Images) -> np.ndarray:
    """The model's logits on every held-out image, in full float32 (a GPU would else round to TF32)."""
    model = model.to(test.device).eval()
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        return np.concatenate([model(x).float().cpu().numpy() for x, _ in test.batches(BATCH)])


def _samples(test: Images, seed: int) -> dict[str, np.ndarray]:
    """Up to 64 held-out images as float32 [n, 3, H, W], with their labels and numbers."""
    index = np.sort(np.random.default_rng(seed).permutation(len(test))[: bundle.MAX_SAMPLES])
    return {"index": index, "images": _images(test, index), "labels": test.labels.cpu().numpy()[index]}


def _images(test: Images, index: np.ndarray) -> np.ndarray:
    """The images numbered ``index``, prepared: float32 [len(index), 3, H, W]."""
    wanted = set(index.tolist())
    found = [
        x[None].cpu().numpy()
        for start, (batch, _) in enumerate(test.batches(BATCH))
        for offset, x in enumerate(batch)
        if start * BATCH + offset in wanted
    ]
    return np.concatenate(found)
