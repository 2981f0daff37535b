"""deploy.yaml asks for milliseconds, by a profile that was measured before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from fakes.profiles import blocks_of, chain, profile_by, structure_of
from torch import nn

from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import ExitCode
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.cli._common import Console
from mvp_deploy.latency import files
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Meet, Target
from mvp_deploy.pipeline.config import Config
from mvp_deploy.pipeline.run import settle
from mvp_deploy.pipeline.shrink import fast_enough
from mvp_deploy.pipeline.steps import Work, _budget
from mvp_deploy.pruning.original import Original
from mvp_deploy.remote import clock
from mvp_deploy.remote import profile as on_device
from mvp_deploy.remote.inventory import Device

Run = Callable[..., Result]


@pytest.fixture
def board(project: Path) -> Path:
    """The profile of another machine, in the project."""
    bank = Bank.open(project / "bank")
    original = Original.create(bank.backbone, bank.state(), 3)
    profile = profile_by(original.model, original.structure, blocks_of(8))
    file = project / "board.json"
    file.write_text(json.dumps(asdict(profile)), encoding="utf-8")
    return file


def test_a_task_is_pruned_to_a_time_and_again_when_its_profile_changes(project: Path, run: Run, board: Path) -> None:
    config = yaml.safe_load((project / "deploy.yaml").read_text()) | {"recipe": {"name": "compensated"}}
    config["tasks"]["ones"]["time"] = {"speed_up": 1.5, "profile": "board.json"}
    (project / "deploy.yaml").write_text(yaml.safe_dump(config))
    done = run("--only", "ones")
    assert done.exit_code == 0, done.output
    info = json.loads((project / "deploy" / "work" / "ones" / "run" / "run.json").read_text())
    met = info["metrics"]["pruned"]["making"]["latency"]
    assert met["target"] == "1.5 times faster"
    assert met["predicted_ms"] <= met["predicted_full_ms"] / 1.5
    assert "not timed" in done.output
    assert "the time is met as profiled" in done.output
    assert "is shipped" not in done.output
    assert "the time is met with batch 1" not in done.output
    assert planned(run) == "unchanged"
    told = json.loads(board.read_text())
    told["precision"] = "int8"
    for of_its_times in (*told["runs"], *(sample for kernel in told["kernels"] for sample in kernel["samples"])):
        of_its_times["ms"] *= 2
    board.write_text(json.dumps(told))
    told["conditions"]["batch"] = 8
    board.write_text(json.dumps(told))
    assert planned(run) == "to do"
    done = run("--only", "ones")
    assert done.exit_code == 0
    assert "the time is met with batch 8, of which the profile is, and batch 1 is timed" in " ".join(
        done.output.split()
    )
    assert "the time is met in int8, of which the profile is, and fp32 is shipped" in " ".join(done.output.split())
    info = json.loads((project / "deploy" / "work" / "ones" / "run" / "run.json").read_text())
    again = info["metrics"]["pruned"]["making"]["latency"]
    assert again["predicted_full_ms"] > 1.9 * met["predicted_full_ms"]


@pytest.mark.parametrize(
    ("export", "speed_up", "share", "said"),
    [
        (["int8"], 2.0, 1.0, ["nothing is cut: the unpruned model takes", "3.00 times as fast as in float32"]),
        (["fp32", "int8"], 4.0, 0.75, ["4 times faster than in float32, 3.00 of which the precision alone gives"]),
        (
            ["fp32"],
            4.0,
            0.25,
            [
                "the time is met in int8, of which the profile is, and fp32 is shipped",
                "4 times faster than the unpruned model in int8, since that is not shipped",
            ],
        ),
    ],
)
def test_a_speed_up_counts_from_float32_where_the_profile_s_precision_ships(
    project: Path, board: Path, export: list[str], speed_up: float, share: float, said: list[str], capsys
) -> None:
    told = json.loads(board.read_text())
    told |= {"precision": "int8", "float32_ms": 3 * told["runs"][0]["ms"]}
    board.write_text(json.dumps(told))
    config = yaml.safe_load((project / "deploy.yaml").read_text())
    config["export"] = {"targets": ["openvino"], "precisions": export}
    config["tasks"]["ones"]["time"] = {"speed_up": speed_up, "profile": "board.json"}
    inventory = project / "devices.yaml"
    work = settle(Config.model_validate_json(json.dumps(config)), project, inventory, ["ones"], Console())["ones"]
    assert isinstance(work, Work)
    budget, meet = _budget(work, Bank.open(work.bank), Console())
    assert budget.fraction == pytest.approx(share, rel=1e-3)
    assert (meet is None) == (share == 1.0)
    heard = capsys.readouterr().err
    for sentence in (*said, "the time is met in onnxruntime, of which the profile is, and what ships is for openvino"):
        assert sentence in heard


@pytest.mark.parametrize(("slower", "cut"), [(1.0, False), (1.3, True)])
def test_what_the_profile_says_is_fast_enough_is_timed_where_it_can_be(
    project: Path, board: Path, slower: float, cut: bool, capsys
) -> None:
    profile = files.read(board)
    took = slower * profile.full_ms
    target = Target(milliseconds=1.1 * profile.full_ms)
    meet = Meet(target, profile, 8, lambda original: lambda solution: (took, took), Console())
    assert fast_enough(meet, Bank.open(project / "bank"), Console()) == (not cut)
    heard = capsys.readouterr().err
    said = f"the unpruned model takes {took:.3f} ms, not the {profile.full_ms:.3f} of its profile: it is cut"
    assert (said in heard) == cut
    assert ("nothing is cut" in heard) == (not cut)


def test_a_profile_of_another_backbone_is_refused_where_nothing_would_be_cut_too(
    project: Path, run: Run, board: Path
) -> None:
    model = chain(16, 32)
    other = profile_by(model, structure_of(model, 32), blocks_of(8))
    board.write_text(json.dumps(asdict(other)), encoding="utf-8")
    config = yaml.safe_load((project / "deploy.yaml").read_text())
    config["tasks"]["ones"]["time"] = {"latency_ms": 100, "profile": "board.json"}
    (project / "deploy.yaml").write_text(yaml.safe_dump(config))
    done = run("--only", "ones")
    assert done.exit_code == ExitCode.INPUT, done.output
    assert "the profile is of made, and this is another backbone" in done.output


@pytest.fixture
def pi5(board: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """A device whose profile is the board's, and whose plans meet the time; gives the options it was profiled with."""
    taken: list[Sequence[str]] = []

    def profile(name: str, device: Device, pieces: Path, options: Sequence[str], out: Path, reporter: Reporter) -> None:
        taken.append(options)
        shutil.copyfile(board, out)

    def time_there(
        name: str, device: Device, reporter: Reporter, profile: Profile, models: tuple[nn.Module, ...]
    ) -> tuple[float, ...]:
        reporter.say(f"timed on {name}")
        return 2.0, 3.0

    monkeypatch.setattr(files, "make_pieces", lambda *_: None)
    monkeypatch.setattr(on_device, "profile", profile)
    monkeypatch.setattr(on_device, "session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(clock, "time_there", time_there)
    (project / "devices.yaml").write_text("pi5: {address: pi@pi5.local}\n")
    return taken


def test_a_device_is_profiled_once_and_times_the_plans(project: Path, run: Run, pi5: list[Sequence[str]]) -> None:
    config = yaml.safe_load((project / "deploy.yaml").read_text())
    config |= {"time": {"speed_up": 1.5, "profile": "pi5"}, "recipe": {"name": "own"}}
    (project / "deploy.yaml").write_text(yaml.safe_dump(config))
    assert planned(run) == "to do"
    assert pi5 == []
    done = run()
    assert done.exit_code == 0, done.output
    assert done.output.count("pi5 is profiled first") == len(pi5) == 1
    assert done.output.count("timed on pi5") >= 2
    assert pi5 == [["--runtime", "onnxruntime", "--device", "cpu", "--threads", "1"]]
    info = json.loads((project / "deploy" / "work" / "ones" / "run" / "run.json").read_text())
    met = info["metrics"]["pruned"]["making"]["latency"]
    assert (met["ms"], met["full_ms"]) == (2.0, 3.0)
    assert planned(run) == "unchanged"

    (project / "devices.yaml").write_text("pi5: {address: pi@pi5.local, tags: [desk]}\n")
    assert planned(run) == "unchanged"
    (project / "devices.yaml").write_text("pi5: {address: pi@pi5.local, power: {governor: performance}}\n")
    assert planned(run) == "to do"
    assert len(list((project / "deploy" / "work").glob("pi5-*.profile.json"))) == len(pi5) == 1


def planned(run: Run) -> str:
    """What a run would do about pruning."""
    return json.loads(run("--only", "ones", "--dry-run", "--json").stdout)["ones"]["prune"]


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ({"profile": "board.json"}, "give latency_ms or speed_up"),
        ({"profile": "board.json", "latency_ms": 1, "speed_up": 2}, "give latency_ms or speed_up"),
        ({"latency_ms": 0, "profile": "board.json"}, "latency_ms"),
        ({"latency_ms": 4, "profile": "none.json"}, "none.json"),
        (
            {"latency_ms": 4, "profile": "pi"},
            "'pi': devices.yaml has pi5. If pi is a profile: its file must end in .json",
        ),
    ],
)
def test_a_time_that_cannot_be_met_is_refused_before_work(project: Path, run: Run, time: dict, said: str) -> None:
    config = yaml.safe_load((project / "deploy.yaml").read_text())
    config["tasks"]["ones"]["time"] = time
    (project / "devices.yaml").write_text("pi5: {address: pi@pi5.local}\n")
    (project / "deploy.yaml").write_text(yaml.safe_dump(config))
    done = run("--only", "ones")
    assert done.exit_code == ExitCode.INPUT, done.output
    assert said in done.output
