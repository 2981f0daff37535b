from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_deploy.base.errors import WORST, ExitCode, worst
from mvp_deploy.benchmark.statistics import Interval, Limit, at_least, at_most
from mvp_deploy.pipeline.baseline import compare
from mvp_deploy.pipeline.config import GatesSection
from mvp_deploy.pipeline.gates import judge

numbers = st.floats(-1e6, 1e6)
Facts = dict[str, Any]


def make(
    accuracy: float = 0.9,
    latency: tuple[float, float, float] = (2.0, 1.9, 2.1),
    gain: tuple[float, float, float] = (1.5, 1.4, 1.6),
    windows: int = 20,
    cpu: str = "one",
    others: float | None = None,
    size: int = 1_000_000,
) -> Facts:
    """What was found of a task: one pruned model, timed at batch 1. Intervals as (value, low, high)."""
    interval = dict(zip(("value", "low", "high"), latency, strict=True))
    timing = {"median": interval, "windows": [latency[0]] * windows}
    speed_up = dict(zip(("value", "low", "high"), gain, strict=True))
    model = {
        "model": "pruned",
        "precision": "fp32",
        "target": "onnx",
        "accuracy": accuracy,
        "bytes": size,
        "parity": 1e-6,
    }
    row = {"model": "pruned", "precision": "fp32", "runtime": "onnxruntime CPU", "batch": 1}
    return {
        "metrics": {"unpruned": {"accuracy": 0.95}},
        "images": {"test": 1000},
        "models": [model],
        "times": {
            "environment": {"cpu": cpu, "cores": 2, "others": others},
            "rows": [row | {"timing": timing, "speed_up": speed_up}],
        },
    }


@given(low=numbers, width=st.floats(0, 1e6), limit=numbers)
def test_an_interval_meets_a_limit_only_as_a_whole(low: float, width: float, limit: float) -> None:
    high = low + width
    found = Interval(low, low, high)
    most, least = at_most(limit).judge(found), at_least(limit).judge(found)
    assert (most == "met") == (high <= limit)
    assert (most == "failed") == (low > limit)
    assert (least == "met") == (low >= limit)
    assert (least == "failed") == (high < limit)


@given(low=numbers, width=st.floats(0, 1e6), more=st.floats(0, 1e6), limit=numbers)
def test_more_noise_never_turns_a_verdict_into_its_contrary(
    low: float, width: float, more: float, limit: float
) -> None:
    found = (Interval(low, low, low + width), Interval(low, low - more, low + width + more))
    sure, vague = map(at_most(limit).judge, found)
    assert vague in (sure, "too noisy to tell")


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        ({"min_accuracy": 0.91}, ExitCode.ACCURACY),
        ({"max_drop": 0.04}, ExitCode.ACCURACY),
        ({"max_size_mb": 0.9}, ExitCode.LATENCY),
        ({"max_parity": 1e-7}, ExitCode.PARITY),
        ({"latency": [{"at_most_ms": 1.5}]}, ExitCode.LATENCY),
        ({"speed_up": [{"at_least": 1.7}]}, ExitCode.LATENCY),
    ],
)
def test_each_gate_fails_with_its_code(gates: dict[str, Any], code: ExitCode) -> None:
    [verdict] = judge(make(), GatesSection.model_validate(gates))
    assert (verdict.outcome, verdict.code) == ("failed", code)


@pytest.mark.parametrize(
    "gates",
    [
        {"min_accuracy": 0.9},
        {"max_drop": 0.05},  # 0.95 - 0.9 is a little more in floating point
        {"max_size_mb": 1.0},
        {"max_parity": 1e-6},
        {"latency": [{"at_most_ms": 2.1, "runtime": "onnxruntime", "precision": "fp32", "batch": 1}]},
        {"speed_up": [{"at_least": 1.4}]},
    ],
)
def test_a_limit_just_reached_is_met(gates: dict[str, Any]) -> None:
    [verdict] = judge(make(), GatesSection.model_validate(gates))
    assert (verdict.outcome, verdict.code) == ("met", ExitCode.OK)


@pytest.mark.parametrize("gates", [{"latency": [{"at_most_ms": 2.0}]}, {"speed_up": [{"at_least": 1.5}]}])
def test_too_noisy_to_tell_is_not_a_pass_and_says_what_to_do(gates: dict[str, Any]) -> None:
    [verdict] = judge(make(), GatesSection.model_validate(gates))
    assert (verdict.outcome, verdict.code) == ("too noisy to tell", ExitCode.LATENCY)
    assert "longer duration" in verdict.advice


@pytest.mark.parametrize("limit", [at_most(1.0), at_least(1.0)])
def test_what_is_not_a_number_meets_no_limit(limit: Limit) -> None:
    for found in (Interval(nan, nan, nan), Interval(1.0, nan, 1.0), Interval(1.0, 1.0, nan), Interval(1.0, -inf, inf)):
        assert not limit.met_by(found)
        assert limit.judge(found) == "failed"


@pytest.mark.parametrize("name", ["accuracy", "parity", "bytes"])
def test_no_gate_and_no_baseline_passes_a_value_that_is_not_a_number(name: str) -> None:
    now = make()
    now["models"][0][name] = nan
    gates = GatesSection.model_validate({"min_accuracy": 0, "max_drop": 1, "max_size_mb": 1e9, "max_parity": 1})
    assert any(verdict.outcome == "failed" and verdict.code for verdict in judge(now, gates))
    if name != "parity":
        assert regressions(now, make(), allowed=1e9)


def test_accuracies_on_the_same_images_are_compared_pair_by_pair() -> None:
    """Of 1000 images 100 were wrong. 20 more are, and no other than those: that is no chance. 110 others may be."""
    before, lost, others = (make(accuracy=a) for a in (0.9, 0.88, 0.88))
    for facts, wrong in ((before, range(100)), (lost, range(120)), (others, range(80, 200))):
        facts["held_out"] = "the same images"
        facts["models"][0]["wrong"] = list(wrong)
    assert regressions(lost, before) == {"accuracy change": ExitCode.ACCURACY}
    assert regressions(others, before) == {}
    before["held_out"] = "other images"
    assert regressions(lost, before) == {}


def test_on_a_busy_machine_only_a_latency_that_is_met_says_anything() -> None:
    def outcome(gates: dict[str, Any], others: float) -> str:
        [verdict] = judge(make(others=others), GatesSection.model_validate(gates))
        assert (verdict.code == ExitCode.OK) == (verdict.outcome == "met")
        return verdict.outcome

    for others, failed in ((0.1, "failed"), (0.5, "too noisy to tell")):  # of two cores
        assert outcome({"latency": [{"at_most_ms": 2.1}]}, others) == "met"
        assert outcome({"latency": [{"at_most_ms": 1.0}]}, others) == failed
        assert outcome({"speed_up": [{"at_least": 5}]}, others) == failed
    assert outcome({"speed_up": [{"at_least": 1}]}, 0.1) == "met"
    assert outcome({"speed_up": [{"at_least": 1}]}, 0.5) == "too noisy to tell"
    [_, _, growth] = compare(make(latency=(9.0, 9.0, 9.0), others=0.5), make(), 0.05)
    assert (growth.outcome, growth.code) == ("too noisy to tell", ExitCode.LATENCY)


@pytest.mark.parametrize("where", [{"runtime": "openvino"}, {"precision": "int8"}, {"batch": 8}])
def test_a_limit_for_what_was_not_measured_fails(where: dict[str, Any]) -> None:
    [verdict] = judge(make(), GatesSection.model_validate({"latency": [{"at_most_ms": 100, **where}]}))
    assert (verdict.outcome, verdict.code) == ("not measured", ExitCode.LATENCY)


def regressions(now: Facts, before: Facts, allowed: float = 0.05) -> dict[str, ExitCode]:
    return {verdict.gate: verdict.code for verdict in compare(now, before, allowed) if verdict.code}


def test_against_the_baseline_only_what_is_beyond_noise_fails() -> None:
    assert regressions(make(), make()) == {}
    assert regressions(make(accuracy=0.89), make()) == {}  # 1 point on 1000 images may be chance
    assert regressions(make(accuracy=0.8), make()) == {"accuracy change": ExitCode.ACCURACY}
    assert regressions(make(latency=(2.2, 2.0, 2.4)), make()) == {}
    assert regressions(make(latency=(2.6, 2.5, 2.7)), make()) == {"latency growth": ExitCode.LATENCY}
    assert regressions(make(latency=(2.6, 2.5, 2.7)), make(), allowed=0.5) == {}
    assert regressions(make(size=1_100_000), make()) == {"size growth": ExitCode.LATENCY}


def test_on_another_machine_speed_ups_are_compared_not_latencies() -> None:
    slower_machine = make(cpu="two", latency=(20.0, 19.0, 21.0))
    assert regressions(slower_machine, make()) == {}
    assert regressions(make(cpu="two", gain=(1.1, 1.05, 1.15)), make()) == {"speed-up loss": ExitCode.LATENCY}


@given(low=st.floats(0.1, 10), width=st.floats(0, 5), old=st.floats(0.1, 10), old_width=st.floats(0, 5))
def test_overlapping_measurements_are_never_a_regression(
    low: float, width: float, old: float, old_width: float
) -> None:
    now, before = make(latency=(low, low, low + width)), make(latency=(old, old, old + old_width))
    if low <= old + old_width:
        assert "latency growth" not in regressions(now, before, allowed=0.0)


def test_what_stopped_the_work_outranks_what_the_work_found() -> None:
    assert set(WORST) == set(ExitCode)
    assert worst(iter([ExitCode.OK, ExitCode.LATENCY, ExitCode.ACCURACY])) == ExitCode.ACCURACY
    assert worst(iter([ExitCode.ACCURACY, ExitCode.ERROR])) == ExitCode.ERROR
    assert worst(iter([])) == ExitCode.OK


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (["min_accuracy=1"], ExitCode.ACCURACY),
        (["max_parity=1e-30"], ExitCode.PARITY),
        (["latency=[{at_most_ms: 1.0e-9}]"], ExitCode.LATENCY),
        (["speed_up=[{at_least: 1000}]"], ExitCode.LATENCY),
        (["latency=[{at_most_ms: 1000, runtime: openvino}]"], ExitCode.LATENCY),
    ],
)
def test_the_command_ends_with_the_gates_code_and_names_it(run, changes: list[str], code: ExitCode) -> None:
    done = run(*(part for change in changes for part in ("--set", f"tasks.ones.gates.{change}")))
    assert done.exit_code == code
    assert f"ones: {changes[0].partition('=')[0]} of pruned" in done.stderr


def test_a_run_is_compared_with_the_last_accepted_one(run) -> None:
    accepted = json.loads(Path("deploy/report.json").read_text(encoding="utf-8"))
    for model in accepted["tasks"]["ones"]["models"]:
        model["bytes"] //= 2
    accepted["tasks"]["threes"] = accepted["tasks"]["ones"]
    Path("accepted.json").write_text(json.dumps(accepted), encoding="utf-8")
    done = run("--baseline", "accepted.json")
    assert done.exit_code == ExitCode.LATENCY
    assert "size growth" in done.stderr
    assert "threes** was in the baseline" in Path("deploy/summary.md").read_text(encoding="utf-8")
    assert "regression" in Path("deploy/report.html").read_text(encoding="utf-8")


def test_a_file_that_is_not_a_baseline_is_refused(run) -> None:
    Path("old.json").write_text('{"schema": 0}', encoding="utf-8")
    Path("nan.json").write_text('{"schema": 1, "tasks": {"ones": {"models": [{"accuracy": NaN}]}}}', encoding="utf-8")
    for path in ("old.json", "nan.json", "deploy.yaml", "nowhere.json"):
        done = run("--baseline", path)
        assert done.exit_code == ExitCode.INPUT
        assert path in done.output
