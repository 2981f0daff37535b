from __future__ import annotations

from pathlib import Path

import pytest

import mvp_deploy as mvp


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with one task."""
    folder = tmp_path_factory.mktemp("api") / "bank"
    mvp.Bank.create(folder, "test_resnet", image_size=32).add("digits#3,4", macs=0.6, steps=4, rounds=1, round_steps=2)
    return folder


@pytest.fixture(scope="session")
def run(bank_folder: Path) -> mvp.Result:
    """A RUN of that bank, as a Result."""
    return mvp.prune(
        "test_resnet", "digits#0,1,2", macs=0.6, bank=bank_folder, out=bank_folder.parent / "run", steps=20
    )


@pytest.fixture(scope="session")
def bundle_folder(run: mvp.Result) -> Path:
    assert run.folder is not None
    return mvp.export(run.folder, run.folder.parent / "bundle").path
