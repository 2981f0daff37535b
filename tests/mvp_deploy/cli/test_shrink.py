"""`shrink`: one command from a trained checkpoint to a bundle that a device runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from fakes.profiles import blocks_of, profile_by

from mvp_deploy import bundle, runs
from mvp_deploy.backbones import build
from mvp_deploy.base.errors import ExitCode
from mvp_deploy.cli import main
from mvp_deploy.pruning.head import classifier, solve_head
from mvp_deploy.training import accuracy

CUT = ("--macs", "0.5", "--measure", "none", "--device", "cpu")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["shrink", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def trained(cnn) -> torch.nn.Module:
    """A classifier of three digits that gets nearly all of them right."""
    model = build(cnn.backbone, cnn.state, 3)
    assert solve_head(model, classifier(model), cnn.train)
    assert accuracy(model, cnn.test) > 0.9
    return model


def written(file: Path, model: torch.nn.Module, order: list[int]) -> Path:
    """The model as timm's train.py saves it, its outputs in another order."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state |= {name: state[name][order] for name in ("fc.weight", "fc.bias")}
    how = {"img_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 0.95}
    torch.save({"state_dict": state, "args": argparse.Namespace(model="test_resnet", **how)}, file)
    return file


def test_a_checkpoint_keeps_its_head_and_is_the_baseline(cnn, trained, tmp_path: Path) -> None:
    file = written(tmp_path / "last.pth.tar", trained, [0, 1, 2])
    made = ("--out", tmp_path / "small", "--train", "none", "--precision", "int8", *CUT)
    arguments = ("digits#0,1,2", "--model", file, *made)
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    unpruned = runs.load(tmp_path / "small/run").unpruned().model
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in unpruned.state_dict().items())
    info = bundle.read(tmp_path / "small/bundle").info
    metrics = info["metrics"]
    assert metrics["unpruned"]["accuracy"] == pytest.approx(accuracy(trained, cnn.test))
    assert metrics["pruned"]["macs"] <= 0.5 * metrics["unpruned"]["macs"]
    assert metrics["pruned"]["accuracy"] > 0.7
    told = done.stdout.splitlines()
    assert [line.split()[0] for line in told[:5]] == ["accuracy", "latency", "size", "bundle", "report"]
    assert told[-1] == f"Next: mvp-deploy predict {tmp_path / 'small/bundle'} PHOTO --target onnx --precision int8"
    assert "--round-to 16" in done.stderr
    again = call(*arguments)
    assert again.exit_code == 0, again.output
    assert "stays as it is" in again.stderr


@pytest.mark.parametrize(
    ("ships", "speed_up", "share"), [("int8", "2x", 1.0), ("int8", "4x", 0.75), ("fp32", "2x", 0.5)]
)
def test_what_int8_alone_gains_counts_for_the_speed_up_if_it_ships(
    cnn, trained, tmp_path: Path, ships: str, speed_up: str, share: float
) -> None:
    """On a machine, which is not this one, where int8 is three times as fast as float32."""
    file, board = written(tmp_path / "last.pth.tar", trained, [0, 1, 2]), tmp_path / "board.json"
    found = profile_by(cnn.original.model, cnn.original.structure, blocks_of(8))
    found = replace(found, precision="int8", float32_ms=3 * found.full_ms)
    board.write_text(json.dumps(asdict(found)), encoding="utf-8")
    out, asked = tmp_path / "small", ("--train", "none", "--measure", "none", "--device", "cpu", "--precision", ships)
    asked = (*asked, "--target", "torch,onnx")
    done = call("digits#0,1,2", "--model", file, "--speed-up", speed_up, "--on", board, "--out", out, *asked)
    assert done.exit_code in (0, ExitCode.ACCURACY), done.output
    cut = share < 1
    assert ("nothing is cut" in done.stderr) != cut
    assert ("2 times faster than the unpruned model in int8, since that is not shipped" in done.stderr) == (
        ships == "fp32"
    )
    assert "torch cannot be profiled, so the time is met in ONNX Runtime" in done.stderr
    info = runs.load(out / "run").info
    macs = info["metrics"]["pruned"]["macs"] / info["metrics"]["unpruned"]["macs"]
    assert (macs == 1) != cut
    if cut:
        met = info["metrics"]["pruned"]["making"]["latency"]
        assert (share - 0.1) * found.full_ms < met["predicted_ms"] <= share * found.full_ms
        alone = "4 times faster than in float32, 3.00 of which the precision alone gives"
        assert met["target"] == (alone if ships == "int8" else "2 times faster")
    else:
        unpruned, pruned = (
            each.model.state_dict() for each in (runs.load(out / "run").unpruned(), runs.load(out / "run").pruned())
        )
        assert all(torch.equal(value, pruned[name]) for name, value in unpruned.items())


def test_a_profile_of_another_image_size_is_refused_where_nothing_would_be_cut_too(
    cnn, trained, tmp_path: Path
) -> None:
    """As one that an earlier call for other images left beside the run."""
    file, out = written(tmp_path / "last.pth.tar", trained, [0, 1, 2]), tmp_path / "small"
    found = replace(profile_by(cnn.original.model, cnn.original.structure, blocks_of(8)), input_size=(3, 64, 64))
    out.mkdir()
    (out / "run.profile.json").write_text(json.dumps(asdict(found)), encoding="utf-8")
    refused = call("digits#0,1,2", "--model", file, "--latency", "100ms", "--out", out, "--train", "none")
    assert refused.exit_code == ExitCode.INPUT
    assert f"going by the profile that is there: {out / 'run.profile.json'}" in refused.stderr
    assert "the profile is of images of 64x64, and this model takes 32x32" in refused.stderr
    assert not (out / "run").exists()


def test_outputs_in_another_order_are_named_and_put_right(cnn, trained, tmp_path: Path) -> None:
    file = written(tmp_path / "last.pth.tar", trained, [2, 0, 1])
    arguments = ("digits#0,1,2", "--checkpoint", file, "--out", tmp_path / "small", "--train", "none", *CUT)
    refused = call(*arguments)
    assert refused.exit_code == ExitCode.INPUT
    assert "they are 2, 0, 1. Name them in that order with --classes." in refused.stderr
    done = call(*arguments, "--classes", "2,0,1", "--name", "small digits", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert bundle.read(tmp_path / "small/bundle").info["task"]["name"] == "small digits"
    assert "small digits" in (tmp_path / "small/report.html").read_text(encoding="utf-8")
    found = json.loads(done.stdout)["outcome"]["before"]["accuracy"]
    assert found == pytest.approx(accuracy(trained, cnn.test))


def test_a_checkpoint_for_other_classes_becomes_a_backbone_and_that_is_said(trained, tmp_path: Path) -> None:
    file = written(tmp_path / "last.pth.tar", trained, [0, 1, 2])
    done = call("digits#3,4", "--model", file, "--out", tmp_path / "small", "--train", "none", *CUT)
    assert done.exit_code == 0, done.output
    assert "tells 3 classes apart and the data have 2: its head is dropped" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Name the model to shrink"),
        (("--model", "test_resnet", "--macs", "0.5", "--speed-up", "2x"), "--macs and a time exclude each other"),
        (("--model", "test_resnet"), "without weights is random"),
        (("--model", "test_resnett", "--pretrained"), "did you mean test_resnet"),
        (("--model", "test_resnet", "--weights", "none.pt"), "no weights file none.pt"),
        (("--model", "resnet18,resnet34", "--pretrained"), "frontier DATA --backbone resnet18,resnet34 --latency 4ms"),
        (("--model", "mistyped.pth"), "no weights file mistyped.pth"),
        (("--checkpoint", "x.pt", "--pretrained"), "has its own weights"),
        (("--model", "test_resnet", "--pretrained", "--classes", "0,1"), "belongs to a --checkpoint"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    refused = call("digits#0,1", "--out", tmp_path / "small", *arguments)
    assert refused.exit_code == ExitCode.INPUT
    assert sentence in refused.stderr
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("command", ["shrink", "prune", "frontier"])
def test_results_among_the_images_are_refused(tmp_path: Path, command: str) -> None:
    """The next call would take them for a class."""
    (tmp_path / "photos").mkdir()
    given = [f"{tmp_path / 'photos'}?limit=5#a,b", "--out", f"{tmp_path / 'photos' / 'small'}"]
    backbone = ["--model" if command == "shrink" else "--backbone", "test_resnet", "--image-size", "32"]
    refused = CliRunner().invoke(main, [command, *given, *backbone])
    assert refused.exit_code == ExitCode.INPUT
    assert "which the results are made from" in " ".join(refused.stderr.split())
    assert not (tmp_path / "photos" / "small").exists()
