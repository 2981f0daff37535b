"""`mvp.export`, `mvp.Bundle`, `mvp.benchmark`: a model that its user made and trained runs elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mvp_deploy as mvp
from mvp_deploy.benchmark.runner import open_runner
from mvp_deploy.export import artefacts


def small_net(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(channels, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    """Three classes that differ in brightness, so that a few steps learn them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    return torch.randn(60, 3, 12, 12, generator=generator) * 0.2 + labels.float().view(-1, 1, 1, 1) - 1, labels


@pytest.fixture(scope="module")
def tuned(data: tuple[Tensor, Tensor]) -> mvp.Result:
    """Pruned, then trained on by its owner's own loop."""
    result = mvp.prune(small_net(), data, macs=0.6)
    optimizer = torch.optim.SGD(result.model.parameters(), 0.1, momentum=0.9)
    result.model.train()
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(result.model(data[0]), data[1]).backward()
        optimizer.step()
    return result


@pytest.fixture(scope="module")
def bundle(tuned: mvp.Result, data: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> mvp.Bundle:
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    with pytest.warns(UserWarning, match="only 48 images to calibrate on"):
        return mvp.export(tuned, folder, data=data, precisions=["fp32", "int8"], classes=["low", "mid", "high"])


def test_what_was_trained_after_pruning_is_what_is_exported(
    bundle: mvp.Bundle, tuned: mvp.Result, data: tuple[Tensor, Tensor]
) -> None:
    names = [(file.model, file.precision) for file in bundle.models]
    assert names == [("unpruned", "fp32"), ("unpruned", "int8"), ("pruned", "fp32"), ("pruned", "int8")]
    with bundle.session(precision="fp32") as model, torch.no_grad():
        found = model.logits(list(data[0].numpy()))
        np.testing.assert_allclose(found, tuned.model.eval()(data[0]).numpy(), rtol=1e-3, atol=1e-4)
    assert bundle.evaluate(data, precision="fp32").accuracy.value > 0.9
    assert bundle.models[2].params == sum(parameter.numel() for parameter in tuned.model.parameters())


def test_parity_judges_a_module_from_python_as_it_judges_a_run(
    tuned: mvp.Result, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path, *args: object, **options: object) -> object:
        runner = open_runner(path)
        real = runner.output
        runner.output = lambda: real() + 1  # type: ignore[method-assign]
        return runner

    monkeypatch.setattr(artefacts, "open_runner", wrong)
    with pytest.raises(mvp.ParityError, match="no bundle is written"):
        mvp.export(tuned.model, tmp_path / "bundle", data=data)
    assert not (tmp_path / "bundle").exists()


def test_a_module_alone_is_the_bundle_s_one_model_and_stays_as_it_is(
    data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    net = small_net(channels=1).train()
    grey = data[0].mean(1, keepdim=True)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bundle = mvp.export(net, tmp_path / "bundle", data=(grey, data[1]))
    assert [file.file for file in bundle.models] == ["models/model.fp32.onnx"]
    assert bundle.classes == ("0", "1", "2")
    assert bundle.predict(grey[0].numpy()).label in bundle.classes
    assert len(bundle.predict([grey[0].numpy()] * 2)) == 2
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(mvp.InputError, match="export it with preprocessing="):
        bundle.predict("photo.jpg")
    with pytest.raises(mvp.InputError, match="takes images of"):
        bundle.predict(np.zeros((3, 5, 5), np.float32))


def test_without_labels_accuracy_is_agreement_and_that_is_said(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="agrees with PyTorch"):
        bundle = mvp.export(small_net(), tmp_path / "bundle", data=data[0])
    assert bundle.models[0].accuracy == 1.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "Pass data="),
        ({"data": (torch.zeros(4, 3, 12, 12), torch.zeros(4)), "classes": ["a", "b"]}, "there are 2 classes"),
        ({"data": (torch.zeros(4, 3, 12, 12), torch.zeros(4)), "targets": ["onnxx"]}, "no target 'onnxx'"),
        ({"data": (torch.zeros(4, 3, 12, 12), torch.zeros(4)), "targets": ["onnx-uint8"]}, "pass preprocessing="),
        ({"data": (torch.zeros(1, 3, 12, 12), torch.zeros(1))}, "pass validation="),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(arguments: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(mvp.InputError, match=sentence):
        mvp.export(small_net(), tmp_path / "bundle", **arguments)
    with pytest.raises(mvp.InputError, match="int cannot be exported"):
        mvp.export(7, tmp_path / "bundle", data=data)  # type: ignore[arg-type]


def test_a_run_is_pruned_by_a_bank_and_exported_from_its_result(run: mvp.Result, tmp_path: Path) -> None:
    assert run.report.macs <= 0.6 * run.report.full_macs
    assert run.report.accuracy is not None
    bundle = mvp.export(run, tmp_path / "bundle")
    assert bundle.classes == ("0", "1", "2")
    Image.new("RGB", (40, 30), "white").save(tmp_path / "photo.png")
    assert bundle.predict(tmp_path / "photo.png").label in bundle.classes
    assert bundle.evaluate("digits#0,1,2").accuracy.value == bundle.models[-1].accuracy
    again = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert again["metrics"]["pruned"]["accuracy"] == pytest.approx(bundle.models[-1].accuracy)


@pytest.mark.parametrize("arguments", [{"data": "digits#1,0,2"}, {"validation": "digits#2,1,0"}])
def test_images_of_the_classes_in_another_order_are_refused(
    arguments: dict[str, str], run: mvp.Result, tmp_path: Path
) -> None:
    with pytest.raises(mvp.InputError, match="and the model is for 0, 1, 2"):
        mvp.export(run, tmp_path / "bundle", **arguments)  # type: ignore[arg-type]


def test_a_result_whose_run_was_replaced_by_another_task_s_is_refused(run: mvp.Result, tmp_path: Path) -> None:
    with pytest.raises(mvp.InputError, match="and the model is for 5, 6, 7"):
        mvp.export(replace(run, classes=("5", "6", "7")), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "resnet18"}, "pass 'test_resnet', not 'resnet18'"),
        ({"pretrained": True}, "leave out"),
        ({"reconstruct": False}, "leave out"),
        ({"data": (torch.zeros(4, 3, 12, 12), torch.zeros(4))}, "on disk"),
        ({"bank": None, "out": "run"}, "pass bank= as well"),
    ],
)
def test_what_a_bank_cannot_prune_is_a_sentence(arguments: dict[str, object], sentence: str, bank_folder: Path) -> None:
    asked = {"model": "test_resnet", "data": "digits#0,1", "bank": bank_folder, "macs": 0.5} | arguments
    with pytest.raises(mvp.InputError, match=sentence):
        mvp.prune(**asked)  # type: ignore[arg-type]


def test_times_are_rows_a_table_and_a_frame(bundle: mvp.Bundle) -> None:
    times = mvp.benchmark(bundle, batches=[1, 2], precisions=["fp32"], duration=0.05)
    assert times.failure() is None
    assert [(row["model"], row["batch"]) for row in times.records()] == [
        ("unpruned", 1), ("pruned", 1), ("unpruned", 2), ("pruned", 2)
    ]  # fmt: skip
    assert all(row["p50_ms"] > 0 for row in times.records())
    assert all(0 < row["accuracy_here"] <= 1 and row["samples"] > 1 for row in times.records())
    assert "p50 ms" in repr(times)
    frame = times.to_pandas()
    assert list(frame.columns) == list(times.records()[0])
    assert len(frame) == 4


def test_a_missing_pandas_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(mvp.EnvironmentMissing, match="pip install pandas"):
        mvp.Benchmark((), {}).to_pandas()


def test_a_bundle_is_used_without_torch(bundle: mvp.Bundle) -> None:
    script = f"""
import sys
for name in ("torch", "timm", "onnx", "pydantic", "rich"): sys.modules[name] = None
import numpy as np, mvp_deploy as mvp
bundle = mvp.Bundle({str(bundle.path)!r})
print(bundle.predict(np.zeros((3, 12, 12), np.float32), precision="fp32").label)
print(bundle.evaluate([(np.zeros((2, 3, 12, 12), np.float32), [0, 1])], precision="fp32").confusion.sum())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    label, count = done.stdout.split()
    assert label in bundle.classes
    assert count == "2"


def test_functions_stay_functions_after_their_rooms_are_imported() -> None:
    script = "import mvp_deploy.export, mvp_deploy.benchmark.compare; m = mvp_deploy; print(m.export, m.benchmark)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith("<function export")
    assert "<function benchmark" in said


def test_progress_is_silent_until_it_is_asked_for(bundle_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = mvp.Bundle(bundle_folder)
    bundle.evaluate("digits#0,1,2")
    assert capfd.readouterr().err == ""
    with mvp.progress():
        bundle.evaluate("digits#0,1,2")
    assert "evaluating: " in capfd.readouterr().err
    bundle.evaluate("digits#0,1,2")
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def rare() -> tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A net that tells three classes from each other, of which the brightest has one training image; what judges it."""
    generator = torch.Generator().manual_seed(0)

    def pictures(*counts: int) -> tuple[Tensor, Tensor]:
        labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
        noise = torch.randn(len(labels), 3, 12, 12, generator=generator) * 0.2
        return noise + 4.0 * labels.view(-1, 1, 1, 1), labels

    train, held_out = pictures(12, 12, 1), pictures(6, 6, 1)
    net = small_net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train[0]), train[1]).backward()
        optimizer.step()
    return net.eval(), train, held_out


@pytest.mark.parametrize("method", ["entropy", "minmax", "percentile", "mse"])
def test_int8_for_a_class_with_one_training_image_is_a_model_or_a_sentence_with_the_cure(
    method: str, rare: tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    net, train, held_out = rare
    refused = ""
    try:
        mvp.export(net, tmp_path / "b", data=train, validation=held_out, precisions=["fp32", "int8"], method=method)
    except (mvp.AccuracyError, mvp.ParityError) as error:
        refused = str(error)
    delivered = [file.precision for file in mvp.Bundle(tmp_path / "b").models]
    assert delivered == ["fp32", "int8"] or (delivered == ["fp32"] and f"--method {method}: try" in refused)
