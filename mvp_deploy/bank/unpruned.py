"""The unpruned model fine-tuned on a task: every task's reference, and where iterative pruning starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mvp_deploy.backbones import Backbone
from mvp_deploy.bank.new import NewTask
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.pruning import pruned
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.norms import recalibrate_if_better
from mvp_deploy.pruning.tuning import Tuned, tune
from mvp_deploy.training import TrainConfig, accuracy

TRAINED = Tuned(0, 0, 0.0, None, None, None, None, "its weights were trained for the task")


@dataclass(frozen=True)
class Unpruned:
    """model: trained, in eval mode. accuracy: on the held-out part, 0..1."""

    model: nn.Module
    accuracy: float
    done: Tuned


def train_unpruned(
    new: NewTask, config: TrainConfig, file: Path, *, inputs: Mapping[str, Any], reporter: Reporter
) -> Unpruned:
    """Fine-tune the whole backbone on a task and store it; what is there already of the same inputs is reused.

    A model that was trained for the task's classes stays as it is. The head of any other starts from its closed-form
    solution, and the model is tuned as pruned ones are: on images set aside it is never worse than that head on the
    frozen features.

    Args:
        config: Of the training; its seed also draws the images that norms are judged on.
        file: Where the model goes. A checkpoint beside it lets a killed call go on.
        inputs: What the result depends on, as JSON values.
    """
    original, key = new.original, digest(inputs)
    model = original.copy()
    if made_with(file, key, original.backbone):
        header, sections = tensorfile.load(file)
        model.load_state_dict(sections["weights"], strict=True)
        reporter.say(f"unpruned model reused from {file}")
        return Unpruned(model.eval(), header["extra"]["accuracy"], Tuned.from_json(header["extra"]["tuned"]))
    checkpoint = file.with_suffix(".checkpoint")
    done = TRAINED if original.trained else _tuned(new, model, config, checkpoint, reporter)
    result = Unpruned(model.eval(), accuracy(model, new.test), done)
    extra = {"inputs": key, "accuracy": result.accuracy, "tuned": asdict(done)}
    pruned.save(file, model.state_dict(), original.backbone, original.full, new.task.classes, extra)
    reporter.say(f"unpruned model: accuracy {result.accuracy:.1%} {done.told}")
    return result


def _tuned(new: NewTask, model: nn.Module, config: TrainConfig, checkpoint: Path, reporter: Reporter) -> Tuned:
    """Tune the model in place, from the head in closed form on."""
    original, train = new.original, new.train
    headed = original.headed(train)
    model.load_state_dict(headed.model.state_dict())
    if recalibrate_if_better(model, original.classifier, train, seed=config.seed):
        solve_head(model, original.classifier, train)
    if not headed.solved:
        reporter.warn(
            f"The head of {original.backbone.name} does not end in linear layers whose outputs are the model's (or are "
            "averaged to it), so it is not solved in closed form: it starts at random and may want more steps."
        )
    with reporter.progress("unpruned model") as step:
        return tune(model, original.classifier, train, config, checkpoint=checkpoint, progress=step)


def made_with(file: Path, key: str, backbone: Backbone) -> bool:
    """Whether a model's file is there, undamaged in its header, of the inputs with that key and of the backbone."""
    try:
        header = tensorfile.read_header(file)
        return bool(header["extra"].get("inputs") == key and header["backbone"] == backbone.to_json())
    except (MvpError, KeyError, AttributeError):
        return False


def digest(inputs: Mapping[str, Any]) -> str:
    """A key for what a result depends on (JSON values): equal inputs, equal key."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
