"""Bad numbers and words are sentences with the argument's own name and value, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mvp_deploy as mvp
from mvp_deploy.api.arguments import check

NET = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
DATA = torch.zeros(8, 3, 8, 8), torch.arange(8) % 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "median"}, "method is 'median': it must be minmax or entropy or percentile or mse."),
        ({"max_drop": 200}, "max_drop is 200: it must be from 0 to 100."),
        ({"max_drop": "1"}, "max_drop is '1': it must be a finite number."),
        ({"measure": [1, 0]}, "measure.1 is 0: it must be from 1 to 65536."),
        ({"measure": 1}, "measure is 1: it must be a list."),
        ({"images": 0}, "images is 0: it must be from 1 to 1e+09."),
        ({"seed": -1}, "seed is -1: it must be from 0 to 2.14748e+09."),
    ],
)
def test_export(arguments: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(mvp.InputError) as error:
        mvp.export(NET, tmp_path / "bundle", data=DATA, **arguments)  # type: ignore[arg-type]
    assert str(error.value) == sentence
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda: mvp.prune(NET, DATA, macs=2), "macs is 2: it must be above 0 and at most 1."),
        (lambda: mvp.prune(NET, DATA, params=0.5, seed=1.5), "seed is 1.5: it must be a whole number."),  # type: ignore[arg-type]
        (lambda: mvp.prune(NET, DATA, keep=0.5, round_to=0), "round_to is 0: it must be from 1 to 4096."),
        (lambda: mvp.benchmark("model.onnx", [0]), "batches.0 is 0: it must be from 1 to 65536."),
        (lambda: mvp.benchmark("model.onnx", duration=0), "duration is 0: it must be above 0 and at most 3600."),
        (lambda: mvp.Bank.create("bank", "test_resnet", image_size=0), "image_size is 0: it must be from 8 to 8192."),
        (lambda: mvp.Bank(None).build(0.5), "macs is 0.5: it must be a list."),  # type: ignore[arg-type]
    ],
)
def test_the_other_functions(function: Callable[[], object], sentence: str) -> None:
    with pytest.raises(mvp.InputError) as error:
        function()
    assert str(error.value) == sentence


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    check(
        seed=np.int64(3),
        macs=np.float32(0.5),
        max_drop=torch.tensor(1.0),
        batches=np.array([1, 8]),
        measure=range(1, 3),
    )
    check(threads=None, image_size=None)
