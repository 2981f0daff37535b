"""Profiles of GPUs, on stand-ins of every TensorRT pinned and of a GPU; ONNX Runtime's CUDA by its settings."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from fakes.cuda import FakeCuda
from fakes.models import classifier
from fakes.profiles import blocks_of, chain, profile_by, structure_of, tiny_pieces
from fakes.tensorrt import VERSIONS

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Silent
from mvp_deploy.benchmark import onnxruntime as ort
from mvp_deploy.exporters.opset import read_opset
from mvp_deploy.latency import measure, pack, pieces, timer
from mvp_deploy.latency.format import Conditions, Machine, Subject, Variant
from mvp_deploy.latency.model import held_out
from mvp_deploy.latency.plan import Solution

SIZE = (3, 8, 8)
TENSORRT = Conditions("tensorrt", "cuda")
MODEL = chain(16, 32)
STRUCTURE = structure_of(MODEL)


@pytest.fixture(scope="module", params=["fp16", "int8"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Subject]:
    folder = tmp_path_factory.mktemp("made") / "parts"
    subject = pieces.make(
        "chain", lambda classes: chain(64, 128), SIZE, folder, precision=request.param, form="engine", variants=4,
        reporter=Silent(),
    )  # fmt: skip
    return folder, subject


@pytest.fixture(autouse=True)
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (measure, timer):
        monkeypatch.setattr(module, "WINDOWS", replace(module.WINDOWS, duration=0.02, window=0.01, warm_up=0.0))
    monkeypatch.setattr(measure, "KERNEL_RUNS", 2)


def variant_of(folder: Path, number: int = 0) -> Variant:
    return Variant(**json.loads((folder / f"{number:02}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("version", VERSIONS)
def test_each_layer_gets_its_share_of_an_engine(install, made: tuple[Path, Subject], tmp_path: Path, version) -> None:
    trt = install(version)
    pack.pack(*made, tmp_path / "pieces.zip")
    pack.unpack(tmp_path / "pieces.zip", tmp_path / "parts")
    variant, piece = variant_of(tmp_path / "parts"), tmp_path / "parts" / "00.onnx"
    whole, layers = measure.timed(piece, variant, TENSORRT, made[1])
    assert whole > 0
    assert len(layers) == 3
    assert all(ms >= 1 for ms in layers)  # each kernel takes a millisecond there
    measure.timed(piece, variant, TENSORRT, made[1])
    assert len(trt.called("Builder.build_serialized_network")) == 1  # the engine is kept
    assert trt.gpu.leaks == 0
    pack.remove(tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_every_tensorrt_reads_the_files_that_are_built_by_flags(made: tuple[Path, Subject], tmp_path: Path) -> None:
    for name in pack.names(made[1]):
        if name.endswith(".flags.onnx"):
            assert read_opset(made[0] / name) == 17
    fp32 = classifier(tmp_path / "fp32.onnx", opset=18)
    assert read_opset(pieces.converted(fp32, "fp32", "engine", SIZE, tmp_path / "out.onnx")) == 17


def test_widths_are_those_that_tensorrt_computes_in(made: tuple[Path, Subject]) -> None:
    assert all(count % 8 == 0 for counts in made[1].variants for count in counts.values() if count != 4)


def test_a_layer_of_tensorrt_belongs_to_the_first_node_it_names() -> None:
    labels = {"conv": 0, "conv_1": 1, "add": 1, "mul": 1, "sigmoid": 1, "fc": 2}
    kernels = [
        ("Reformatting CopyNode for Input Tensor 0 to conv_1", 1e-3),
        ("conv + relu", 2e-3),
        ("conv_1 + add", 4e-3),
        ("PWN(PWN(sigmoid), mul)", 8e-3),
        ("(Unnamed Layer* 12) [Shuffle] + fc", 16e-3),
        ("__mye12-(1)", 32e-3),
        ("{ForeignNode[mul...fc]}", 64e-3),
    ]
    assert measure.by_layer(kernels, labels, 3) == (2.0, 1.0 + 4 + 8 + 64, 16.0 + 32)


@pytest.mark.parametrize(("form", "runtime"), [("cpu", "tensorrt"), ("engine", "onnxruntime")])
def test_pieces_for_another_runtime_are_refused(install, tmp_path: Path, form, runtime: str) -> None:
    install("8.6.0")
    pack.unpack(tiny_pieces(tmp_path / "pieces", form), tmp_path / "parts")
    conditions = Conditions(runtime, "cuda" if runtime == "tensorrt" else "cpu")
    with pytest.raises(InputError, match=f"not made for {runtime}: make them with .* --runtime {runtime}"):
        measure.measure(tmp_path / "parts", conditions, reporter=Silent())


def gpu_profile(conditions: Conditions, gpu: str):
    machine = Machine(str(timer.environment()["cpu"]), 1, "none", gpu)
    return replace(profile_by(MODEL, STRUCTURE, blocks_of(8)), conditions=conditions, machine=machine, version="8.6.0")


def test_a_plan_is_timed_as_an_engine_on_the_profiles_gpu_alone(install) -> None:
    install("8.6.0", FakeCuda("H100", multiprocessors=132))
    profile = gpu_profile(TENSORRT, "H100, 132 multiprocessors")
    assert "H100" in str(profile)
    clock = timer.timer(STRUCTURE, MODEL, profile, Silent())
    assert clock is not None
    whole = {group.name: group.size for group in STRUCTURE.groups}
    assert min(clock(Solution(whole, ms=1.0, lost=0.0, gap=None))) > 0
    install("8.6.0", FakeCuda("H100", multiprocessors=114))
    assert timer.timer(STRUCTURE, MODEL, profile, Silent()) is None
    assert timer.timer(STRUCTURE, MODEL, gpu_profile(TENSORRT, "Orin, 8 multiprocessors"), Silent()) is None


def test_without_a_gpu_a_gpus_profile_is_of_another_machine(install) -> None:
    gpu = FakeCuda()
    gpu.count = 0
    install("8.6.0", gpu)
    assert timer.timer(STRUCTURE, MODEL, gpu_profile(Conditions("onnxruntime", "cuda"), "H100"), Silent()) is None


def test_cuda_kernels_are_traced_apart_and_one_at_a_time_in_full_float32(tmp_path: Path, monkeypatch) -> None:
    seen: list[str | None] = []
    monkeypatch.delenv("CUDA_LAUNCH_BLOCKING", raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(ort.PROVIDERS.values()))
    assert ort._provider("cuda:1") == ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})

    def traced(*arguments: object) -> list[tuple[str, float]]:
        seen.append(os.environ.get("CUDA_LAUNCH_BLOCKING"))
        return []

    def aside(function, *arguments: object) -> object:
        with monkeypatch.context() as patch:
            patch.setenv("CUDA_LAUNCH_BLOCKING", "0")  # afterwards it is as it was
            return function(*arguments)

    monkeypatch.setattr(ort, "_traced", traced)
    monkeypatch.setattr(ort, "apart", aside)
    batch = np.zeros((1, *SIZE), np.float32)
    for device in ("cpu", "cuda"):
        ort.kernel_times(classifier(tmp_path / "a.onnx"), batch, runs=1, threads=1, device=device)
    assert seen == [None, "1"]


def test_each_variant_is_predicted_from_the_others() -> None:
    pairs = held_out(profile_by(MODEL, STRUCTURE, blocks_of(8)))
    assert len(pairs) == 15
    assert np.median([abs(predicted / ms - 1) for ms, predicted in pairs]) < 0.05
