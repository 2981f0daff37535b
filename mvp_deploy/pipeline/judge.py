"""What an exported classifier gives and takes in its runtime: leave-one-out and held-out accuracy, milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper

from mvp_deploy.base.errors import StructureError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.looks import Round, looks, warn_if_disturbed
from mvp_deploy.benchmark.measure import Settings
from mvp_deploy.benchmark.runner import Runner, logits, open_runner
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.latency.format import Conditions
from mvp_deploy.latency.front import Candidate
from mvp_deploy.pruning.head import ridge_classifier
from mvp_deploy.tasks import Images

LAYERS = ("Gemm", "MatMul", "Conv")
BATCH = 64
WINDOWS = Settings(duration=1.0, processes=5, window=0.05, warm_up=0.1)
JUDGED = 2048  # training images that leave-one-out accuracy is taken of, at most


def leave_one_out(file: Path, conditions: Conditions, train: Images, classes: int) -> float:
    """Leave-one-out accuracy of a head in closed form on the features that the ONNX file itself gives, 0..1."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:JUDGED]
    some = train.subset(order)
    with TemporaryDirectory() as folder:
        features = Path(folder, "features.onnx")
        features.write_bytes(_up_to_classifier(onnx.load(file)).SerializeToString())
        found = _outputs(features, conditions, some)
    rows = torch.from_numpy(found.reshape(len(found), -1)).double()
    return float(ridge_classifier(rows, some.labels.cpu(), classes).loo_accuracy)


def held_out_accuracy(file: Path, conditions: Conditions, test: Images) -> float:
    """The share of the images whose class the ONNX file names, 0..1."""
    return _right(_outputs(file, conditions, test), test.labels.cpu().numpy())


def calibration_accuracy(model: ModelProto, conditions: Conditions, images: CalibrationImages) -> float:
    """The same of the images that ranges are measured on."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "tried.onnx")
        file.write_bytes(model.SerializeToString())
        with closing(_opened(file, conditions)) as runner:
            return _right(logits(runner, images.images, BATCH), images.labels)


def time_files(out: Path, candidates: Sequence[Candidate], conditions: Conditions, reporter: Reporter) -> np.ndarray:
    """Milliseconds of the candidates' files in ``out``, each on noise of its own size: float64 [file, process]."""
    runs = [(out / each.file, conditions.runtime, conditions.device) for each in candidates]
    found = looks([Round([run], conditions.batch, None) for run in runs], WINDOWS, conditions.threads, reporter)
    warn_if_disturbed(found, reporter, "a candidate may be slower or faster than timed.")
    return np.array([[session.median for (session,) in look.sessions] for look in found]).T


def _right(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


def _outputs(file: Path, conditions: Conditions, images: Images) -> np.ndarray:
    """The file's output for all images: float32 [n, …]."""
    with closing(_opened(file, conditions)) as runner:
        return np.concatenate([logits(runner, x.cpu().numpy(), BATCH) for x, _ in images.batches(BATCH)])


def _opened(file: Path, conditions: Conditions) -> Runner:
    return open_runner(file, conditions.runtime, threads=conditions.threads, device=conditions.device)


def _up_to_classifier(model: ModelProto) -> ModelProto:
    """The model, changed to give in float32 what its last layer with weights takes.

    Raises:
        StructureError: there is no such layer.
    """
    graph = model.graph
    last = next((node for node in reversed(graph.node) if node.op_type in LAYERS), None)
    if last is None:
        raise StructureError("the exported model has no linear layer at its end: leave this backbone out.")
    graph.node.append(helper.make_node("Cast", [last.input[0]], ["features"], "features", to=TensorProto.FLOAT))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    return model
