"""Engines run by the benchmark's runner, on stand-ins of every TensorRT pinned and of a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from fakes.cuda import FakeCuda
from fakes.models import classifier
from fakes.tensorrt import VERSIONS

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.tensorrt import cache
from mvp_deploy.exporters.tensorrt.build import Options, Profile, build
from mvp_deploy.exporters.tensorrt.probe import probe

RANDOM = np.random.default_rng(0)


def engine_of(onnx: Path, options: Options = Options()) -> Path:  # noqa: B008 (frozen)
    offer, engine = probe(), onnx.with_suffix(".engine")
    cache.store(engine, build(offer, onnx, options), cache.identity(offer, onnx, options), onnx)
    return engine


def images(count: int) -> np.ndarray:
    return RANDOM.normal(size=(count, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("version", VERSIONS)
def test_it_gives_what_onnx_runtime_gives_and_frees_everything(install, tmp_path: Path, version: str) -> None:
    gpu = install(version).gpu
    onnx = classifier(tmp_path / "a.onnx")
    runner = open_runner(engine_of(onnx), device="auto")
    batch = images(10)
    wanted = onnxruntime.InferenceSession(onnx).run(None, {"input": batch})[0]
    assert runner.image_shape == (3, 8, 8)
    for size in (1, 4, 10):
        np.testing.assert_allclose(logits(runner, batch, size), wanted, rtol=1e-5)
    runner.close()
    assert gpu.leaks == 0


def test_it_replays_one_graph_and_tells_computing_from_transfers(install, tmp_path: Path) -> None:
    trt = install("10.3.0")
    runner = open_runner(engine_of(classifier(tmp_path / "a.onnx")), device="cuda:0")
    runner.prepare(images(2))
    enqueued = len(trt.called("IExecutionContext.execute_async_v3"))
    parts = [runner.run() for _ in range(3)]
    assert parts == [{"h2d": 0.001, "compute": 0.001, "d2h": 0.001}] * 3  # each step takes a millisecond there
    assert trt.gpu.launches == 3
    assert len(trt.called("IExecutionContext.execute_async_v3")) == enqueued == 3  # twice, then recorded


@pytest.mark.parametrize(("size", "profile"), [(1, 0), (2, 1), (8, 1), (30, 2)])
def test_it_uses_the_profile_made_for_the_batch(install, tmp_path: Path, size: int, profile: int) -> None:
    trt = install("8.6.0")
    profiles = (Profile(1, 1, 1), Profile(1, 8, 32), Profile(16, 32, 32))
    runner = open_runner(engine_of(classifier(tmp_path / "a.onnx"), Options(profiles=profiles)), device="auto")
    runner.prepare(images(size))
    assert trt.called("IExecutionContext.set_optimization_profile_async")[-1]["profile_index"] == profile


def test_a_batch_no_profile_takes_is_refused_with_the_cure(install, tmp_path: Path) -> None:
    install("10.3.0")
    runner = open_runner(engine_of(classifier(tmp_path / "a.onnx")), device="auto")
    with pytest.raises(MvpError, match=r"takes batches of 1:1:1, 1:8:32 and not of 33.*--batch 33"):
        runner.prepare(images(33))


def test_an_engine_for_another_gpu_is_refused(install, tmp_path: Path) -> None:
    install("10.3.0")
    engine = engine_of(classifier(tmp_path / "a.onnx"))
    install("10.3.0", FakeCuda("Orin", multiprocessors=8))  # the smaller board has the same name
    with pytest.raises(MvpError, match=r"8 multiprocessors.*build it again") as caught:
        open_runner(engine, device="auto")
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_too_little_memory_is_a_sentence_and_leaves_nothing_behind(install, tmp_path: Path) -> None:
    gpu = install("10.3.0").gpu
    runner = open_runner(engine_of(classifier(tmp_path / "a.onnx")), device="auto")
    gpu.memory = 1000
    with pytest.raises(MvpError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        runner.prepare(images(32))
    runner.close()
    assert gpu.leaks == 0


def test_the_cpu_is_not_a_device_for_it(install, tmp_path: Path) -> None:
    install("10.3.0")
    with pytest.raises(MvpError, match="pass auto, cuda or cuda:N"):
        open_runner(engine_of(classifier(tmp_path / "a.onnx")), device="cpu")


def test_without_a_driver_it_says_so_before_touching_tensorrt(tmp_path: Path) -> None:
    """For real on a machine without a GPU: the driver is asked first, for TensorRT would end the process."""
    try:
        cuda.select()
    except MvpError as error:
        reason = str(error)
    else:
        pytest.skip("this machine has a GPU")
    (tmp_path / "a.engine").write_bytes(b"")
    with pytest.raises(MvpError) as caught:
        open_runner(tmp_path / "a.engine", device="auto")
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert str(caught.value) == reason
    assert "needs an NVIDIA GPU" in reason
