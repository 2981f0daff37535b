"""How much to keep, and how to prune the long way: plain values, known without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mvp_deploy.base.bounds import FRACTION, ROUND_TO, ROUNDS, STEPS
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Within
from mvp_deploy.base.settings import Settings, setting
from mvp_deploy.training.config import Training

Criterion = Literal["taylor", "obs", "activation", "magnitude", "random"]  # importance.CRITERIA has their functions
Of = Literal["units", "macs", "params", "latency"]  # latency: of a plan in milliseconds (`mvp_deploy.latency`)


@dataclass(frozen=True)
class Budget(Settings):
    """How much of the backbone to keep.

    Where nothing is said, half of the multiply-accumulates: a cost means the same for every model, where the same
    fraction of units may be a tenth of one model's work and half of another's.

    Groups too small for ``round_to`` use a smaller power of two; heads stay or go one by one.
    """

    fraction: Annotated[float, FRACTION] = setting(0.5, "Of the unpruned model's.")
    of: Of = setting("macs", "What the fraction counts.")
    round_to: Annotated[int, ROUND_TO] = setting(8, "Keep channels in multiples of this.")

    @classmethod
    def asked(
        cls, *, keep: float | None = None, macs: float | None = None, params: float | None = None, round_to: int = 8
    ) -> Budget:
        """The one fraction that is given, of units (``keep``), MACs or parameters; the default where none is."""
        fractions: dict[Of, float | None] = {"units": keep, "macs": macs, "params": params}
        given = [(of, fraction) for of, fraction in fractions.items() if fraction is not None]
        if len(given) > 1:
            raise InputError("keep, macs and params exclude each other: give one.")
        return cls(given[0][1], given[0][0], round_to) if given else cls(round_to=round_to)


@dataclass(frozen=True)
class Schedule(Settings):
    """How to prune the long way: cut and fine-tune in rounds."""

    rounds: Annotated[int, ROUNDS] = setting(5, "Cuts until the budget is met.")
    steps: Annotated[int, STEPS] = setting(100, "Fine-tuning steps after each cut.")
    criterion: Criterion = setting("taylor", "What a unit's importance is.")
    scope: Literal["uniform", "global"] = setting("uniform", "The same fraction of every group, or one threshold.")
    batches: Annotated[int, Within(1, 100_000)] = 8  # to score with


LADDER = (0.7, 0.6, 0.5, 0.35, 0.25)  # budgets of MACs that a bank has models of; the default one is among them
IMITATION = Training(steps=1600, optimizer="adamw", lr=1.5e-3, flip=True)  # of a ladder's models
