"""A second GPU is used as it was named, as far as a machine without one can show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mvp_deploy.base.devices import full_float32, resolve
from mvp_deploy.training import TrainConfig
from mvp_deploy.training.checkpoint import Best, Checkpoint


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[int, torch.Tensor]:
    """The random states of two GPUs, in the place of torch's."""
    states = {number: torch.full((16,), number, dtype=torch.uint8) for number in (0, 1)}

    def number(device: torch.device | str = "cuda") -> int:
        return torch.device(device).index or 0

    def change(state: torch.Tensor, device: torch.device | str = "cuda") -> None:
        states[number(device)] = state

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": states[number(device)].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", change)
    return states


@pytest.mark.parametrize("used", [0, 1])
def test_a_checkpoint_has_the_random_state_of_the_gpu_in_use(
    used: int, gpus: dict[int, torch.Tensor], tmp_path: Path
) -> None:
    checkpoint = _checkpoint(tmp_path, resolve(f"cuda:{used}"))
    before = gpus[used].clone()
    checkpoint.save(1, 0.0, 0.5, Best())
    gpus.update({number: torch.full((16,), 9, dtype=torch.uint8) for number in gpus})
    checkpoint.load()
    assert torch.equal(gpus[used], before)
    assert (gpus[1 - used] == 9).all()


def test_a_cpus_checkpoint_leaves_gpus_alone(gpus: dict[int, torch.Tensor], tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, torch.device("cpu"))
    checkpoint.save(1, 0.0, 0.5, Best())
    gpus[0] = torch.full((16,), 9, dtype=torch.uint8)
    checkpoint.load()
    assert (gpus[0] == 9).all()


def _checkpoint(folder: Path, device: torch.device, scaler: torch.amp.GradScaler | None = None) -> Checkpoint:
    model = nn.Linear(2, 2)
    labels = SimpleNamespace(device=device, tolist=lambda: [0, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = scaler or torch.amp.GradScaler("cuda", enabled=False)
    return Checkpoint(folder / "c.safetensors", model, optimizer, scaler, TrainConfig(), labels)  # type: ignore[arg-type]


def test_a_scalers_whole_numbers_stay_whole(tmp_path: Path) -> None:
    """torch refuses a growth interval of 2000.0, which only shows on a GPU: a scaler of the CPU counts the same way."""
    scaler = torch.amp.GradScaler("cpu")
    before = scaler.state_dict()
    checkpoint = _checkpoint(tmp_path, torch.device("cpu"), scaler)
    checkpoint.save(1, 0.0, 0.5, Best())
    checkpoint.load()
    after = scaler.state_dict()
    assert after == before
    assert {key: type(value) for key, value in after.items()} == {key: type(value) for key, value in before.items()}


@pytest.fixture(params=["nothing", "high products", "tf32 everywhere", "tf32 products"])
def asked(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a process may have asked torch for before, by its older and its newer settings."""
    products, everywhere = torch.get_float32_matmul_precision(), torch.backends.fp32_precision
    newer = torch.backends.cuda.matmul.fp32_precision
    if request.param == "high products":
        torch.set_float32_matmul_precision("high")
    elif request.param == "tf32 everywhere":
        torch.backends.fp32_precision = "tf32"
    elif request.param == "tf32 products":  # after which torch refuses to say what the older setting is
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.fp32_precision = everywhere
    torch.backends.cuda.matmul.fp32_precision = newer
    torch.set_float32_matmul_precision(products)


@pytest.mark.usefixtures("asked")
def test_full_float32_is_without_tf32_and_puts_back_what_was_asked_for() -> None:
    def settings() -> list[str]:
        backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
        return [_products(), *(backend.fp32_precision for backend in backends)]

    @full_float32()
    def inside() -> None:
        assert settings() == ["highest", "ieee", "ieee", "ieee"]
        raise ZeroDivisionError

    before = settings()
    assert before[2] == "tf32"
    with pytest.raises(ZeroDivisionError):
        inside()
    assert settings() == before


def _products() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "unknown"
