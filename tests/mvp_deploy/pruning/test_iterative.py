from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mvp_deploy.base.reporter import Reporter, Silent
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import Iterated, LongWay, Schedule, prune_iteratively
from mvp_deploy.pruning.norms import recalibrate_if_better
from mvp_deploy.pruning.original import check_exact
from mvp_deploy.training import TrainConfig

SCHEDULE = Schedule(rounds=3, steps=4, batches=2)


class Killed(Exception):
    pass


class Mortal(Silent):
    """Dies in the given training, before its first step or after its last."""

    def __init__(self, life: int, *, late: bool) -> None:
        self.life, self.late = life, late

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., Any]]:
        self.life -= 1
        if self.life == 0 and not self.late:
            raise Killed
        yield lambda *args: None
        if self.life == 0:
            raise Killed


def prune(setting, work: Path | None = None, reporter: Reporter | None = None, **changes: Any) -> Iterated:
    schedule = Schedule(**(vars(SCHEDULE) | changes))
    return prune_iteratively(
        setting.original,
        setting.original.model.state_dict(),
        setting.train,
        setting.test,
        LongWay(Budget(0.3, "units"), schedule, TrainConfig(batch_size=16, lr=0.01)),
        work=work,
        reporter=reporter,
    )


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_every_round_cuts_further_down_to_the_budget(both, scope: str) -> None:
    result = prune(both, scope=scope)
    units = [r.units for r in result.rounds]
    assert len(units) == 3
    assert units[0] > units[1] > units[2]
    assert [r.fraction for r in result.rounds] == pytest.approx([0.3 ** (1 / 3), 0.3 ** (2 / 3), 0.3])
    cost = both.original.cost(result.plan)
    assert (result.rounds[-1].params, result.rounds[-1].macs) == (cost.params, cost.macs)
    assert sum(p.numel() for p in result.model.parameters()) == cost.params
    limit = 1 / 3 if scope == "uniform" else 1  # one threshold on units spares those that much else depends on
    assert cost.params < limit * both.original.cost().params
    assert check_exact(both.original, result.plan, result.model, both.test) < 1e-5


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("life", [1, 2, 3])
def test_a_killed_run_ends_as_an_unbroken_one(cnn, tmp_path: Path, life: int, late: bool) -> None:
    with pytest.raises(Killed):
        prune(cnn, tmp_path, Mortal(life, late=late))
    again, unbroken = prune(cnn, tmp_path), prune(cnn)
    assert again.plan == unbroken.plan
    expected = unbroken.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    assert [r.accuracy for r in again.rounds] == [r.accuracy for r in unbroken.rounds]


def test_it_ends_with_the_batch_norm_statistics_that_the_images_favour(cnn) -> None:
    model = prune(cnn).model
    assert not recalibrate_if_better(model, cnn.original.classifier, cnn.train)  # none that are better are left


def test_another_seed_is_another_run(cnn) -> None:
    first = prune(cnn, criterion="random")
    assert first.plan == prune(cnn, criterion="random").plan
    assert first.plan != prune(cnn, criterion="magnitude").plan
