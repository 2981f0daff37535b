"""build --on over a real sshd: TensorRT is a stand-in where there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from fakes.bundle import tiny_bundle

from mvp_deploy import bundle
from mvp_deploy.cli import main

TESTS = Path(__file__).parents[2]
STAND_IN = f"""
import sys
if "os.read(0,1)" not in str(sys.orig_argv):  # not in the process that answers, which has the standard library alone
    sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]
    from fakes.tensorrt import install
    install("8.6.0")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_bundle(tmp_path / "dogs", ["fp32"])
    return tmp_path


def build(machine):
    Path("devices.yaml").write_text(yaml.safe_dump({"orin": machine.entry}))
    return CliRunner().invoke(main, ["build", "dogs", "--on", "orin", "--precision", "fp16", "--json", "-q"])


def test_engines_are_built_there_and_come_back(machine, project: Path) -> None:
    there = machine(begins_with=STAND_IN)
    done = build(there)
    assert done.exit_code == 0, done.output
    files = json.loads(done.stdout)["devices"]["orin"]
    assert sum(file.endswith(".engine") for file in files) == 2
    made = {file: (project / "dogs" / file).read_bytes() for file in files}
    assert all(made.values())
    assert bundle.verify(project / "dogs") == []

    again = build(there)  # the engines travel there, and are kept
    assert again.exit_code == 0, again.output
    assert {file: (project / "dogs" / file).read_bytes() for file in files} == made


def test_a_device_without_tensorrt_says_so_and_leaves_the_bundle_alone(machine, project: Path) -> None:
    done = build(machine())
    assert done.exit_code == 6, done.output
    assert re.search("orin: .*(no NVIDIA driver|NVIDIA GPU|TensorRT)", done.output, re.IGNORECASE)
    assert json.loads(done.stdout)["devices"] == {"orin": []}
    assert not (project / "dogs" / bundle.BUILT).exists()
