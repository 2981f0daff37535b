"""`bank add`, `prune`, `export` and `bench` on a GPU as a user calls them, killed and resumed; its runtimes agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

import mvp_deploy as mvp
from mvp_deploy import backbones, bundle, runs
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import EnvironmentMissing
from mvp_deploy.base.reporter import Silent
from mvp_deploy.benchmark.runner import Runner, logits, open_runner
from mvp_deploy.cli import main
from mvp_deploy.exporters.parity import FP32_TOLERANCE
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import LongWay, Schedule
from mvp_deploy.pruning.recipes import RECIPES
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import load_task
from mvp_deploy.training import TrainConfig

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
ADD = ("--keep", "0.5", "--steps", "20", "--rounds", "2", "--round-steps", "10", "--batch-size", "32")
CUT = ("--macs", "0.5", "--steps", "20", "--batch-size", "32", "--device", DEVICE)
CONFIG = TrainConfig(steps=20, batch_size=32, lr=0.01, amp="off")


def call(*arguments: object) -> None:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "bank"
    call("bank", "init", folder, "--backbone", "test_resnet", "--image-size", 32)
    call("bank", "add", folder, "digits#3,4,5", "digits#1,2,3", *ADD, "--device", DEVICE)
    return folder


@pytest.fixture(scope="module")
def run(bank: Path) -> Path:
    folder = bank.parent / "run"
    call("prune", "digits#0,1,2", "--bank", bank, "--out", folder, *CUT)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> bundle.Bundle:
    folder = run.parent / "bundle"
    call("export", run, "--out", folder, "--precision", "fp32,fp16", "--device", DEVICE)
    return bundle.read(folder)


def test_a_bank_filled_on_a_gpu_is_whole_and_votes(bank: Path, run: Path) -> None:
    call("bank", "verify", bank)
    assert {entry.name for entry in Bank.open(bank).entries([])} == {"digits#3,4,5", "digits#1,2,3"}
    info = runs.load(run).info
    assert {voter["task"] for voter in info["votes"]["voters"]} == {"digits#3,4,5", "digits#1,2,3"}
    pruned, unpruned = info["metrics"]["pruned"], info["metrics"]["unpruned"]
    assert pruned["macs"] <= 0.5 * unpruned["macs"]
    assert pruned["exactness"] < 1e-5
    assert pruned["accuracy"] > 0.6


def test_what_a_gpu_wrote_is_read_on_a_cpu(run: Path) -> None:
    for model in (runs.load(run).pruned().model, runs.load(run).unpruned().model):
        assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_its_files_agree_with_pytorch_on_the_gpu(exported: bundle.Bundle) -> None:
    assert exported.info["failed"] == []
    assert {(file.model, file.precision) for file in exported.models} == {
        (model, precision) for model in ("pruned", "unpruned") for precision in ("fp32", "fp16")
    }
    for file in exported.models:
        assert file.parity <= file.tolerance


def test_a_backbone_is_pruned_without_a_bank(tmp_path: Path) -> None:
    arguments = ("--backbone", "test_resnet", "--image-size", 32, "--out", tmp_path / "run")
    call("prune", "digits#0,1,2", *arguments, *CUT)
    metrics = runs.load(tmp_path / "run").info["metrics"]
    assert metrics["pruned"]["macs"] <= 0.5 * metrics["unpruned"]["macs"]
    assert metrics["pruned"]["exactness"] < 1e-5


def test_a_result_of_the_python_api_is_exported_from_the_gpu(tmp_path: Path) -> None:
    result = mvp.prune("test_resnet", "digits#0,1,2", macs=0.5, image_size=32, device=DEVICE)
    assert {p.device.type for p in result.model.parameters()} == {resolve(DEVICE).type}
    made = mvp.export(result, tmp_path / "bundle", data="digits#0,1,2", device=DEVICE)
    assert all(file.parity <= file.tolerance for file in made.models)
    assert {p.device.type for p in result.model.parameters()} == {resolve(DEVICE).type}
    mvp.save(result, tmp_path / "small.safetensors")
    state = result.model.state_dict()
    loaded = mvp.load(tmp_path / "small.safetensors").state_dict()
    assert all(torch.equal(value.cpu(), state[name].cpu()) for name, value in loaded.items())


class Killed(BaseException):
    pass


class Deadly(Silent):
    """Kills the work at a step of its n-th progress."""

    def __init__(self, at: int, label: str) -> None:
        self.at, self.label = at, label

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., Any]]:
        def step(done: int, total: int, loss: float | None = None) -> None:
            if label.startswith(self.label) and done >= self.at:
                raise Killed

        yield step


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in one order, so that two runs are compared and not their rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def same(one: KeepPlan, other: KeepPlan) -> bool:
    return all(np.array_equal(mask, other.masks[name]) for name, mask in one.masks.items())


@pytest.mark.usefixtures("repeatable")
def test_a_run_resumed_after_a_kill_keeps_the_same_units(bank: Path, tmp_path: Path) -> None:
    opened, recipe = Bank.open(bank), replace(RECIPES["default"], judged=False)

    def prune(out: str, reporter: Silent) -> runs.Run:
        return runs.prune_task(
            load_task("digits#0,1,2"), opened, tmp_path / out, runs.Pruning(Budget(0.5, "units"), recipe, CONFIG),
            device=resolve(DEVICE), reporter=reporter,
        )  # fmt: skip

    unbroken = prune("unbroken", Silent())
    for at, label in ((10, "pruned"), (20, "pruned")):
        with pytest.raises(Killed):
            prune("killed", Deadly(at, label))
    resumed = prune("killed", Silent())
    assert same(resumed.pruned().plan, unbroken.pruned().plan)
    accuracies = [each.info["metrics"]["pruned"]["accuracy"] for each in (resumed, unbroken)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)


@pytest.mark.usefixtures("repeatable")
def test_a_task_added_after_a_kill_keeps_the_same_units(tmp_path: Path) -> None:
    plans = []
    for name in ("unbroken", "killed"):
        opened = Bank.init(tmp_path / name, *backbones.create("test_resnet", image_size=32))

        def add(reporter: Silent, opened: Bank = opened) -> None:
            add_task(
                opened, load_task("digits#3,4,5"), LongWay(Budget(0.5, "units"), Schedule(2, 10, batches=2), CONFIG),
                device=resolve(DEVICE), reporter=reporter,
            )  # fmt: skip

        if name == "killed":
            for at, label in ((10, "round 1"), (10, "round 2")):
                with pytest.raises(Killed):
                    add(Deadly(at, label))
        add(Silent())
        plans.append(opened.entry("digits#3,4,5").plan)
    assert same(*plans)


def agree(got: Runner, wanted: Runner, tolerance: float) -> None:
    images = np.random.default_rng(0).standard_normal((32, *wanted.image_shape), np.float32)
    for size in (1, 8, 32):
        expected = logits(wanted, images, size)
        assert np.abs(logits(got, images, size) - expected).max() <= tolerance * np.abs(expected).max()


def test_pytorch_times_a_run_on_the_gpu(run: Path) -> None:
    with closing(open_runner(run, device=DEVICE)) as here, closing(open_runner(run, device="cpu")) as there:
        assert here.name == f"pytorch {DEVICE.upper()}"
        agree(here, there, FP32_TOLERANCE)


def test_bench_times_a_run_on_the_gpu(run: Path) -> None:
    done = CliRunner().invoke(
        main, ["bench", str(run), "--duration", "0.5", "--batch", "1,8", "--device", DEVICE, "--json"]
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert {(row["model"], row["batch"]) for row in rows} == {(m, b) for m in ("unpruned", "pruned") for b in (1, 8)}
    assert {row["runtime"].split()[0] for row in rows} == {"pytorch"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtimes_cuda_provider_agrees_with_its_cpu_provider(exported: bundle.Bundle, precision: str) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is built without CUDA: install onnxruntime-gpu")
    path = next(exported.path / f.file for f in exported.models if (f.model, f.precision) == ("pruned", precision))
    try:
        here = open_runner(path, device=DEVICE)
    except EnvironmentMissing as error:
        pytest.skip(str(error))
    with closing(here), closing(open_runner(path, device="cpu")) as there:
        assert here._session.get_provider_options()["CUDAExecutionProvider"]["use_tf32"] == "0"
        agree(here, there, {"fp32": FP32_TOLERANCE, "fp16": 2e-2}[precision])
