from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mvp_deploy import bundle
from mvp_deploy.bank.store import Bank
from mvp_deploy.cli import main
from mvp_deploy.pipeline import demo
from mvp_deploy.pruning.iterative import Schedule
from mvp_deploy.training import TrainConfig


def test_the_demo_goes_through_from_backbone_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo itself, with a smaller backbone, fewer tasks and steps; its promise of time is for a whole machine."""
    assert len(demo.BANK) >= 6
    monkeypatch.setattr(demo, "BANK", demo.BANK[:2])
    monkeypatch.setattr(demo, "BACKBONE", "test_resnet")
    monkeypatch.setattr(demo, "SCHEDULE", Schedule(rounds=1, steps=2))
    monkeypatch.setattr(demo, "_training", lambda steps, seed: TrainConfig(steps=4, batch_size=32, seed=seed))
    out = tmp_path / "demo"
    done = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert {entry.name for entry in Bank.open(out / "bank").entries()} == set(demo.BANK)
    assert bundle.verify(out / "bundle") == []
    report = (out / "report.html").read_text()
    for text in ("Models", "Latency", "Who voted", "Measured on"):
        assert text in report
    lines = [line for line in done.stdout.splitlines() if line.startswith(("unpruned fp32", "pruned fp32"))]
    assert len(lines) == 2 * len(demo.BATCHES)
    assert "timing: " in done.stderr
