"""Every example runs, as a reader would run it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

import mvp_deploy as mvp
from mvp_deploy.backbones import timm
from mvp_deploy.pipeline.deployfile import load

timm()  # so that `import timm` works where torchvision is of another torch
EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_ones_own_model_and_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("own_model.py", str(tmp_path), monkeypatch=monkeypatch)
    assert "of the MACs" in capsys.readouterr().out
    bundle = mvp.Bundle(tmp_path / "bundle")
    assert bundle.classes == ("rows", "columns", "falling", "rising")
    assert bundle.models[-1].accuracy > 0.5  # chance is 0.25
    assert bundle.models[-1].macs <= 0.4 * bundle.models[0].macs


@pytest.mark.filterwarnings("ignore:only .* images to calibrate on")
def test_ones_own_checkpoint_to_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    run("openvino_int8.py", str(tmp_path), monkeypatch=monkeypatch)
    files = {(file.model, file.target, file.precision) for file in mvp.Bundle(tmp_path / "bundle").models}
    assert files == {("model", "openvino", "int8")}


@pytest.mark.filterwarnings("ignore::UserWarning")  # two tasks are few to vote
def test_a_bank_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("bank_of_tasks.py", str(tmp_path), "--quick", monkeypatch=monkeypatch)
    assert mvp.Bank.open(tmp_path / "bank").tasks == ("digits#0,1,2", "digits#3,4")
    assert mvp.Bundle(tmp_path / "bundle").classes == ("7", "8", "9")


def test_the_notebook_s_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "notebook"}
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert mvp.Bundle("tour-bundle").models[-1].model == "pruned"


def test_the_ci_repository_s_config_is_valid() -> None:
    config = load(EXAMPLES / "ci" / "deploy.yaml")
    assert set(config.tasks) == {"late", "odd"}
