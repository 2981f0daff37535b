"""The search over backbones, sizes, cuts and precisions; the clock is made up, and mostly models are not exported."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from fakes.clock import in_two_processes
from fakes.profiles import blocks_of, profile_by
from torch import Tensor, nn

import mvp_deploy as mvp
from mvp_deploy import backbones
from mvp_deploy.base.environment import cpu_name
from mvp_deploy.base.errors import AccuracyError, InputError, LatencyError
from mvp_deploy.base.reporter import Silent
from mvp_deploy.cli import main
from mvp_deploy.cli.frontier import _budget
from mvp_deploy.latency.format import Conditions, Machine, Precision, Profile
from mvp_deploy.latency.front import Candidate, Failure, Frontier
from mvp_deploy.pipeline import asked as asking
from mvp_deploy.pipeline import candidates as making
from mvp_deploy.pipeline.asked import Source
from mvp_deploy.pruning.tuning import Choice, Judgement, Tuned


def candidate(size: int, share: float, ms: float, loo: float) -> Candidate:
    return Candidate("net", size, share, "macs", 1000, loo, loo, 100, ms, "models/x.onnx", 1.0)


def of(*candidates: Candidate) -> Frontier:
    return Frontier("0" * 64, Conditions("onnxruntime"), candidates)


WHOLE, SMALL = candidate(128, 1.0, 4.0, 0.95), candidate(96, 1.0, 2.5, 0.90)


def test_the_front_has_what_nothing_beats_in_both() -> None:
    bad, good = candidate(128, 0.7, 3.0, 0.85), candidate(128, 0.5, 2.0, 0.88)
    assert of(WHOLE, SMALL, bad, good).front == [good, SMALL, WHOLE]


def test_where_a_smaller_image_is_better_it_says_do_not_prune() -> None:
    told = of(WHOLE, SMALL, candidate(128, 0.6, 2.4, 0.85)).verdict(2.6)
    assert "net at 96 px, 2.500 ms" in told
    assert "Do not prune" in told


def test_where_a_cut_is_better_the_best_unpruned_stands_beside_it() -> None:
    told = of(WHOLE, SMALL, candidate(128, 0.6, 2.4, 0.93)).verdict(2.6)
    assert "net at 128 px cut to 60% of its macs" in told
    assert "Unpruned the best there is net at 96 px: 2.500 ms" in told


def test_a_time_that_no_candidate_meets_names_the_fastest() -> None:
    with pytest.raises(LatencyError, match=r"the fastest is net at 96 px with 2\.500 ms"):
        of(WHOLE, SMALL).winner(1.0)


def read(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "frontier.json").read_text(encoding="utf-8"))["candidates"]
    return found


def searched(milliseconds: float | None) -> Any:
    """A search's settings, as far as a place needs them to choose a share."""
    return SimpleNamespace(milliseconds=milliseconds, task=None, seed=0)


def call(out: Path, *more: str) -> object:
    fixed = ["digits#0,1,2", "--backbone", "test_resnet", "--image-size", "32,24", "--keep-time", "0.6", "--json", "-q"]
    return CliRunner().invoke(main, ["frontier", *fixed, "--out", str(out), *more])


def test_every_size_is_tried_whole_and_cut_and_the_search_goes_on_where_it_stopped(
    tmp_path: Path, made_up: list[str]
) -> None:
    first = call(tmp_path / "f", "--time-limit", "0.001")
    assert first.exit_code == 0, first.output
    assert made_up == ["models/test_resnet-32-1.fp32.onnx"]
    second = call(tmp_path / "f")
    assert second.exit_code == 0, second.output
    assert made_up[1:] == [
        f"models/test_resnet-{size}-{share}.fp32.onnx" for size, share in ((24, 1), (32, 0.6), (24, 0.6))
    ]
    found = json.loads(second.stdout)
    assert len(found["candidates"]) == 4
    assert found["winner"] in {each["name"] for each in found["candidates"]}
    interval = found["candidates"][0]["interval"]
    assert interval["low"] <= found["candidates"][0]["accuracy"] <= interval["high"]
    assert {"frontier.json", "frontier.svg", "frontier.html"} <= {path.name for path in (tmp_path / "f").iterdir()}
    assert "test_resnet 24 px, 60%" in (tmp_path / "f" / "frontier.svg").read_text(encoding="utf-8")
    other = call(tmp_path / "f", "--seed", "1")
    assert other.exit_code == 2
    assert "the search of something else" in other.output


def test_a_time_that_no_candidate_meets_ends_with_all_that_was_found(tmp_path: Path, made_up: list[str]) -> None:
    asked = ["digits#0,1,2", "--backbone", "test_resnet", "--image-size", "24", "--keep-time", "", "--latency", "0.001"]
    result = CliRunner().invoke(main, ["frontier", *asked, "--out", str(tmp_path / "f")])
    assert result.exit_code == LatencyError.code == 4, result.output
    assert "leave-one-out" in result.output  # the table
    assert "no candidate takes 0.001 ms" in (tmp_path / "f" / "frontier.html").read_text(encoding="utf-8")


def test_a_search_that_is_killed_leaves_the_picture_of_what_it_found(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = making.Place.candidate

    def killed(place: making.Place, share: float, precision: Precision, found: Frontier) -> Candidate:
        if found.candidates:
            raise KeyboardInterrupt
        return make(place, share, precision, found)

    monkeypatch.setattr(making.Place, "candidate", killed)
    assert call(tmp_path / "f").exit_code == 130
    assert "test_resnet 32 px" in (tmp_path / "f" / "frontier.svg").read_text(encoding="utf-8")
    assert "Most accurate" in (tmp_path / "f" / "frontier.html").read_text(encoding="utf-8")


def test_what_is_too_slow_is_cut_to_the_time_first_and_a_kill_changes_nothing(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def time(out: Path, candidates: Sequence[Candidate], *_: object) -> np.ndarray:
        made_up.append(candidates[-1].file)
        return in_two_processes(1.5 + each.macs / 1e6 for each in candidates)  # falls less than is thought at first

    make = making.Place.candidate

    def killed(place: making.Place, share: float, precision: Precision, found: Frontier) -> Candidate:
        if len(found.candidates) == 2:
            raise KeyboardInterrupt
        return make(place, share, precision, found)

    monkeypatch.setattr(making, "time_files", time)
    asked = ("--image-size", "32,24", "--latency", "4.2ms")  # unpruned they take 5.6 and 3.9
    with monkeypatch.context() as patch:
        patch.setattr(making.Place, "candidate", killed)
        assert call(tmp_path / "f", *asked).exit_code == 130
    second = call(tmp_path / "f", *asked)
    assert second.exit_code == 0, second.output
    whole, small, first, corrected, *shares = read(tmp_path / "f")
    assert (whole["image_size"], small["image_size"]) == (32, 24)
    aim = 0.98 * 4.2
    assert first["share"] == math.floor(1000 * (aim / whole["ms"]) ** (1 / making.EXPONENT)) / 1000
    assert first["ms"] > 4.2 >= corrected["ms"] > 0.95 * 4.2
    assert [each["aim"] for each in (first, corrected)] == [4.2, 4.2]
    power = math.log(first["share"]) / math.log(first["ms"] / whole["ms"])
    assert corrected["share"] == math.floor(1000 * first["share"] * (aim / first["ms"]) ** power) / 1000
    assert [(each["image_size"], each["share"], each["aim"]) for each in shares] == [(32, 0.6, None), (24, 0.6, None)]
    monkeypatch.delattr(making.Place, "candidate")  # nothing is left to do
    third = call(tmp_path / "f", *asked)
    assert json.loads(third.stdout) == json.loads(second.stdout)
    found = json.loads((tmp_path / "f" / "frontier.json").read_text(encoding="utf-8"))
    assert len({each["name"] for each in json.loads(third.stdout)["candidates"]}) == len(found["candidates"])


@pytest.mark.parametrize(
    ("limit", "share"),
    [
        (None, None),
        (4.0, None),  # the unpruned model is fast enough
        (3.0, 0.701),
        (1.6, 0.35),  # from the nearest that was measured
        (0.7, None),  # too deep
        (2.2, None),  # a cut takes just that
        (2.4, 0.551),
        (2.6, None),  # was tried, and failed
    ],
)
def test_which_share_takes_the_time(limit: float | None, share: float | None) -> None:
    cut, tuned = candidate(128, 0.5, 2.155, 0.9), replace(candidate(128, 1.0, 2.4, 0.9), steps=20)
    failed = Failure("net", 128, 0.603, "fp32", "why")
    found = replace(of(SMALL, WHOLE, cut, tuned), failed=(failed,))
    place = making.Place(searched(limit), Source("net"), 128, Path(), Silent())
    assert place.aimed(found, "fp32") == share
    assert place.aimed(found, "int8") is None  # has no unpruned model


def test_a_time_that_three_cuts_missed_is_given_up() -> None:
    cuts = [replace(candidate(128, share, ms, 0.9), aim=3.0) for share, ms in ((0.7, 3.4), (0.5, 2.0), (0.6, 3.2))]
    place = making.Place(searched(3.0), Source("net"), 128, Path(), Silent())
    assert place.aimed(of(WHOLE, *cuts[:2]), "fp32") is not None
    assert place.aimed(of(WHOLE, *cuts), "fp32") is None


@pytest.mark.parametrize(
    ("of", "precision", "asked"),
    [("macs", "int8", "--macs 0.5"), ("latency", "fp32", "--speed-up 2.00x"), ("latency", "int8", "--latency 2ms")],
)
def test_what_is_called_next_asks_for_the_candidate_in_its_precision(of: str, precision: Precision, asked: str) -> None:
    assert _budget(replace(candidate(128, 0.5, 2.0, 0.9), of=of, precision=precision)) == asked


def test_a_cut_is_the_model_that_prune_gives(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[dict[str, Tensor]] = []

    def export(model: nn.Module, example: object, path: Path, metadata: object) -> None:
        exported.append(model.state_dict())
        path.write_bytes(b"")

    monkeypatch.setattr(making, "export_onnx", export)
    name, data = "test_efficientnet", "digits#0,1"
    asked = ["--backbone", name, "--image-size", "32", "--keep-time", "0.5", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, ["frontier", data, *asked]).exit_code == 0
    whole, small = exported
    pruned = mvp.prune(name, data, macs=0.5, image_size=32, recipe="compensated").model.state_dict()
    assert {n: v.shape for n, v in small.items()} == {n: v.shape for n, v in pruned.items()}
    assert all(torch.allclose(value, pruned[n]) for n, value in small.items())
    _, unpruned = backbones.create(name, image_size=32)
    assert all(torch.equal(value, whole[n]) for n, value in unpruned.items())  # as a user would ship it


def test_int8_is_judged_and_timed_as_what_it_is_and_the_front_is_tuned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time(out: Path, candidates: Sequence[Candidate], *_: object) -> np.ndarray:
        return in_two_processes(2.0 if each.precision == "int8" else 3.0 for each in candidates)

    def tune(*_: object, **how: object) -> Tuned:
        before, after = Judgement(0.5, 0.8), Judgement(0.4, 0.85)  # as if it had helped, which chance decides here
        return Tuned(60, 20, 0.0, None, Choice(0.1, True), before, after, trial=after)

    monkeypatch.setattr(making, "time_files", time)
    monkeypatch.setattr(making, "tune", tune)
    asked = ["digits#0,1", "--backbone", "test_resnet", "--image-size", "24", "--keep-time", "", "--precision"]
    asked += ["fp32,int8", "--steps", "20", "--json", "-q", "--out", str(tmp_path)]
    first = CliRunner().invoke(main, ["frontier", *asked])
    assert first.exit_code == 0, first.output
    found = json.loads((tmp_path / "frontier.json").read_text(encoding="utf-8"))["candidates"]
    whole, small, *tuned = found
    assert (whole["precision"], small["precision"], small["ms"]) == ("fp32", "int8", 2.0)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / small["file"]).graph.node}
    assert small["tried"] == 20
    assert tuned
    twins = {each["precision"]: each["loo"] for each in (whole, small)}
    for each in tuned:
        assert each["steps"] == 20
        assert each["loo"] == pytest.approx(min(1.0, twins[each["precision"]] + 0.05))
    second = CliRunner().invoke(main, ["frontier", *asked])
    assert json.loads(second.stdout) == json.loads(first.stdout)


def test_a_kill_between_the_precisions_of_a_tuned_model_does_not_tune_it_again(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned: list[int] = []

    def tune(*_: object, **how: object) -> Tuned:
        tuned.append(1)
        before, after = Judgement(0.5, 0.8), Judgement(0.4, 0.85)
        return Tuned(60, 20, 0.0, None, Choice(0.1, True), before, after, trial=after)

    def time(out: Path, candidates: Sequence[Candidate], *_: object) -> np.ndarray:
        if candidates[-1].steps and candidates[-1].precision == "int8" and len(tuned) == 1 and not made_up:
            made_up.append("killed")
            raise KeyboardInterrupt
        return in_two_processes(2.0 if each.precision == "int8" else 3.0 for each in candidates)

    monkeypatch.setattr(making, "tune", tune)
    monkeypatch.setattr(making, "time_files", time)
    monkeypatch.setattr(making, "leave_one_out", lambda file, *_: 0.5 if "int8" in file.name else 0.6)
    monkeypatch.setattr(making.Place, "_convert", lambda self, onnx, precision, file: file.write_bytes(b""))
    asked = ("--image-size", "24", "--keep-time", "", "--precision", "fp32,int8", "--steps", "20")
    assert call(tmp_path, *asked).exit_code != 0
    assert made_up == ["killed"]
    second = call(tmp_path, *asked)
    assert second.exit_code == 0, second.output
    found = json.loads((tmp_path / "frontier.json").read_text(encoding="utf-8"))["candidates"]
    assert [(each["precision"], each["steps"]) for each in found] == [
        ("fp32", 0), ("int8", 0), ("fp32", 20), ("int8", 20)
    ]  # fmt: skip
    assert len(tuned) == 1


def test_where_there_is_a_profile_the_cut_is_of_milliseconds(cnn, tmp_path: Path, made_up: list[str]) -> None:
    board = tmp_path / "board.json"
    profile = profile_by(cnn.original.model, cnn.original.structure, blocks_of(8))
    board.write_text(json.dumps(asdict(profile)), encoding="utf-8")
    asked = ["digits#0,1,2", "--backbone", "test_resnet", "--image-size", "32", "--weights", str(cnn.weights)]
    asked += ["--keep-time", "0.6", "--on", str(board), "-q", "--out", str(tmp_path / "f")]
    result = CliRunner().invoke(main, ["frontier", *asked])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "f" / "frontier.json").read_text(encoding="utf-8"))["candidates"]
    assert [(each["share"], each["of"]) for each in found] == [(1.0, "latency"), (0.6, "latency")]
    assert found[1]["macs"] < found[0]["macs"]


def test_a_profile_that_is_not_there_is_made_of_the_one_model(
    cnn, tmp_path: Path, made_up: list[str], profiled: Profile
) -> None:
    asked = ["digits#0,1,2", "--backbone", "test_resnet", "--image-size", "32", "--weights", str(cnn.weights)]
    asked += ["--keep-time", "", "--on", str(tmp_path / "here.json"), "--out", str(tmp_path / "f")]
    result = CliRunner().invoke(main, ["frontier", *asked])
    assert result.exit_code == 0, result.output
    assert "this machine is profiled first" in result.output
    assert result.output.count("the profile predicts models that it has not seen") == 1
    again = CliRunner().invoke(main, ["frontier", *asked])
    assert again.output.count("the profile predicts models that it has not seen") == 1
    assert read(tmp_path / "f")[0]["of"] == "latency"


@pytest.mark.parametrize(
    ("of", "more", "code", "told"),
    [
        ({}, ["--image-size", "24"], 2, "is of images of 32 pixels: add 32 to --image-size"),
        ({"conditions": Conditions("onnxruntime", batch=8)}, [], 2, "taken with batch 8, and batch 1 is asked for"),
        ({"machine": Machine(cpu_name(), 1, "Linux")}, [], 2, "was taken with onnxruntime 1.0, and"),
        ({}, [], 0, "is of made, which is not in --backbone"),
        ({}, [], 0, "is of another machine (none): cuts are made for that one, and timed here"),
    ],
)
def test_a_profile_of_something_else_is_named(
    cnn, tmp_path: Path, made_up: list[str], of: dict[str, Any], more: list[str], code: int, told: str
) -> None:
    board = tmp_path / "board.json"
    profile = replace(profile_by(cnn.original.model, cnn.original.structure, blocks_of(8)), **of)
    board.write_text(json.dumps(asdict(profile)), encoding="utf-8")
    asked = ["--image-size", "32", "--keep-time", "", "--on", str(board), *more]
    result = call(tmp_path / "f", *asked)
    assert result.exit_code == code, result.output
    assert told in result.output


def test_what_may_win_is_tuned_first_and_beside_it_what_one_would_take_unpruned() -> None:
    cut, slow = candidate(128, 0.6, 2.4, 0.93), candidate(160, 1.0, 6.0, 0.99)
    assert of(slow, WHOLE, SMALL, cut).to_tune(2.6) == [cut, SMALL, slow, WHOLE]


def test_other_weights_in_a_published_models_folder_are_another_search(tmp_path: Path) -> None:
    source, file = Source(f"local-dir:{tmp_path}"), tmp_path / "model.safetensors"
    file.write_bytes(b"old")
    before, state = source.content, file.stat()
    file.write_bytes(b"new")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert source.content != before


def test_a_size_that_a_backbone_cannot_take_is_left_out_with_a_warning(tmp_path: Path, made_up: list[str]) -> None:
    arguments = ["digits#0,1", "--backbone", "nothing_of_timm,test_resnet", "--image-size", "24", "--keep-time", ""]
    result = CliRunner().invoke(main, ["frontier", *arguments, "--out", str(tmp_path / "f"), "-q"])
    assert result.exit_code == 0, result.output
    assert "left out (timm" in result.output
    assert made_up == ["models/test_resnet-24-1.fp32.onnx"]


def test_a_model_that_was_removed_is_made_again_and_another_machine_begins_anew(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = "models/test_resnet-24-1.fp32.onnx", ("--image-size", "24", "--keep-time", "")
    assert call(tmp_path, *asked).exit_code == 0
    (tmp_path / whole).unlink()
    assert call(tmp_path, *asked).exit_code == 0
    assert made_up == [whole, whole]
    assert (tmp_path / whole).exists()
    assert [each["file"] for each in read(tmp_path)] == [whole]
    monkeypatch.setattr(asking, "cpu_name", lambda: "another")
    refused = call(tmp_path, *asked)
    assert refused.exit_code == 2
    assert "another machine" in refused.output


def test_a_candidate_that_failed_is_not_tried_again(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(self: making.Place, onnx: bytes, precision: str, file: Path) -> None:
        if precision == "int8":
            raise AccuracyError("int8 costs too much.")
        file.write_bytes(onnx)

    monkeypatch.setattr(making.Place, "_convert", convert)
    asked = ("--image-size", "24", "--keep-time", "", "--precision", "fp32,int8")
    first = call(tmp_path, *asked)
    assert "test_resnet at 24 px, 100%, int8: left out (int8 costs too much.)" in first.output
    monkeypatch.delattr(making.Place, "candidate")
    second = call(tmp_path, *asked)
    assert second.exit_code == 0, second.output
    assert "left out, as before (int8 costs too much.)" in second.output


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--latency", "0ms"], "must be milliseconds above 0"),
        (["--latency", "nan"], "not a number of ms"),
        (["--weights", "a.pth", "--pretrained"], "one --weights file for each backbone"),
        (["--on", "no.json"], "mvp-deploy profile test_resnet --image-size 32 --out no.json"),
        (["--on", "a.json", "--on", "b.json", "--on", "c.json"], "profile test_resnet --image-size 24 --out b.json"),
        (["--on", "a.json", "--on", "b.json", "--on", "c.json"], "leave out --on c.json"),
        (["--on", "pi5", "--image-size", "32"], "there is no profile pi5"),
        (["--on", "no.json", "--batch", "2"], "--image-size 32 --batch 2 --out no.json"),
        (["--runtime", "tensorrt"], "not one of"),
    ],
)
def test_wrong_usage_is_told_before_any_work(tmp_path: Path, more: list[str], told: str) -> None:
    result = call(tmp_path / "f", *more)
    assert result.exit_code == 2
    assert told in result.output


def test_frontier_json_that_is_damaged_is_refused(tmp_path: Path, made_up: list[str]) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "frontier.json").write_text('{"key": 1}', encoding="utf-8")
    result = call(tmp_path / "f")
    assert result.exit_code == 2
    assert "is damaged" in result.output
    assert InputError.code == 2
