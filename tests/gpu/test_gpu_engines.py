"""Real engines on a real GPU: built in each precision, looked at, run, compared with ONNX Runtime.

Skipped, with the reason, where there is no GPU or no TensorRT. Where TensorRT has a Python of its own, install
pytest, onnx and onnxruntime there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.errors import MvpError
from mvp_deploy.exporters.protocol import PRECISIONS
from mvp_deploy.exporters.tensorrt import cache
from mvp_deploy.exporters.tensorrt.build import Options, Profile, build
from mvp_deploy.exporters.tensorrt.probe import Offer, probe

pytestmark = pytest.mark.gpu
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25}  # of the largest logit


@pytest.fixture(scope="module")
def offer() -> Offer:
    try:
        return probe()
    except MvpError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def test_memory_travels_and_events_measure() -> None:
    gpu = cuda.select()
    assert gpu.memory > 1 << 30
    stream, buffer = cuda.Stream(), cuda.Buffer((1 << 20,), np.dtype(np.float32))
    before, after = cuda.Event(), cuda.Event()
    buffer.host[:] = sent = np.arange(1 << 20, dtype=np.float32)
    before.record(stream)
    buffer.to_gpu(stream)
    after.record(stream)
    stream.wait()
    buffer.host[:] = 0
    buffer.to_host(stream)
    stream.wait()
    np.testing.assert_array_equal(buffer.host, sent)
    assert 0 < after.seconds_since(before) < 1
    for thing in (before, after, buffer, stream):
        thing.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_agrees_with_onnx_runtime(offer: Offer, folder: Path, precision: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from fakes.models import classifier

    reference = classifier(folder / "reference.onnx", channels=64)
    source = "fp32" if precision == "fp16" and not offer.typed else precision
    onnx = classifier(folder / f"{precision}.onnx", source, channels=64, opset=19 if source == "fp16" else 17)
    options = Options(precision, (Profile(1, 1, 1), Profile(1, 8, 32)))
    built = build(offer, onnx, options, folder / "timing")
    assert built.layers[precision] >= 1
    engine = folder / f"{precision}.engine"
    cache.store(engine, built, cache.identity(offer, onnx, options), onnx)
    images = np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(reference).run(None, {"input": images})[0]
    runner = open_runner(engine, device="cuda")
    for size in (1, 8, 32):
        found = logits(runner, images, size)
        assert np.abs(found - wanted).max() <= TOLERANCE[precision] * np.abs(wanted).max()
    parts = runner.run()
    assert parts is not None
    assert all(0 < seconds < 1 for seconds in parts.values())
    runner.close()


def test_a_graph_tensorrt_cannot_read_is_a_message_that_names_the_node(offer: Offer, folder: Path) -> None:
    pytest.importorskip("onnx")
    from fakes.models import save
    from onnx import helper

    nodes = [
        helper.make_node("Det", ["input"], ["d"], name="determinant"),
        helper.make_node("Identity", ["d"], ["logits"], name="out"),
    ]
    path = save(folder / "det.onnx", nodes, {}, logits=("batch", 3))
    with pytest.raises(MvpError, match=r"cannot read det\.onnx(.|\n)*(Det|determinant)"):
        build(offer, path, Options())


def test_an_engine_is_refused_when_its_plan_is_damaged(offer: Offer, folder: Path) -> None:
    from mvp_deploy.exporters.tensorrt.build import load, logger

    with pytest.raises(MvpError, match="does not load the engine"):
        load(offer, b"not a plan" * 100, logger(offer))
