"""`shrink` of several models for one time: the search finds one, which is cut to the time, or ships as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fakes.clock import in_two_processes

from mvp_deploy import backbones, runs
from mvp_deploy.base.errors import ExitCode
from mvp_deploy.base.reporter import Silent
from mvp_deploy.cli import main
from mvp_deploy.export.config import Exports
from mvp_deploy.latency.format import Precision, Profile
from mvp_deploy.latency.front import Candidate
from mvp_deploy.latency.meet import Target
from mvp_deploy.pipeline import candidates as making
from mvp_deploy.pipeline.several import best_of
from mvp_deploy.tasks import load_task


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights are random ones."""
    create = backbones.create

    def offline(name: str, *, pretrained: bool = False, **how: Any) -> Any:
        return create(name, **how)

    monkeypatch.setattr(backbones, "create", offline)


def call(out: Path, *more: object) -> Result:
    fixed = ["digits#0,1,2", "--model", "test_resnet,test_vit", "--pretrained", "--image-size", "32", "--out", out]
    fixed += ["--train", "none", "--device", "cpu"]
    return CliRunner().invoke(main, ["shrink", *map(str, (*fixed, *more))])


def test_where_an_unpruned_model_is_best_it_ships_and_the_report_says_why(tmp_path: Path, made_up: list[str]) -> None:
    asked = ("--latency", "100ms", "--measure", "none", "--json")
    done = call(tmp_path, *asked)
    assert done.exit_code == 0, done.output
    assert sorted(made_up) == ["models/test_resnet-32-1.fp32.onnx", "models/test_vit-32-1.fp32.onnx"]
    found = json.loads(done.stdout)
    assert "Do not prune" in found["verdict"]
    info = runs.load(tmp_path / "run").info
    assert info["backbone"]["name"] in found["verdict"]
    assert info["metrics"]["pruned"]["macs"] == info["metrics"]["unpruned"]["macs"]
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Why this model" in report
    assert "Do not prune" in report
    assert "test_vit 32 px" in report  # in the picture
    again = call(tmp_path, *asked)
    assert json.loads(again.stdout) == found
    assert len(made_up) == 2


def test_where_a_cut_is_best_that_model_is_cut_to_the_time_and_a_kill_searches_no_more(
    tmp_path: Path, made_up: list[str], profiled: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune = runs.prune_task

    def killed(*_: object, **__: object) -> runs.Run:
        raise KeyboardInterrupt

    full = profiled.full_ms
    monkeypatch.setattr(making, "leave_one_out", lambda file, *_: 0.9 if "test_resnet" in file.name else 0.5)

    def time(out: Path, tried: Sequence[Candidate], *_: object) -> np.ndarray:
        return in_two_processes(full * each.macs / 4.098336e6 for each in tried)

    monkeypatch.setattr(making, "time_files", time)
    monkeypatch.setattr(runs, "prune_task", killed)
    asked = ("--latency", f"{0.6 * full}", "--measure", "none")
    assert call(tmp_path, *asked).exit_code == 130
    monkeypatch.setattr(runs, "prune_task", prune)
    monkeypatch.delattr(making.Place, "candidate")
    done = call(tmp_path, *asked)
    assert done.exit_code == 0, done.output
    assert "Most accurate within" in done.stdout
    assert done.stderr.count("the profile predicts models that it has not seen") == 1
    info = runs.load(tmp_path / "run").info
    assert info["backbone"]["name"] == "test_resnet"
    assert info["metrics"]["pruned"]["making"]["latency"]["predicted_ms"] <= 0.6 * full
    assert "Why this model" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_an_earlier_call_tried_for_other_images_or_another_precision_does_not_ship(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making.Place, "_convert", lambda self, onnx, precision, file: file.write_bytes(onnx))
    right = {"32-1.fp32": 0.5, "32-1.int8": 0.6, "48-1.fp32": 0.7}
    monkeypatch.setattr(making, "leave_one_out", lambda file, *_: right[file.stem.removeprefix("test_resnet-")])
    task = load_task("digits#0,1,2")

    def best(size: int, precision: Precision) -> Candidate:
        ships = Exports(precisions=(precision,))
        how = Target(milliseconds=100.0), ships, tmp_path
        return best_of(["test_resnet"], size, task, *how, seed=0, reporter=Silent()).best

    assert best(48, "fp32").loo == 0.7
    assert best(32, "int8").loo == 0.6
    assert best(32, "fp32").loo == 0.5
    assert len(made_up) == 3


def test_where_nothing_meets_the_time_all_that_was_found_is_there(tmp_path: Path, made_up: list[str]) -> None:
    done = call(tmp_path, "--latency", "0.001ms")
    assert done.exit_code == ExitCode.LATENCY == 4, done.output
    assert "no candidate takes 0.001 ms" in done.stderr
    assert "no candidate takes 0.001 ms" in (tmp_path / "frontier/frontier.html").read_text(encoding="utf-8")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--speed-up", "2x"], "no one time that --speed-up could count from"),
        (["--latency", "3ms", "--on", "a.json"], "call `mvp-deploy frontier`"),
        (["--latency", "3ms", "--classes", "a,b"], "call `mvp-deploy frontier`"),
        (["--latency", "3ms", "--model", "test_resnet,test_rest"], "did you mean"),
        (["--latency", "3ms", "--model", "local-dir:none,test_resnet"], "local-dir:none cannot be loaded"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path, more: list[str], told: str) -> None:
    refused = call(tmp_path / "small", *more)
    assert refused.exit_code == ExitCode.INPUT
    assert told in refused.stderr
    assert not (tmp_path / "small").exists()
