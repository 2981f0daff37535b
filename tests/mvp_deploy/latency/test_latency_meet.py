"""A budget of time is met by the real model, or the sentence says by how much it is not. The clock is made up."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.profiles import blocks_of, chain, profile_by, structure_of

import mvp_deploy as mvp
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.environment import cores, cpu_name
from mvp_deploy.base.errors import InputError, LatencyError
from mvp_deploy.base.reporter import Silent
from mvp_deploy.benchmark import looks
from mvp_deploy.cli._common import Console
from mvp_deploy.cli._latency import Timed
from mvp_deploy.export.config import Exports
from mvp_deploy.latency import timer as timing
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.files import check_conditions, check_runtime, check_timed
from mvp_deploy.latency.floor import BelowFloor, others
from mvp_deploy.latency.format import Conditions, Shipped
from mvp_deploy.latency.meet import Meet, Meeting, Target, quantity
from mvp_deploy.latency.plan import Solution
from mvp_deploy.pipeline.shrink import shipped_of
from mvp_deploy.pruning.budget import keep_best

MODEL = chain(64, 64, 64)
STRUCTURE = structure_of(MODEL)
PROFILE = profile_by(MODEL, STRUCTURE, blocks_of(1))
SCORES = {group.name: np.random.default_rng(0).gamma(0.5, size=group.size) for group in STRUCTURE.groups}


def meeting(target: Target, factor: float | None) -> tuple[Meeting, list[Solution]]:
    """On a machine on which pruned models take ``factor`` times what the profile says; None: another machine."""
    asked: list[Solution] = []

    def timer(solution: Solution) -> tuple[float, float]:
        asked.append(solution)
        return (factor or 1) * made.cost.total(solution.counts), made.full

    made = Meeting(STRUCTURE, PROFILE, target, round_to=1, timer=timer if factor else None, reporter=Silent())
    return made, asked


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.15])
def test_where_the_profile_is_wrong_the_plan_is_made_again_until_the_model_meets_the_time(factor: float) -> None:
    made, asked = meeting(Target(speed_up=2.0), factor)
    found = made(SCORES)
    took = factor * made.cost.total(found.counts)
    assert 0.9 * made.full / 2 <= took <= 1.02 * made.full / 2
    assert len(asked) == (1 if factor == 1.0 else 2)
    assert found.met.ms == pytest.approx(took)
    assert json.dumps(found.told)


def test_a_time_that_is_missed_after_two_corrections_ends_with_by_how_much() -> None:
    made, _ = meeting(Target(speed_up=2.0), 1.0)
    made.timer = lambda counts: (0.9 * made.full, made.full)  # whatever is cut
    with pytest.raises(LatencyError, match=r"2 times faster is asked for.* best of 3 plans takes .* 80\.0% too long"):
        made(SCORES)
    assert LatencyError.code == 4


@pytest.mark.parametrize(
    ("faster", "told"), [(0.8, "20.0% less than it may: accuracy may have been given away"), (0.97, "")]
)
def test_a_model_that_stays_faster_than_asked_after_two_corrections_is_said(faster: float, told: str, capsys) -> None:
    made, _ = meeting(Target(speed_up=2.0), 1.0)
    made.timer, made.reporter = (lambda solution: (faster * made.full / 2, made.full)), Console(quiet=True)
    made(SCORES)
    said = capsys.readouterr().err
    assert told in said
    assert bool(said) == bool(told)
    made, _ = meeting(Target(speed_up=1.0), 0.5)  # nothing is cut, so nothing was given away
    made.reporter = Console(quiet=True)
    made(SCORES)
    assert not capsys.readouterr().err


def test_part_of_the_way_is_cut_from_what_is_left_and_times_no_model() -> None:
    made, asked = meeting(Target(speed_up=4.0), 1.0)
    half = made(SCORES, part=0.5)
    assert asked == []
    assert 0.4 * made.full < made.cost.total(half.counts) <= 0.5 * made.full
    within = keep_best(STRUCTURE, SCORES, half.counts)
    end = made({name: -scores for name, scores in SCORES.items()}, within=within)
    assert len(asked) == 1
    assert made.cost.total(end.counts) <= 0.25 * made.full
    assert all(end.counts[name] <= half.counts[name] for name in end.counts)


def test_with_the_profile_of_another_machine_nothing_is_timed_here() -> None:
    made, asked = meeting(Target(milliseconds=0.5 * PROFILE.full_ms), None)
    found = made(SCORES)
    assert asked == []
    assert made.cost.total(found.counts) <= 0.5 * PROFILE.full_ms
    assert "not timed here" in str(found.met)
    assert timing.timer(STRUCTURE, MODEL, PROFILE, Silent()) is None


def test_a_time_below_the_floor_names_the_floor_and_what_would_do_it(tmp_path: Path) -> None:
    size = 224
    large = replace(PROFILE, input_size=(3, size, size))
    asked = Target(milliseconds=1e-3)
    made, _ = meeting(asked, 1.0)
    with pytest.raises(
        BelowFloor, match=r"the smallest this backbone gets takes 0\.\d+ ms.*a smaller backbone"
    ) as found:
        made(SCORES)
    floor = found.value.floor
    half = BelowFloor(floor / 2, floor, "").beside(large, [])
    assert "--image-size 128, where it would get down to about" in str(half)
    assert "scaled by the number of pixels, not measured" in str(half)
    for name, smaller in (
        ("slow", replace(large, backbone="slow", runs=[replace(run, ms=9 * floor) for run in PROFILE.runs])),
        ("fast", replace(large, backbone="fast", runs=[replace(run, ms=0.4 * floor) for run in PROFILE.runs])),
        ("elsewhere", replace(large, backbone="elsewhere", machine=replace(PROFILE.machine, cpu="another"))),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(asdict(smaller)), encoding="utf-8")
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    known = others(tmp_path / "mine.json")
    assert {each.backbone for each in known} == {"slow", "fast", "elsewhere"}
    named = BelowFloor(floor / 2, floor, "").beside(large, known)
    assert "fast with --image-size 224 takes" in str(named)
    assert "unpruned, as its profile says" in str(named)


def test_a_time_below_the_floor_is_refused_before_anything_is_scored(cnn) -> None:
    structure = cnn.original.structure
    profile = profile_by(cnn.original.model, structure, blocks_of(1))
    meet = Meet(Target(milliseconds=1e-3), profile, 1, lambda original: None, Silent())
    with pytest.raises(BelowFloor, match="cannot be met by cutting: the smallest this backbone gets takes"):
        meet(cnn.original)
    assert replace(meet, target=Target(speed_up=2.0))(cnn.original).full > 0


def test_a_profile_that_names_a_layer_the_backbone_lacks_is_refused() -> None:
    odd = replace(PROFILE, layers=(replace(PROFILE.layers[0], weight="none.weight"), *PROFILE.layers[1:]))
    with pytest.raises(InputError, match="this is another backbone"):
        Milliseconds(STRUCTURE, odd)


def test_a_profile_of_another_version_of_the_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "environment", lambda: {"cpu": PROFILE.machine.cpu})
    monkeypatch.setattr(timing, "runtime_version", lambda conditions: "2.0")
    with pytest.raises(InputError, match=r"onnxruntime 1\.0, and 2\.0 is installed"):
        timing.timer(STRUCTURE, MODEL, PROFILE, Silent())


def test_plans_are_timed_in_fresh_processes_and_other_work_meanwhile_is_told(monkeypatch, capsys) -> None:
    begun = []

    def apart(look, *arguments):
        begun.append(look)
        return look(*arguments)

    monkeypatch.setattr(timing, "runs_here", lambda profile: True)
    monkeypatch.setattr(looks, "apart", apart)
    clock = timing.timer(STRUCTURE, MODEL, PROFILE, Console())
    assert clock is not None
    full = Solution({group.name: group.size for group in STRUCTURE.groups}, ms=1.0, lost=0.0, gap=None)
    assert all(ms > 0 for ms in clock(full))
    assert len(begun) == 5
    assert "busy" not in capsys.readouterr().err
    monkeypatch.setattr(looks, "other_work", lambda: nullcontext([1.0 * cores()]))
    clock(full)
    assert "cores busy: a plan may be slower or faster than timed" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "asked"), [("batch", 8), ("threads", 4), ("runtime", "openvino"), ("device", "cuda")])
def test_a_profile_taken_under_other_conditions_is_refused_by_name(name: str, asked: int | str) -> None:
    wanted = replace(PROFILE.conditions, **{name: asked})
    with pytest.raises(InputError, match=f"was taken with {name} .*, and {name} {asked} is asked for"):
        check_conditions(PROFILE, wanted)
    check_conditions(PROFILE, PROFILE.conditions)


@pytest.mark.parametrize("ms", [0.0, -1.0, float("nan"), float("inf")])
def test_milliseconds_that_are_not_a_number_are_refused(ms: float) -> None:
    with pytest.raises(InputError, match="must be milliseconds above 0"):
        Target(milliseconds=ms)


@pytest.mark.parametrize("factor", [0.5, 0.0, -2.0, float("nan"), float("inf")])
def test_a_speed_up_below_one_is_refused(factor: float) -> None:
    with pytest.raises(InputError, match="must be 1 or more"):
        Target(speed_up=factor)


@pytest.mark.parametrize("text", ["4ms", "4 ms", "4", "4.0ms"])
def test_milliseconds_are_written_with_or_without_their_unit(text: str) -> None:
    assert quantity(text, "ms") == 4.0


@pytest.mark.parametrize("text", ["-4ms", "nan", "4s", "", "1e400", "ms"])
def test_what_is_not_a_number_of_milliseconds_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a number of ms"):
        quantity(text, "ms")


def test_a_model_is_pruned_to_a_time_from_python(tmp_path: Path) -> None:
    file = tmp_path / "board.json"
    file.write_text(json.dumps(asdict(PROFILE)), encoding="utf-8")
    data = torch.randn(32, 3, 8, 8), torch.arange(32) % 4
    result = mvp.prune(MODEL, data, speed_up=2, on=file, criterion="magnitude", round_to=1, reconstruct=False)
    assert result.report.latency is not None
    assert result.report.latency.predicted_ms <= 0.5 * result.report.latency.predicted_full_ms
    assert result.report.macs < result.report.full_macs
    assert "by the profile of made" in str(result.report)


@pytest.mark.parametrize(("shipped", "warned"), [("int8", True), ("fp32", False)])
def test_a_profile_of_another_precision_than_what_is_shipped_is_said(
    cnn, tmp_path: Path, shipped: str, warned: bool
) -> None:
    class Listener(Silent):
        warnings = 0

        def warn(self, text: str) -> None:
            assert "the time is met in fp32" in text
            assert "--precision int8" in text
            Listener.warnings += 1

    file = tmp_path / "board.json"
    file.write_text(json.dumps(asdict(PROFILE)), encoding="utf-8")
    timed = Timed(Target(speed_up=2), file, tmp_path / "devices.yaml")
    timed.meeting(cnn.backbone, 8, tmp_path / "run", Listener(), shipped=Shipped(shipped))
    assert bool(Listener.warnings) == warned


def test_what_ships_is_timed_in_its_own_runtime_and_engines_where_they_run(capsys) -> None:
    assert shipped_of(Exports(("openvino", "onnx"), ("fp32", "int8"))) == Shipped("int8", "openvino")
    assert Shipped("int8", "openvino").mark == ".openvino.int8"
    engines = shipped_of(Exports(("tensorrt",), ("fp16",)))
    assert engines.conditions(on_device=True) == Conditions("tensorrt", "cuda")
    assert engines.conditions(on_device=False) == Conditions("onnxruntime")
    check_runtime(PROFILE, [engines.runtime], Console())
    assert (
        "the time is met in onnxruntime, of which the profile is, and what ships is for tensorrt"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("batches", "threads", "told"),
    [
        ((1,), None, ""),
        ((8, 16), 1, "met with batch 1, of which the profile is, and batch 8 is timed in the end"),
        ((1, 8), 4, "met with threads 1, of which the profile is, and threads 4 are timed in the end"),
        ((), 4, ""),
    ],
)
def test_a_batch_or_threads_that_are_not_those_of_the_profile_are_said(
    batches: tuple[int, ...], threads: int | None, told: str, capsys
) -> None:
    here = replace(PROFILE, machine=replace(PROFILE.machine, cpu=cpu_name()))
    check_timed(here, batches, threads, Console())
    said = capsys.readouterr().err
    assert told in said
    assert bool(said) == bool(told)


def test_under_which_conditions_a_time_is_met_is_said(cnn, tmp_path: Path, capsys) -> None:
    file = tmp_path / "board.json"
    conditions = replace(PROFILE.conditions, threads=4, batch=8)
    file.write_text(json.dumps(asdict(replace(PROFILE, conditions=conditions))), encoding="utf-8")
    Timed(Target(speed_up=2), file, tmp_path / "devices.yaml").meeting(cnn.backbone, 8, tmp_path / "run", Console())
    assert "4 threads, batch 8" in capsys.readouterr().err


def test_the_profile_lies_beside_a_run_that_is_the_folder_one_is_in(
    cnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run.profile.json").write_text(json.dumps(asdict(PROFILE)), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "run")
    timed = Timed(Target(speed_up=2), None, tmp_path / "devices.yaml")
    assert timed.meeting(cnn.backbone, 8, Path("."), Silent())[1].profile == PROFILE


def test_without_float32_s_time_a_speed_up_is_of_the_same_precision_and_that_is_said(capsys) -> None:
    asked, unknown = Target(speed_up=2), replace(PROFILE, precision="int8")
    assert asked.than_float32(unknown, ["int8"], Console()) == asked
    assert "does not tell what the unpruned model takes in float32" in capsys.readouterr().err
    found = asked.than_float32(replace(unknown, float32_ms=1.5 * PROFILE.full_ms), ["int8"], Console())
    assert found.of(PROFILE.full_ms) == pytest.approx(0.75 * PROFILE.full_ms)
    assert asked.than_float32(PROFILE, ["fp32", "int8"], Console()) == asked


def test_from_python_too_a_time_needs_a_profile_and_excludes_other_budgets() -> None:
    data = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    with pytest.raises(InputError, match="mvp-deploy profile"):
        mvp.prune(MODEL, data, latency=1.0)
    with pytest.raises(InputError, match="one of macs="):
        mvp.prune(MODEL, data, latency=1.0, macs=0.5, on=PROFILE)
    with pytest.raises(InputError, match="needs a time"):
        mvp.prune(MODEL, data, macs=0.5, on=PROFILE)
    with pytest.raises(InputError, match="this is another backbone"):
        mvp.prune(chain(64, 48), data, latency=1.0, on=replace(PROFILE, backbone="other"))


def test_a_bank_s_task_is_pruned_to_a_time_from_the_command_line(cnn, tmp_path: Path) -> None:
    """With the profile of another machine, so that nothing is timed; the clock that is there is tested above."""
    from click.testing import CliRunner

    from mvp_deploy.cli import main

    bank, run, board = tmp_path / "bank", tmp_path / "run", tmp_path / "board.json"
    structure = cnn.original.structure
    profile = profile_by(cnn.original.model, structure, blocks_of(8))
    board.write_text(json.dumps(asdict(profile)), encoding="utf-8")

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments, "--quiet"])
        assert result.exit_code == 0, result.output
        return result.stdout

    call("bank", "init", str(bank), "--backbone", "test_resnet", "--image-size", "32", "--weights", str(cnn.weights))
    same = ["--bank", str(bank), "--out", str(run), "--on", str(board), "--steps", "2", "--recipe", "own"]
    told = call("prune", "digits#0,1,2", *same, "--speed-up", "2x")
    assert "2 times faster asked for" in told
    assert "not timed here" in told
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert info["budget"]["of"] == "latency"
    met = info["metrics"]["pruned"]["making"]["latency"]
    assert met["predicted_ms"] <= 0.5 * met["predicted_full_ms"]
    nowhere, inventory = tmp_path / "none", tmp_path / "devices.yaml"
    (tmp_path / "pi5.yaml").write_text("pi5: {address: pi@pi5.local}\n", encoding="utf-8")
    for wrong, said in (
        (["--on", str(board)], "needs a time"),
        (["--latency", "0ms"], "milliseconds above 0"),
        (["--speed-up", "2x", "--macs", "0.5"], "exclude each other"),
        (["--latency", "x"], "not a number of ms"),
        (["--speed-up", "2x", "--on", str(nowhere / "x.json")], f"there is no folder {nowhere}"),
        (
            ["--speed-up", "2x", "--on", "pi", "--devices", str(inventory)],
            "If pi is a profile: its file must end in .json",
        ),
        (["--speed-up", "2x", "--on", "pi", "--devices", str(tmp_path / "pi5.yaml")], "must end in .json"),
    ):
        result = CliRunner().invoke(main, ["prune", "digits#0,1,2", "--bank", str(bank), "--out", str(run), *wrong])
        assert result.exit_code == 2, result.output
        assert said in result.output
    assert not nowhere.exists()
    rounds = ["--rounds", "2", "--round-steps", "1", "--steps", "1"]
    call("bank", "add", str(bank), "digits#3,4", *rounds, "--speed-up", "2x", "--on", str(board))
    entry, cost = Bank.open(bank).entry("digits#3,4"), Milliseconds(structure, profile)
    counts = {name: int(mask.sum()) for name, mask in entry.plan.masks.items()}
    assert 0.4 < cost.total(counts) / cost.total({}) < 0.51  # two classes here, three there
    here = replace(profile, machine=replace(profile.machine, cpu=cpu_name()))  # of onnxruntime 1.0
    board.write_text(json.dumps(asdict(here)), encoding="utf-8")
    result = CliRunner().invoke(main, ["bank", "add", str(bank), "digits#5,6", "--speed-up", "2x", "--on", str(board)])
    assert result.exit_code == 2, result.output
    assert "as profiled: made at 32x32, fp32, onnxruntime on cpu, 1 thread" in result.output
    assert "the profile was taken with onnxruntime 1.0" in result.output
    board.write_text(json.dumps(asdict(profile)), encoding="utf-8")
    hopeless = ["bank", "add", str(bank), "digits#5,6", *rounds, "--latency", "0.001ms", "--on", str(board), "-q"]
    result = CliRunner().invoke(main, hopeless)
    assert result.exit_code == 2
    assert re.search(r"0\.001 ms cannot be met by cutting: the smallest this backbone gets takes \d", result.output)
    assert "Ask for more, or" in result.output
