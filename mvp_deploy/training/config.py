"""How to fine-tune: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mvp_deploy.base.bounds import LEARNING_RATE, SEED, TRAINING_BATCH, TUNING_STEPS
from mvp_deploy.base.formats import Within
from mvp_deploy.base.settings import Settings, setting


@dataclass(frozen=True)
class Training(Settings):
    """Fine-tuning of the pruned and of the unpruned model."""

    steps: Annotated[int, TUNING_STEPS] = setting(200, "Fine-tuning steps of each model; 0: none.")
    batch_size: Annotated[int, TRAINING_BATCH] = setting(64, "Images per step.")
    lr: Annotated[float, LEARNING_RATE] | None = setting(None, "Highest learning rate; by the optimizer by default.")
    optimizer: Literal["sgd", "adamw"] | None = setting(None, "By the kind of backbone by default.")
    flip: bool = setting(False, "Mirror images left to right (not for digits or letters).")


@dataclass(frozen=True)
class TrainConfig(Training):
    """How to fine-tune, to the last detail. ``amp`` takes effect on CUDA only; a CPU trains in float32."""

    lr: Annotated[float, LEARNING_RATE] = 0.05  # the highest in the schedule
    optimizer: Literal["sgd", "adamw"] = "sgd"  # sgd: with Nesterov momentum 0.9
    schedule: Literal["cosine", "onecycle"] = "cosine"
    weight_decay: Annotated[float, Within(0.0, 1e3)] = 1e-4  # of weights of two dimensions or more, not norms, biases
    label_smoothing: Annotated[float, Within(0.0, 0.999)] = 0.0
    distill: Annotated[float, Within(0.0, 1.0)] = 0.0  # the share of the loss that agreeing with the teacher has
    temperature: Annotated[float, Within(0.0, 1e3, above=True)] = 2.0  # of distillation
    clip: Annotated[float, Within(0.0, 1e9, above=True)] | None = 5.0  # the gradient's greatest norm
    augment: bool = True
    norms: Literal["trained", "frozen"] = "trained"  # frozen: batch norms keep their statistics
    seed: Annotated[int, SEED] = 0
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"  # auto: bf16, else fp16; off: float32 without TF32
    channels_last: bool = True  # weights' layout while training, where it is quicker; afterwards as usual
