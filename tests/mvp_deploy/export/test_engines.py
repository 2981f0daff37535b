"""A bundle's engines, built on stand-ins of every TensorRT pinned: what is made, kept, listed and refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fakes.bundle import tiny_bundle
from fakes.cuda import FakeCuda
from fakes.tensorrt import VERSIONS
from PIL import Image

from mvp_deploy import bundle
from mvp_deploy.api.bundle import Bundle
from mvp_deploy.base.files import locked
from mvp_deploy.base.reporter import Silent
from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.cli import main
from mvp_deploy.export.engines import build_engines, engines_of
from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.tensorrt.build import Options, Profile


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Timing caches go to the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def built(path: Path, *precisions: str, options: Options = Options()):  # noqa: B008 (frozen)
    return build_engines(bundle.read(path), precisions, options, device="auto", reporter=Silent())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_model_becomes_a_checked_engine(install, tmp_path: Path, home: Path, version: str) -> None:
    gpu = install(version).gpu
    path = tiny_bundle(tmp_path / "b")
    engines = built(path)
    assert [(e.model, e.precision, e.error) for e in engines] == [
        (model, precision, None) for model in ("unpruned", "pruned") for precision in ("fp32", "fp16", "int8")
    ]
    assert all(e.layers and e.layers[e.precision] for e in engines)
    assert gpu.leaks == 0
    assert bundle.verify(path) == []  # what is built on a machine is no change of the bundle
    assert len(list(home.rglob("*.timing"))) == 1

    found = engines_of(bundle.read(path))
    assert {file.target for file in found} == {"engine"}
    assert len(found) == 6
    runner = open_runner(path / found[0].file, device="auto")
    samples = bundle.read(path).samples
    np.testing.assert_allclose(logits(runner, samples["images"], 4), samples[found[0].model], rtol=0.1, atol=0.1)


def test_an_engine_classifies_images_like_the_bundles_files(install, tmp_path: Path) -> None:
    install(VERSIONS[-1])
    path = tiny_bundle(tmp_path / "b", ["fp32"])
    images = [tmp_path / f"{number}.png" for number in range(3)]  # more than the engine's batch of one
    for seed, image in enumerate(images):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(image)
    before = CliRunner().invoke(main, ["predict", str(path), "--target", "engine", str(images[0])])
    assert before.exit_code == ExitCode.INPUT
    assert "mvp-deploy build" in before.output
    built(path)
    runs = [
        CliRunner().invoke(main, ["predict", str(path), "--target", target, "--json", *map(str, images)])
        for target in ("engine", "onnx")
    ]
    assert [run.exit_code for run in runs] == [0, 0], runs[0].output
    engine, onnx = (json.loads(run.stdout)["predictions"] for run in runs)
    for left, right in zip(engine, onnx, strict=True):
        assert left["classes"] == pytest.approx(right["classes"], abs=1e-3)
    session = Bundle(path).session(target="engine", device="cuda")
    with session as model:
        assert model.logits(images).shape == (3, 4)


@pytest.mark.parametrize(("version", "source"), [("8.6.0", "fp32"), ("10.3.0", "fp32"), ("11.4.0.106", "fp16")])
def test_fp16_is_built_from_float32_where_flags_decide(install, tmp_path: Path, version: str, source: str) -> None:
    trt = install(version)
    built(tiny_bundle(tmp_path / "b"), "fp16")
    read = [Path(call["model"]).name for call in trt.called("OnnxParser.parse_from_file")]
    assert read == [f"unpruned.{source}.onnx", f"pruned.{source}.onnx"]


def test_of_two_that_build_at_once_the_second_is_reported(install, tmp_path: Path) -> None:
    install(VERSIONS[0])
    path = tiny_bundle(tmp_path / "b", ["fp32"])
    built(path)
    (folder,) = (path / "built").iterdir()
    with locked(folder / ".lock", ""), ThreadPoolExecutor(1) as thread:
        second = thread.submit(built, path)
        with pytest.raises(MvpError, match="another process is building engines"):
            second.result()
    assert len(engines_of(bundle.read(path))) == 2


def test_a_missing_source_names_the_cure_and_the_rest_goes_on(install, tmp_path: Path) -> None:
    install("11.4.0.106")
    engines = built(tiny_bundle(tmp_path / "b", ["fp32"]), "int8", "fp32")
    assert [e.error is None for e in engines] == [False, True, False, True]
    assert "no int8 ONNX file of the unpruned model" in str(engines[0].error)
    assert "export it again with `--target tensorrt` and int8 among" in str(engines[0].error)


def test_int8_for_cpus_is_not_a_source(install, tmp_path: Path) -> None:
    install("10.3.0")
    whole = bundle.read(tiny_bundle(tmp_path / "b"))
    cpus = replace(whole, models=tuple(replace(file, target="onnx") for file in whole.models))
    engines = build_engines(cpus, ["int8"], Options(), device="auto", reporter=Silent())
    assert all("--target tensorrt" in str(engine.error) for engine in engines)


def test_engines_are_kept_until_something_changes(install, tmp_path: Path) -> None:
    trt = install("10.3.0")
    path = tiny_bundle(tmp_path / "b", ["fp32"])
    assert not any(engine.reused for engine in built(path))
    assert all(engine.reused for engine in built(path))
    assert len(trt.called("Builder.build_serialized_network")) == 2
    assert not any(engine.reused for engine in built(path, options=Options(profiles=(Profile(1, 1, 4),))))
    install("10.16.1.11")
    assert not any(engine.reused for engine in built(path))
    assert len(list((path / "built").iterdir())) == 2  # one folder for each TensorRT


def test_an_engine_that_disagrees_is_not_kept(install, tmp_path: Path) -> None:
    install("10.3.0")
    path = tiny_bundle(tmp_path / "b", ["fp32"])
    whole = bundle.read(path)
    whole.samples["pruned"] += 1
    good, bad = build_engines(whole, (), Options(), device="auto", reporter=Silent())
    assert good.error is None
    assert bad.error is not None
    assert bad.error.code == ExitCode.PARITY
    assert [file.name for file in path.rglob("*.engine")] == ["unpruned.fp32.engine"]
    assert [file.model for file in engines_of(bundle.read(path))] == ["unpruned"]


def test_another_machine_does_not_see_them(install, tmp_path: Path) -> None:
    install("10.3.0")
    path = tiny_bundle(tmp_path / "b", ["fp32"])
    built(path)
    install("10.3.0", FakeCuda("NVIDIA H200", (9, 0), 132))
    assert engines_of(bundle.read(path)) == []
    nothing = FakeCuda()
    nothing.init_code = 100
    install("10.3.0", nothing)
    assert engines_of(bundle.read(path)) == []


def test_the_command_prints_what_was_built(install, tmp_path: Path) -> None:
    install("8.6.0")
    path = tiny_bundle(tmp_path / "b")
    done = CliRunner().invoke(main, ["build", str(path), "--precision", "fp16,int8", "--batch", "1:2:4", "--json"])
    assert done.exit_code == 0, done.output
    engines = json.loads(done.stdout)["engines"]
    assert next((e["model"], e["precision"], e["error"]) for e in engines) == ("unpruned", "fp16", None)
    assert len(engines) == 4
    shown = CliRunner().invoke(main, ["build", str(path), "--precision", "fp16,int8", "--batch", "1:2:4"])
    assert shown.stdout.count("kept") == 4
    assert "1 fp16, 1 fp32, 1 int8" in shown.stdout


def test_the_command_fails_with_the_first_engines_error(install, tmp_path: Path) -> None:
    install("8.6.0").ignores_precision = True
    done = CliRunner().invoke(main, ["build", str(tiny_bundle(tmp_path / "b")), "--precision", "fp32,fp16"])
    assert done.exit_code == ExitCode.PARITY
    assert "failed: fp16 was asked for" in done.stdout
    assert "1 fp32" in done.stdout


@pytest.mark.parametrize(("option", "value"), [("--precision", "fp8"), ("--batch", "8:1"), ("--device", "cpu")])
def test_what_cannot_be_asked_for_is_exit_code_2(install, tmp_path: Path, option: str, value: str) -> None:
    install("8.6.0")
    done = CliRunner().invoke(main, ["build", str(tiny_bundle(tmp_path / "b", ["fp32"])), option, value])
    assert done.exit_code == ExitCode.INPUT
    assert done.output.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.output


def test_without_a_gpu_it_is_one_sentence_and_exit_code_6(tmp_path: Path) -> None:
    """For real: this runs on machines without a GPU, as CI's are."""
    from mvp_deploy.exporters import cuda

    try:
        cuda.select()
        pytest.skip("this machine has a GPU")
    except MvpError:
        done = CliRunner().invoke(main, ["build", str(tiny_bundle(tmp_path / "b", ["fp32"]))])
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert done.output.startswith("Error: no NVIDIA driver here")
    assert done.output.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.output
