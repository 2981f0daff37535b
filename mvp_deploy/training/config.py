"""How to fine-tune: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from mvp_deploy.base.bounds import LEARNING_RATE, SEED, TRAINING_BATCH, TUNING_STEPS
from mvp_deploy.base.errors import InputError


@dataclass(frozen=True)
class TrainConfig:
    """How to fine-tune. ``amp`` takes effect on CUDA only; a CPU trains in float32."""

    steps: int = 200
    batch_size: int = 64
    lr: float = 0.05  # the highest in the schedule
    optimizer: Literal["sgd", "adamw"] = "sgd"  # sgd: with Nesterov momentum 0.9
    schedule: Literal["cosine", "onecycle"] = "cosine"
    weight_decay: float = 1e-4  # of weights with two dimensions or more; norms and biases are spared
    label_smoothing: float = 0.0
    distill: float = 0.0  # the share of the loss that agreeing with the teacher has, 0 to 1
    temperature: float = 2.0  # of distillation
    clip: float | None = 5.0  # the gradient's greatest norm
    augment: bool = True
    flip: bool = False  # mirror images left to right when augmenting; wrong for digits and letters
    norms: Literal["trained", "frozen"] = "trained"  # frozen: batch norms keep their statistics
    seed: int = 0
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"  # auto: bf16 where the GPU has it, else fp16
    channels_last: bool = True  # weights' layout while training, quicker on CUDA and CPU; afterwards as usual

    def __post_init__(self) -> None:
        for name, good, allowed in (
            ("steps", TUNING_STEPS.holds(self.steps), str(TUNING_STEPS)),
            ("batch_size", TRAINING_BATCH.holds(self.batch_size), f"{TRAINING_BATCH} (batch norms need two images)"),
            ("lr", LEARNING_RATE.holds(self.lr), str(LEARNING_RATE)),
            ("clip", self.clip is None or 0 < self.clip < inf, "above 0, or none"),
            ("distill", 0 <= self.distill <= 1, "within 0 and 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            ("temperature", 0 < self.temperature < inf, "above 0"),
            ("weight_decay", 0 <= self.weight_decay < inf, "0 or more"),
            ("seed", SEED.holds(self.seed), str(SEED)),
        ):
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}: it must be {allowed}")
