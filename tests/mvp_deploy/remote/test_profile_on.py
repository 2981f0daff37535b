"""profile --on, and plans by what a device takes: profiled there, pruned here, timed there, over a real sshd."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from fakes.profiles import blocks_of, chain, profile_by, structure_of, tiny_pieces

from mvp_deploy.base.errors import EnvironmentMissing, ExitCode, InputError, LatencyError
from mvp_deploy.base.reporter import Silent
from mvp_deploy.cli import main
from mvp_deploy.latency import files
from mvp_deploy.remote import clock
from mvp_deploy.remote.clock import time_there
from mvp_deploy.remote.command import carry_out
from mvp_deploy.remote.inventory import load

# A system that does not tell what else runs: tests run beside other work, which would disturb every turn.
TELLS_NO_LOAD = "import os; vars(os).pop('sched_getaffinity', None)"
BUSY = "import time; time.process_time = lambda: -1e3 * time.perf_counter()"  # all work seems to be that of others


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are timed for a moment: no real times are asked for."""

    def quick(there, command, *rest, **named):
        return carry_out(there, [*command, "--duration", "0.2"], *rest, **named)

    monkeypatch.setattr(clock, "carry_out", quick)


def inventory(project: Path, **machines) -> None:
    devices = {name: {**each.entry, "tags": ["desk"]} for name, each in machines.items()}
    (project / "devices.yaml").write_text(yaml.safe_dump(devices))


def test_a_profile_is_taken_on_the_device_and_comes_back(machine, project: Path) -> None:
    inventory(project, pi=machine(begins_with=TELLS_NO_LOAD))
    pieces = tiny_pieces(project / "pieces")
    done = CliRunner().invoke(main, ["profile", str(pieces), "--out", "board.json", "--on", "pi", "--json"])
    assert done.exit_code == 0, done.output
    found = files.read(project / "board.json")
    assert found.full_ms == json.loads(done.stdout)["devices"]["pi"]["full_ms"] > 0


def test_models_are_timed_on_the_device_under_the_profiles_conditions(machine, project: Path, soon) -> None:
    inventory(project, pi=machine(begins_with=TELLS_NO_LOAD))
    large, small = chain(256, 256), chain(8, 8)
    structure = structure_of(large, 64)
    old = profile_by(large, structure, blocks_of(1))
    profile = replace(old, version=version("onnxruntime"))
    device = load(project / "devices.yaml")["pi"]
    fast, slow = time_there("pi", device, Silent(), profile, (small, large))
    assert 0 < 3 * fast < slow  # it has a thousandth of the work
    with pytest.raises(InputError, match=r"the profile was taken with onnxruntime 1\.0: profile it again"):
        time_there("pi", device, Silent(), old, (small, large))


def test_a_device_where_other_processes_work_gives_no_times(machine, project: Path, soon) -> None:
    inventory(project, pi=machine(begins_with=BUSY))
    model = chain(8, 8)
    profile = profile_by(model, structure_of(model), blocks_of(1))
    with pytest.raises(LatencyError, match=r"pi: other processes kept [\d.]+ cores busy"):
        time_there("pi", load(project / "devices.yaml")["pi"], Silent(), profile, (model, model))


def test_a_device_without_the_runtime_says_what_to_install(machine, project: Path) -> None:
    inventory(project, pi=machine(("numpy", "click")))
    model = chain(8, 8)
    profile = profile_by(model, structure_of(model), blocks_of(1))
    with pytest.raises(EnvironmentMissing, match="onnxruntime"):
        time_there("pi", load(project / "devices.yaml")["pi"], Silent(), profile, (model, model))


@pytest.mark.parametrize(
    ("name", "said"), [("desk", "desk is 2 devices"), ("orin", "there is no device and no tag 'orin'")]
)
def test_a_model_is_pruned_for_one_device_that_there_is(project: Path, name: str, said: str) -> None:
    devices = {key: {"address": "127.0.0.1", "tags": ["desk"]} for key in ("pi", "nas")}
    (project / "devices.yaml").write_text(yaml.safe_dump(devices))
    asked = ["prune", "digits#0,1", "--backbone", "test_resnet", "--image-size", "32", "--out", "run"]
    done = CliRunner().invoke(main, [*asked, "--speed-up", "2x", "--on", name])
    assert done.exit_code == ExitCode.INPUT
    assert said in done.output
