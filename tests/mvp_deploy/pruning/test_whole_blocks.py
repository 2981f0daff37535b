"""Models that lost whole blocks: exact, on disk and back, exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.session import open_session
from mvp_deploy.pruning import pruned
from mvp_deploy.pruning.original import Original, check_exact
from mvp_deploy.structure import KeepPlan


def without(original: Original, *places: int) -> KeepPlan:
    """A plan that keeps three quarters of every group and lacks some blocks."""
    blocks = original.structure.blocks
    masks = {name: np.arange(len(mask)) < max(1, 3 * len(mask) // 4) for name, mask in original.full.masks.items()}
    return KeepPlan(masks, frozenset(blocks[place].name for place in places))


@pytest.mark.parametrize("places", [(0,), (0, -1)])
def test_a_model_that_lost_blocks_is_exact_and_comes_back_from_its_file(both, places, tmp_path: Path) -> None:
    original = both.original
    plan = without(original, *places)
    model = original.pruned(plan).eval()
    assert check_exact(original, plan, model, both.test) < 1e-5
    pruned.save(tmp_path / "m.safetensors", model.state_dict(), both.backbone, plan, ("0", "1", "2"), {})
    loaded = pruned.load(tmp_path / "m.safetensors")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert loaded.plan == plan
        assert torch.equal(loaded.model(x), model(x))
    onnx = export_onnx(loaded.model, x, tmp_path / "m.onnx", {})
    session = open_session(onnx)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    check_parity(model(x).detach().numpy(), got)


def test_weights_without_blocks_widened_come_back(both) -> None:
    original = both.original
    plan = without(original, 0)
    state = original.pruned(plan).state_dict()
    wide = original.widened(plan, state)
    assert all(torch.equal(value, wide[name]) for name, value in original.model.state_dict().items())
