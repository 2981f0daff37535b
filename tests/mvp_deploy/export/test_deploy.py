from __future__ import annotations

import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from mvp_deploy import backbones, bundle, runs
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import AccuracyError, ExitCode, MvpError
from mvp_deploy.base.reporter import Silent
from mvp_deploy.benchmark.candidates import of_bundle
from mvp_deploy.benchmark.format import read_measurements
from mvp_deploy.cli import main
from mvp_deploy.export import artefacts, deploy, graphs, pack
from mvp_deploy.export.config import Exports
from mvp_deploy.exporters.parity import FP32_TOLERANCE, NoParity, compare
from mvp_deploy.inference.model import Which, chosen
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.recipes import recipe_named
from mvp_deploy.tasks import load_task, prepare
from mvp_deploy.tasks.task import lasting
from mvp_deploy.training import TrainConfig, accuracy
from tests.onnxfiles import read_metadata, run_onnx


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """A small model of two digits, pruned by its own importance."""
    folder = tmp_path_factory.mktemp("deploy")
    bank = Bank.init(folder / "bank", *backbones.create("test_resnet", image_size=32))
    return runs.prune_task(
        load_task("digits#0,1"),
        bank,
        folder / "run",
        runs.Pruning(Budget(0.5, "units"), recipe_named("own"), TrainConfig(steps=10, batch_size=32, lr=1e-3)),
        device=torch.device("cpu"),
        reporter=Silent(),
    )


def export_run(run: runs.Run, out: Path, asked: Exports = Exports(), **more: Any) -> bundle.Bundle:  # noqa: B008
    return deploy.export_run(run.folder, out, pack.Order.of(asked, Silent(), **more), reporter=Silent())


@pytest.fixture(scope="module")
def exported(run: runs.Run, tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    return export_run(run, tmp_path_factory.mktemp("out") / "bundle")


@pytest.mark.parametrize("name", ["pruned", "unpruned"])
def test_the_file_is_as_accurate_as_the_model_on_the_whole_held_out_part(
    run: runs.Run, exported: bundle.Bundle, name: str
) -> None:
    loaded = getattr(run, name)()
    test = prepare(load_task("digits#0,1").test, loaded.backbone.preprocessing)
    (record,) = [model for model in exported.models if model.model == name]
    assert record.accuracy == accuracy(loaded.model, test)
    assert record.parity < record.tolerance
    proto = onnx.load(exported.path / record.file)
    weights = sum(np.prod(tensor.dims) for tensor in proto.graph.initializer)
    assert weights <= record.params  # batch norms are folded into convolutions


def test_the_pruned_file_is_the_smaller_one(exported: bundle.Bundle) -> None:
    sizes = [(exported.path / f"models/{name}.fp32.onnx").stat().st_size for name in ("pruned", "unpruned")]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_bundle_tells_what_a_device_needs(run: runs.Run, exported: bundle.Bundle) -> None:
    assert exported.classes == ("0", "1")
    assert exported.info["task"]["data"] == run.info["data"]
    metadata = read_metadata(exported.path / "models/pruned.fp32.onnx")
    assert metadata["classes"] == ["0", "1"]
    assert metadata["preprocessing"] == json.loads((exported.path / "preprocessing.json").read_text())
    samples = exported.samples
    assert samples["images"].dtype == np.float32
    assert len(samples["images"]) == bundle.MAX_SAMPLES
    got = run_onnx(exported.path / "models/pruned.fp32.onnx", samples["images"])
    assert compare(samples["pruned"], got).relative < FP32_TOLERANCE


def test_equal_runs_give_equal_bundles(run: runs.Run, exported: bundle.Bundle, tmp_path: Path) -> None:
    again = export_run(run, tmp_path / "again")
    assert (again.path / "manifest.json").read_bytes() == (exported.path / "manifest.json").read_bytes()


def test_without_parity_there_is_no_bundle(run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = artefacts.export_onnx

    def wrong(model: torch.nn.Module, *rest: object) -> Path:
        """An exporter that gets one layer a little wrong, as in pytorch#166797."""
        with torch.no_grad():
            model.get_classifier().weight *= 1.001  # type: ignore[operator]
        return real(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(artefacts, "export_onnx", wrong)
    done = CliRunner().invoke(main, ["export", str(run.folder), "--out", str(tmp_path / "bundle")])
    assert done.exit_code == ExitCode.PARITY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("target", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_int8_is_judged_in_the_runtime_it_is_for(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, suffix: str
) -> None:
    """Each rounds in its own way: there, layers that were tried and are in the file must be the same."""
    pytest.importorskip(target, reason=f"{target} is not installed")
    opened: list[tuple[str, float]] = []
    real = artefacts.open_runner

    def recorded(path: Path) -> artefacts.Runner:
        weights = path.with_suffix(".bin") if path.suffix == ".xml" else path
        opened.append((path.suffix, weights.stat().st_size))
        return real(path)

    monkeypatch.setattr(artefacts, "open_runner", recorded)
    asked = Exports(targets=(target,), precisions=("int8",), max_drop=1.0)
    found = export_run(run, tmp_path / "bundle", asked)
    assert [file.target for file in found.models] == [target] * 2
    assert {name for name, _ in opened} == {suffix}
    whole, tried, packed, *_ = opened  # the float32 model is judged there, too
    assert whole != tried
    assert tried == packed


def test_what_is_held_out_judges_int8_and_changes_no_byte_of_it(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(out: str) -> bundle.Bundle:
        return export_run(run, tmp_path / out, Exports(precisions=("int8",), max_drop=0.001))

    one = exported("one")
    monkeypatch.setattr(artefacts.HeldOut, "right", lambda self, found: found.argmax(1) != self.labels)
    other = exported("other")
    assert one.models[0].accuracy == pytest.approx(1 - other.models[0].accuracy)
    for file in one.models:
        assert (one.path / file.file).read_bytes() == (other.path / file.file).read_bytes()


def test_a_file_that_loses_too_much_is_no_part_of_the_bundle(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "allowed_drop", lambda max_drop, images: -1.0)
    found = export_run(run, tmp_path / "bundle", Exports(precisions=("fp32", "int8")))
    assert [file.precision for file in found.models] == ["fp32"] * 2
    assert not list((found.path / "models").glob("*int8*"))
    error = pack.failure(found)
    assert error is not None
    assert error.code == ExitCode.ACCURACY
    assert "pruned.int8.onnx is left out: it has" in str(error)
    assert "--method entropy: try minmax" in str(error)
    with pytest.raises(MvpError, match="no bundle is written") as caught:
        export_run(run, tmp_path / "none", Exports(precisions=("int8",)))
    assert caught.value.code == ExitCode.ACCURACY
    assert not (tmp_path / "none").exists()
    with pytest.raises(MvpError, match="bundle is an earlier one's"):
        export_run(run, tmp_path / "bundle", Exports(precisions=("int8",)))
    assert bundle.read(tmp_path / "bundle").models == found.models


def test_int8_that_costs_training_images_proposes_another_method(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where clipping hides what tells a class of one image from the others."""

    def costly(*_: object, **__: object) -> None:
        raise AccuracyError("int8 has 50.0% accuracy on 9 training images.")

    monkeypatch.setattr(graphs, "convert_int8", costly)
    found = export_run(run, tmp_path / "bundle", Exports(precisions=("fp32", "int8")), pruned_only=True)
    assert [file.precision for file in found.models] == ["fp32"]
    assert "--method entropy: try minmax" in str(pack.failure(found))


def test_a_precision_without_parity_is_named_with_its_image_and_cure_and_the_others_are_packed(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = artefacts.check_artefact

    def check(path: Path, subject: artefacts.Subject, *rest: object) -> tuple[np.ndarray, float, str]:
        if "pruned.int8" in path.name and subject.name == "pruned":
            raise NoParity("the logits are off.", worst=7)
        return real(path, subject, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(artefacts, "check_artefact", check)
    out = tmp_path / "bundle"
    asked = ["--precision", "fp32,int8", "--max-drop", "100", "--measure", ""]
    done = CliRunner().invoke(main, ["export", str(run.folder), "--out", str(out), *asked])
    assert done.exit_code == ExitCode.PARITY
    for part in ("models/pruned.int8.onnx", "held-out image number 7", "--method entropy", "minmax"):
        assert part in done.stderr
    packed = bundle.read(out)
    assert [(file.model, file.precision) for file in packed.models] == [
        ("unpruned", "fp32"), ("unpruned", "int8"), ("pruned", "fp32"),
    ]  # fmt: skip
    assert [failed["precision"] for failed in packed.info["failed"]] == ["int8"]


def test_what_a_file_gets_wrong_is_kept_image_by_image(exported: bundle.Bundle) -> None:
    for file in exported.models:
        assert file.accuracy == pytest.approx(1 - len(file.wrong) / file.tested)
    assert exported.info["task"]["held_out"]


@pytest.mark.parametrize(
    ("target", "precision", "said"),
    [
        ("openvino", "fp16", "the target openvino does not deliver fp16: ask for fp32 or int8"),
        ("onnx", "int4", "'int4' is not one of"),
        ("caffe", "fp32", "there is no target 'caffe'"),
    ],
)
def test_what_no_target_delivers_is_told_before_anything_is_made(
    run: runs.Run, tmp_path: Path, target: str, precision: str, said: str
) -> None:
    asked = ["--out", str(tmp_path / "b"), "--target", target, "--precision", precision]
    done = CliRunner().invoke(main, ["export", str(run.folder), *asked])
    assert done.exit_code == ExitCode.INPUT
    assert said in done.output


def test_changed_images_are_noticed(run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvp_deploy.tasks.load.load_task", lambda spec, **options: load_task("digits#0,2"))
    with pytest.raises(MvpError, match="have changed"):
        export_run(run, tmp_path / "bundle")


def test_images_are_found_from_another_folder_and_where_they_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "project").mkdir()
    np.savez(
        tmp_path / "project/data.npz",
        images=random.integers(0, 256, (20, 8, 8), np.uint8),
        labels=np.arange(20) % 2,
    )
    monkeypatch.chdir(tmp_path / "project")
    task = load_task("data.npz#0,1")
    found = lasting(task.name)
    run = runs.Run(Path("run"), {"source": found, "task": task.name, "data": task.fingerprint, "seed": 0})
    monkeypatch.chdir(tmp_path)
    assert deploy.task_of(run).fingerprint == task.fingerprint
    (tmp_path / "project/data.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(MvpError, match="--data"):
        deploy.task_of(run)
    assert deploy.task_of(run, "moved.npz#0,1").fingerprint == task.fingerprint
    with pytest.raises(MvpError, match="have changed"):
        deploy.task_of(run, "moved.npz#1,0")


def test_the_command_measures_and_prints_what_it_packed(run: runs.Run, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    done = CliRunner().invoke(main, ["export", str(run.folder), "--out", str(out), "--measure", "1,4", "--json"])
    assert done.exit_code == 0, done.output
    assert {model["model"] for model in json.loads(done.stdout)["models"]} == {"pruned", "unpruned"}
    measurements = read_measurements(bundle.read(out))
    assert measurements is not None
    rows = measurements["rows"]
    assert [(row["model"], row["batch"]) for row in rows] == [
        ("unpruned", 1), ("pruned", 1), ("unpruned", 4), ("pruned", 4),
    ]  # fmt: skip


def test_a_run_can_be_timed_in_pytorch(run: runs.Run) -> None:
    done = CliRunner().invoke(main, ["bench", str(run.folder), "--duration", "0.2", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["model"] for row in rows] == ["unpruned", "pruned"]
    assert rows[0]["runtime"] == "pytorch CPU"


def test_what_is_no_run_is_an_expected_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["export", str(tmp_path), "--out", str(tmp_path / "b")])
    assert done.exit_code == ExitCode.INPUT
    assert "not a finished run" in done.output


def test_a_bundle_of_the_pruned_model_alone_with_files_of_ones_own(run: runs.Run, tmp_path: Path) -> None:
    (tmp_path / "mine" / "notes").mkdir(parents=True)
    (tmp_path / "mine" / "notes" / "camera.txt").write_text("f/2.8")
    out = tmp_path / "bundle"
    command = ["export", str(run.folder), "--out", str(out), "--pruned-only", "--extra", str(tmp_path / "mine")]
    command += ["--target", "torch", "--with-preprocessing", "--measure", ""]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    opened = bundle.read(out)
    assert [file.file for file in opened.models] == ["models/pruned.fp32.pt2", "models/pruned.fp32.uint8.onnx"]
    assert all(file.accuracy == opened.models[0].accuracy for file in opened.models)
    assert (out / "models" / "pruned.fp32.safetensors").is_file()
    (out / "extra" / "later.txt").write_text("came afterwards")
    assert bundle.verify(out) == []
    assert bundle.uncovered(out) == ["extra/later.txt"]
    assert "extra/later.txt" in CliRunner().invoke(main, ["verify", str(out)]).output
    (out / "extra" / "notes" / "camera.txt").write_text("f/1.4")
    assert bundle.verify(out) == ["extra/notes/camera.txt is changed"]


def test_core_mls_folder_is_packed_and_said_to_be_untried_there(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("coremltools", reason="Core ML is not installed")
    monkeypatch.setattr(sys, "platform", "linux")
    out = tmp_path / "b"
    opened = export_run(run, out, Exports(targets=("coreml", "onnx")), pruned_only=True)
    package, onnx = opened.models
    assert package.file == "models/pruned.fp32.mlpackage"
    assert package.stand_in.endswith("not Core ML")
    assert (onnx.stand_in, onnx.accuracy) == ("", package.accuracy)
    assert chosen(opened, Which()) == onnx  # predict runs what runs here, and so does bench
    assert [candidate.runtime for candidate in of_bundle(opened)] == ["onnxruntime"]
    assert f"{package.file} has not run in its own runtime" in CliRunner().invoke(main, ["verify", str(out)]).output
    export_run(run, out, Exports(targets=("coreml",)), pruned_only=True)  # in the older one's place
    assert [file.file for file in bundle.read(out).models] == [package.file]
    (out / package.file / "Manifest.json").unlink()
    assert bundle.verify(out) == [f"{package.file}/Manifest.json is missing"]


def test_the_example_classifies_with_whatever_the_bundle_holds(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    there = [name.lower() for name in ("openvino", "executorch", "MNN") if find_spec(name)]
    targets = ["torch", "onnx-uint8", "tensorrt", *there]
    opened = export_run(run, tmp_path / "b", Exports(targets=targets), pruned_only=True)
    images = [np.asarray(image) for image in load_task("digits#0,1").test.images[:6]]
    names = [str(tmp_path / f"{number}.png") for number in range(6)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(name)
    batch = np.stack([run.pruned().backbone.preprocessing.apply(image) for image in images])
    expected = [opened.classes[k] for k in run.pruned().model(torch.from_numpy(batch)).argmax(1).tolist()]
    for asked in ([], *(["--model", file.file] for file in opened.models)):
        monkeypatch.setattr(sys, "argv", ["example.py", *asked, *names])
        runpy.run_path(str(opened.path / "example.py"), run_name="__main__")
        said = [line.rpartition(": ")[2][0] for line in capsys.readouterr().out.splitlines()]
        assert said == expected, asked
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(sys, "argv", ["example.py", "--model", "models/pruned.fp32.uint8.onnx", *names])
    with pytest.raises(SystemExit, match=r"does not run here \(.*onnxruntime.*take another --model"):
        runpy.run_path(str(opened.path / "example.py"), run_name="__main__")


def test_a_folder_of_ones_own_that_is_not_there_is_refused_before_the_work(run: runs.Run, tmp_path: Path) -> None:
    with pytest.raises(MvpError, match="--extra takes the folder"):
        export_run(run, tmp_path / "bundle", extra=tmp_path / "nowhere")
