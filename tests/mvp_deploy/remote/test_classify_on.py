"""predict and evaluate --on: a device without Pillow answers as this machine does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from samples import CLASSES, make_bundle

from mvp_deploy.cli import main


@pytest.fixture
def project(machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "dogs")
    there = machine()
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"pi": there.entry}))
    random = np.random.default_rng(0)
    for number, name in enumerate(CLASSES * 4):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def result(*arguments: str):
    done = CliRunner().invoke(main, [*arguments, "--json", "-q"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_device_predicts_what_this_machine_does(project: Path) -> None:
    images = [f"photos/{CLASSES[k % 3]}/{k}.png" for k in range(3)]
    here, there = result("predict", "dogs", *images), result("predict", "dogs", *images, "--on", "pi")
    assert here["model"] == there["model"]
    for ours, theirs in zip(here["predictions"], there["devices"]["pi"], strict=True):
        assert ours["image"] == theirs["image"]
        assert ours["classes"] == pytest.approx(theirs["classes"], abs=1e-4)


def test_a_device_is_as_accurate_as_this_machine(project: Path) -> None:
    here = result("evaluate", "dogs", "photos", "--part", "all")
    there = result("evaluate", "dogs", "photos", "--part", "all", "--on", "pi", "--csv", "found.csv")
    assert there["devices"]["pi"]["confusion"] == here["confusion"]
    assert len((project / "found-pi.csv").read_text().splitlines()) == 13
