"""The target ``torch``: a .pt2 that loads with torch alone, and weights under the module's own names."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mvp_deploy.exporters.errors import EnvironmentMissing, InputError
from mvp_deploy.exporters.protocol import Source, exporter

ALONE = """
import sys
for name in ("mvp_deploy", "timm", "torchvision", "onnx"):
    sys.modules[name] = None
import numpy, torch
images = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], torch.export.load(sys.argv[1]).module()(images).detach().numpy())
"""


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4, 5)).eval()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "pruned.fp32.pt2"
    return exporter("torch").export(Source("fp32", Path("unused"), net(), (3, 8, 8)), path).path


def test_it_loads_with_torch_alone_and_computes_what_the_module_does(program: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    files = [program, tmp_path / "images.npy", tmp_path / "logits.npy"]
    subprocess.run([sys.executable, "-c", ALONE, *map(str, files)], check=True, cwd=tmp_path)
    expected = net()(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(np.load(files[2]), expected, atol=1e-6)


def test_the_weights_beside_it_have_the_modules_own_names(program: Path) -> None:
    again = net()
    torch.nn.init.zeros_(again[5].weight)
    again.load_state_dict(load_file(program.with_suffix(".safetensors")), strict=True)
    assert torch.equal(again[5].weight, net()[5].weight)


def test_equal_models_give_equal_bytes_without_pickles_and_paths(program: Path, tmp_path: Path) -> None:
    again = exporter("torch").export(Source("fp32", Path("unused"), net(), (3, 8, 8)), tmp_path / "pruned.fp32.pt2")
    assert again.path.read_bytes() == program.read_bytes()
    with zipfile.ZipFile(program) as archive:
        assert all(member.file_size == 0 for member in archive.infolist() if member.filename.endswith(".pt"))
        assert not any(str(Path(torch.__file__).parent).encode() in archive.read(each) for each in archive.namelist())


def test_the_runner_runs_it_for_any_batch_size(program: Path) -> None:
    from mvp_deploy.benchmark.runner import logits, open_runner

    images = np.random.default_rng(1).normal(size=(5, 3, 8, 8)).astype(np.float32)
    runner = open_runner(program)
    assert runner.image_shape == (3, 8, 8)
    for size in (1, 4):
        expected = net()(torch.from_numpy(images)).detach().numpy()
        np.testing.assert_allclose(logits(runner, images, size), expected, atol=1e-6)
    runner.close()
    with pytest.raises(EnvironmentMissing, match="--device cpu"):
        open_runner(program, device="cuda")


@pytest.mark.parametrize("strange", ["archive/data/sample_inputs/model.pt", "archive/data/aotinductor/model/model.so"])
def test_a_program_with_something_to_unpickle_or_to_run_is_refused(program: Path, tmp_path: Path, strange: str) -> None:
    from mvp_deploy.benchmark.runner import open_runner

    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(program) as whole, zipfile.ZipFile(bad, "w") as changed:
        for member in whole.infolist():
            if member.filename != strange:
                changed.writestr(member.filename, whole.read(member))
        changed.writestr(strange, b"code")
    with pytest.raises(InputError, match="run or unpickle"):
        open_runner(bad)


def test_pickled_weights_are_refused(program: Path, tmp_path: Path) -> None:
    from mvp_deploy.benchmark.runner import open_runner

    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(program) as whole, zipfile.ZipFile(bad, "w") as changed:
        for member in whole.infolist():
            changed.writestr(member.filename, whole.read(member).replace(b'"use_pickle": false', b'"use_pickle": true'))
    with pytest.raises(InputError, match="unpickle"):
        open_runner(bad)


def test_what_is_not_a_program_is_refused(tmp_path: Path) -> None:
    from mvp_deploy.benchmark.runner import open_runner

    (tmp_path / "a.pt2").write_bytes(b"PK")
    with pytest.raises(InputError, match="not a program"):
        open_runner(tmp_path / "a.pt2")


def test_a_model_that_torch_export_cannot_take_is_an_expected_error(tmp_path: Path) -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="cannot take this model"):
        exporter("torch").export(Source("fp32", Path("unused"), Branches(), (3, 8, 8)), tmp_path / "a.pt2")
