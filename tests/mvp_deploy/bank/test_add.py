"""Adding a task to a bank says where its numbers mean little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.reporter import Silent
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import LongWay, Schedule
from mvp_deploy.tasks import load_task
from mvp_deploy.training import TrainConfig

HOW = LongWay(Budget(0.5), Schedule(1, 1), TrainConfig(steps=1, batch_size=4))


@pytest.mark.parametrize(
    ("each", "sentences"),
    [
        (1, ["3 training images are little to judge by", "3 of 3 classes have one training image"]),
        (3, ["9 training images are little to judge by"]),
        (12, []),
    ],
)
def test_few_photographs_a_class_are_warned_about(cnn, tmp_path: Path, each: int, sentences: list[str]) -> None:
    draw, parts = np.random.default_rng(0), {"train": each, "test": 2}
    pixels = {f"x_{part}": draw.integers(0, 256, (3 * n, 8, 8), np.uint8) for part, n in parts.items()}
    np.savez(tmp_path / "few.npz", **pixels, **{f"y_{part}": np.arange(3 * n) % 3 for part, n in parts.items()})
    task, warned, reporter = load_task(f"{tmp_path}/few.npz").named("few"), [], Silent()
    reporter.warn = warned.append  # type: ignore[method-assign]
    bank = Bank.init(tmp_path / "bank", cnn.backbone, cnn.state)
    add_task(bank, task, HOW, device=torch.device("cpu"), reporter=reporter)
    assert len(warned) == len(sentences)
    assert all(line.startswith(f"few: {sentence}") for line, sentence in zip(warned, sentences, strict=True))
