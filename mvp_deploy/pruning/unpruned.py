"""The unpruned model fine-tuned on a task: every task's reference, and where iterative pruning starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.pruning import pruned
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.norms import recalibrate_if_better
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.tuning import Tuned, tune
from mvp_deploy.tasks import Images
from mvp_deploy.training import TrainConfig, accuracy

TRAINED = Tuned(0, 0, 0.0, None, None, None, None, "its weights were trained for the task")


@dataclass(frozen=True)
class Unpruned:
    """model: trained, in eval mode. accuracy: on the held-out part, 0..1."""

    model: nn.Module
    accuracy: float
    done: Tuned


def train_unpruned(
    original: Original,
    train: Images,
    test: Images,
    config: TrainConfig,
    classes: Sequence[str],
    file: Path,
    *,
    work: Path,
    inputs: Mapping[str, Any],
    reporter: Reporter,
) -> Unpruned:
    """Fine-tune the whole backbone on the task and store it at ``file``; what is there of the same inputs is reused.

    A model that was trained for these classes already stays as it is. Of others the head starts from its closed-form
    solution, and the model is tuned as pruned ones are: what comes out is never worse, on images set aside, than that
    head on the frozen features. A checkpoint in ``work`` lets a killed call go on.
    """
    key = digest(inputs)
    model = original.copy()
    if made_with(file, key):
        header, sections = tensorfile.load(file)
        model.load_state_dict(sections["weights"], strict=True)
        reporter.say(f"unpruned model reused from {file}")
        return Unpruned(model.eval(), header["extra"]["accuracy"], Tuned.from_json(header["extra"]["tuned"]))
    done = TRAINED if original.trained else _tuned(original, model, train, config, work, reporter)
    result = Unpruned(model.eval(), accuracy(model, test), done)
    extra = {"inputs": key, "accuracy": result.accuracy, "tuned": asdict(done)}
    pruned.save(file, model.state_dict(), original.backbone, original.full, classes, extra)
    reporter.say(f"unpruned model: accuracy {result.accuracy:.1%} {done.told}")
    return result


def _tuned(
    original: Original, model: nn.Module, train: Images, config: TrainConfig, work: Path, reporter: Reporter
) -> Tuned:
    """Tune the model in place, from the head in closed form on."""
    recalibrate_if_better(model, original.classifier, train, seed=config.seed)
    if not solve_head(model, original.classifier, train):
        reporter.warn(
            f"The head of {original.backbone.name} does not end in linear layers whose outputs are the model's (or are "
            "averaged to it), so it is not solved in closed form: it starts at random and may want more steps."
        )
    with reporter.progress("unpruned model") as step:
        return tune(model, original.classifier, train, config, checkpoint=work / "unpruned.checkpoint", progress=step)


def made_with(file: Path, key: str) -> bool:
    """Whether a model's file is there, undamaged in its header, and of the inputs with that key."""
    try:
        return bool(tensorfile.read_header(file)["extra"].get("inputs") == key)
    except (MvpError, KeyError, AttributeError):
        return False


def digest(inputs: Mapping[str, Any]) -> str:
    """A key for what a result depends on (JSON values): equal inputs, equal key."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
