"""CUDA through the driver's library: on a stand-in whose memory is the host's, and for real where there is none."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

import numpy as np
import pytest
from fakes.cuda import FakeCuda

from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.errors import ExitCode, InputError, MvpError


@pytest.fixture
def gpu(install) -> FakeCuda:
    return install("10.3.0").gpu


def test_without_a_driver_it_is_one_sentence_with_exit_code_6() -> None:
    """For real: this runs on machines without a GPU, as CI's are."""
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(MvpError, match="needs an NVIDIA GPU") as caught:
        cuda.select()
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert len(str(caught.value).splitlines()) == 1


def test_a_driver_without_a_gpu_is_one_sentence_with_exit_code_6(gpu: FakeCuda) -> None:
    gpu.init_code = 100
    with pytest.raises(MvpError, match=r"does not start.*no CUDA-capable device.*nvidia-smi") as caught:
        cuda.select()
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_a_gpu_that_is_not_there_is_refused(gpu: FakeCuda) -> None:
    assert cuda.select(0) == cuda.Gpu("Orin", "8.7", 16, 8 << 30, "12.6")
    with pytest.raises(MvpError, match="GPU 1 was asked for and the NVIDIA driver sees 1"):
        cuda.select(1)


@pytest.mark.parametrize(("asked", "used"), [(None, "LAZY"), ("EAGER", "EAGER")])
def test_kernels_are_loaded_when_they_are_needed(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, asked: str | None, used: str
) -> None:
    """TensorRT advises it, and CUDA before 12.2 did not by itself; who asks for the other gets that."""
    monkeypatch.setenv("CUDA_MODULE_LOADING", asked or "")
    if asked is None:
        monkeypatch.delenv("CUDA_MODULE_LOADING")
    cuda.select()
    assert os.environ["CUDA_MODULE_LOADING"] == used


def test_a_gpu_is_available_where_its_driver_starts(gpu: FakeCuda) -> None:
    assert cuda.available()


def test_no_gpu_is_available_where_its_driver_does_not_start(gpu: FakeCuda) -> None:
    gpu.init_code = 100
    assert not cuda.available()


def test_arrays_travel_to_the_gpu_and_back(gpu: FakeCuda) -> None:
    cuda.select()
    stream, buffer = cuda.Stream(), cuda.Buffer((2, 3), np.dtype(np.float32))
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    buffer.host[:] = sent
    buffer.to_gpu(stream)
    buffer.host[:] = 0
    buffer.to_host(stream)
    stream.wait()
    np.testing.assert_array_equal(buffer.host, sent)
    buffer.close()
    stream.close()
    assert gpu.leaks == 0


def test_a_graph_repeats_what_was_recorded_and_recording_runs_nothing(gpu: FakeCuda) -> None:
    cuda.select()
    stream, buffer = cuda.Stream(), cuda.Buffer((4,), np.dtype(np.float32))
    buffer.host[:] = 1
    graph = cuda.Graph(stream, lambda: buffer.to_gpu(stream))
    buffer.host[:] = 7
    graph.launch(stream)
    buffer.host[:] = 0
    buffer.to_host(stream)
    assert (buffer.host == 7).all()
    for thing in (graph, buffer, stream):
        thing.close()
    assert gpu.leaks == 0


def test_a_recording_that_fails_ends(gpu: FakeCuda) -> None:
    cuda.select()
    stream = cuda.Stream()

    def fail() -> None:
        raise InputError("no")

    with pytest.raises(MvpError, match="no"):
        cuda.Graph(stream, fail)
    stream.wait()  # refused while a recording is open
    assert gpu.capturing is None


def test_events_give_seconds(gpu: FakeCuda) -> None:
    cuda.select()
    stream, before, after = cuda.Stream(), cuda.Event(), cuda.Event()
    before.record(stream)
    gpu.clock += 2.5  # milliseconds
    after.record(stream)
    assert after.seconds_since(before) == pytest.approx(0.0025)


def test_memory_that_is_not_there_is_named_and_nothing_is_kept(gpu: FakeCuda) -> None:
    cuda.select()
    gpu.memory = 100
    with pytest.raises(MvpError, match=r"CUDA_ERROR_OUT_OF_MEMORY .out of memory. in cuMemAlloc_v2") as caught:
        cuda.Buffer((1000,), np.dtype(np.float32))
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert gpu.leaks == 0
