"""Stored engines: reused when nothing changed, refused with the cure when anything did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.cuda import FakeCuda
from fakes.models import classifier

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.tensorrt import cache
from mvp_deploy.exporters.tensorrt.build import Built, Options, Profile
from mvp_deploy.exporters.tensorrt.probe import probe

ORIN, H200 = ("Orin", (8, 7), 16), ("NVIDIA H200", (9, 0), 132)


@pytest.fixture
def kept(install, tmp_path: Path) -> Path:
    """An engine of TensorRT 10.3 for an Orin, on disk."""
    return keep(install, tmp_path, Options("fp16"))


def keep(install, folder: Path, options: Options, version: str = "10.3.0") -> Path:
    install(version, FakeCuda(*ORIN))
    engine, onnx = folder / "built" / "a.engine", classifier(folder / "a.onnx")
    cache.store(engine, Built(b"plan", {"fp16": 2}, 1.0), cache.identity(probe(), onnx, options), onnx)
    return engine


def test_what_was_stored_is_read_back(kept: Path) -> None:
    plan, record = cache.read(kept, probe())
    assert plan == b"plan"
    assert record["layers"] == {"fp16": 2}
    assert {path.name for path in kept.parent.iterdir()} == {"a.engine", "a.engine.json"}


def test_only_the_very_same_engine_counts_as_stored(kept: Path) -> None:
    onnx = kept.parent.parent / "a.onnx"
    wanted = cache.identity(probe(), onnx, Options("fp16"))
    assert cache.stored(kept, wanted) is not None
    for other in (Options("int8"), Options("fp16", (Profile(1, 1, 1),)), Options("fp16", workspace=64)):
        assert cache.stored(kept, cache.identity(probe(), onnx, other)) is None
    classifier(onnx, seed=1)
    assert cache.stored(kept, cache.identity(probe(), onnx, Options("fp16"))) is None


@pytest.mark.parametrize("damage", [b"", b"plan cut", None])
def test_a_damaged_engine_is_refused_and_not_reused(kept: Path, damage: bytes | None) -> None:
    wanted = cache.identity(probe(), kept.parent.parent / "a.onnx", Options("fp16"))
    if damage is None:
        kept.unlink()
    else:
        kept.write_bytes(damage)
    with pytest.raises(MvpError, match=r"checksum differs.*build it again"):
        cache.read(kept, probe())
    assert cache.stored(kept, wanted) is None


def test_an_engine_whose_onnx_file_changed_is_stale(kept: Path) -> None:
    classifier(kept.parent.parent / "a.onnx", seed=1)
    with pytest.raises(MvpError, match=r"stale: a\.onnx has changed.*build it again"):
        cache.read(kept, probe())


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": 9}', "[1]"])
def test_an_engine_without_a_description_is_refused(kept: Path, content: str | None) -> None:
    if content is None:
        cache.sidecar(kept).unlink()
    else:
        cache.sidecar(kept).write_text(content)
    with pytest.raises(MvpError, match="build it again"):
        cache.read(kept, probe())


@pytest.mark.parametrize(
    ("version", "gpu", "reason"),
    [
        ("10.16.1.11", ORIN, r"is of TensorRT 10\.3\.0 and this machine has 10\.16\.1\.11"),
        ("8.6.0", ORIN, r"this machine has 8\.6\.0"),
        ("10.3.0", H200, "is for Orin .*this machine has NVIDIA H200"),
        ("10.3.0", ("Orin", (8, 7), 8), "this machine has Orin .8 multiprocessors"),
    ],
)
def test_a_foreign_engine_is_refused_with_the_cure(install, kept: Path, version: str, gpu: tuple, reason: str) -> None:
    install(version, FakeCuda(*gpu))
    with pytest.raises(MvpError, match=reason) as caught:
        cache.read(kept, probe())
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert "mvp-deploy build" in str(caught.value)


def test_a_version_compatible_engine_runs_on_later_versions_alone(install, tmp_path: Path) -> None:
    engine = keep(install, tmp_path, Options("fp16", version_compatible=True))
    install("11.4.0.106", FakeCuda(*ORIN))
    assert cache.read(engine, probe())[0] == b"plan"
    install("8.6.0", FakeCuda(*ORIN))
    with pytest.raises(MvpError):
        cache.read(engine, probe())


def test_a_hardware_compatible_engine_runs_on_other_gpus_from_ampere_on(install, tmp_path: Path) -> None:
    engine = keep(install, tmp_path, Options("fp16", hardware_compatible=True))
    install("10.3.0", FakeCuda(*H200))
    assert cache.read(engine, probe())[0] == b"plan"
    install("10.3.0", FakeCuda("Xavier", (7, 2), 8))
    with pytest.raises(MvpError):
        cache.read(engine, probe())


def test_the_driver_may_change(install, kept: Path) -> None:
    gpu = FakeCuda(*ORIN)
    gpu.memory //= 2
    install("10.3.0", gpu)
    assert cache.read(kept, probe())[0] == b"plan"


def test_the_description_is_written_last(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two, an engine has no description, and is built again."""
    onnx = kept.parent.parent / "a.onnx"
    wanted = cache.identity(probe(), onnx, Options("fp16"))
    monkeypatch.setattr(json, "dumps", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        cache.store(kept, Built(b"new plan", {"fp16": 2}, 1.0), wanted, onnx)
    monkeypatch.undo()
    assert kept.read_bytes() in (b"plan", b"new plan")
    assert cache.stored(kept, wanted) is None or kept.read_bytes() == b"plan"


def test_each_gpu_and_tensorrt_has_a_folder(install) -> None:
    install("10.3.0", FakeCuda(*H200))
    assert cache.folder(probe()) == "nvidia-h200-tensorrt-10.3.0"
