from __future__ import annotations

import pytest
import torch

from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import ExitCode, MvpError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """As many GPUs as the test asks for, as far as torch's answers go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
    indirect=["gpus"],
)
@pytest.mark.usefixtures("gpus")
def test_a_device_that_is_there(name: str, device: str) -> None:
    assert resolve(name) == torch.device(device)


@pytest.mark.parametrize(
    ("gpus", "name", "code", "says"),
    [
        (0, "cuda", ExitCode.ENVIRONMENT, "pass --device cpu"),
        (0, "cuda:1", ExitCode.ENVIRONMENT, "pass --device cpu"),
        (2, "cuda:2", ExitCode.ENVIRONMENT, "there are 2 GPUs"),
        (2, "gpu", ExitCode.INPUT, "unknown device 'gpu'"),
        (0, "cuda:x", ExitCode.INPUT, "unknown device 'cuda:x'"),
    ],
    indirect=["gpus"],
)
@pytest.mark.usefixtures("gpus")
def test_a_device_that_is_not_there_is_an_error(name: str, code: ExitCode, says: str) -> None:
    with pytest.raises(MvpError, match=says) as caught:
        resolve(name)
    assert caught.value.code == code
