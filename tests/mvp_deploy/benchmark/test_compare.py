from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import make_bundle, make_onnx

from mvp_deploy import bundle
from mvp_deploy.base.environment import cores, cpu_name, environment, other_work
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.base.processes import apart
from mvp_deploy.base.reporter import Silent
from mvp_deploy.benchmark import compare, looks, runner
from mvp_deploy.benchmark.candidates import by_provider, of_bundle, of_files, only
from mvp_deploy.benchmark.cold import cold, of_ends
from mvp_deploy.benchmark.measure import Settings
from mvp_deploy.benchmark.runner import logits, open_runner, runtime_of

QUICK = Settings(duration=0.1, processes=2, window=0.01, warm_up=0.01)


def run(candidates, batches=(1,), device="cpu") -> compare.Benchmark:
    return compare.benchmark(candidates, batches, QUICK, threads=1, device=device, reporter=Silent())


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_logits_do_not_depend_on_the_batch_size(tmp_path: Path, batch_size: int) -> None:
    runner = open_runner(make_onnx(tmp_path / "a.onnx"), threads=1)
    images = np.random.default_rng(0).standard_normal((7, *runner.image_shape), np.float32)
    np.testing.assert_allclose(logits(runner, images, batch_size), logits(runner, images, 7), rtol=1e-4, atol=1e-5)


def test_a_bundle_is_timed_against_its_unpruned_model(tmp_path: Path) -> None:
    read = bundle.read(make_bundle(tmp_path / "b"))
    result = run(of_bundle(read), batches=(1, 4))
    assert [(row.model, row.batch) for row in result.rows] == [
        ("unpruned", 1), ("pruned", 1), ("unpruned", 4), ("pruned", 4),
    ]  # fmt: skip
    for row in result.rows:
        assert row.timing is not None
        assert row.parity is not None
        assert row.parity < 1e-5
        assert row.agreement == 1
        assert row.size == (read.path / f"models/{row.model}.fp32.onnx").stat().st_size
        assert (row.speed_up is None) == (row.model == "unpruned")
        assert row.details["threads"] == "1"
    assert result.failure() is None


def test_the_pruned_model_stands_beside_the_unpruned_one_of_its_target_and_precision(tmp_path: Path) -> None:
    read = bundle.read(make_bundle(tmp_path / "b"))
    other = tuple(replace(file, target="openvino") for file in read.models)
    found = of_bundle(replace(read, models=(other[1], *read.models, other[0])))
    assert [(each.model, each.baseline) for each in found] == [
        ("unpruned", 0), ("pruned", 0), ("unpruned", 2), ("pruned", 2),
    ]  # fmt: skip


def test_each_provider_has_its_own_baseline(tmp_path: Path) -> None:
    read = bundle.read(make_bundle(tmp_path / "b"))
    found = by_provider(of_bundle(read), ["cpu", "tensorrt"], "cuda:1")
    assert [(each.model, each.device, each.baseline) for each in found] == [
        ("unpruned", "cpu", 0), ("unpruned", "tensorrt:1", 1), ("pruned", "cpu", 0), ("pruned", "tensorrt:1", 1),
    ]  # fmt: skip


def test_baselines_are_found_again_among_those_that_are_left(tmp_path: Path) -> None:
    files = [make_onnx(tmp_path / f"{name}.onnx") for name in "abc"]
    first, second, third = of_files(files)
    spread = [replace(first, precision="fp32"), replace(second, precision="int8")]
    spread.append(replace(third, precision="int8", baseline=1))
    assert [(each.path.stem, each.baseline) for each in only(spread, [], ["int8"])] == [("b", 0), ("c", 0)]


def test_a_model_without_parity_is_not_timed_and_the_failure_has_its_code(tmp_path: Path) -> None:
    result = run(of_bundle(bundle.read(make_bundle(tmp_path / "b", spoil=True))))
    good, bad = result.rows
    assert good.timing is not None
    assert bad.timing is None
    assert bad.speed_up is None
    failure = result.failure()
    assert failure is not None
    assert failure.code == ExitCode.PARITY
    assert "1 of 2 rows" in str(failure)


def test_a_file_that_cannot_be_loaded_is_a_row_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    result = run(of_files([make_onnx(tmp_path / "good.onnx"), tmp_path / "broken.onnx"]))
    good, broken = result.rows
    assert good.timing is not None
    assert broken.error is not None
    assert "broken.onnx" in broken.error
    assert result.failure() is not None


def test_a_failed_baseline_leaves_others_timed_without_a_speed_up(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    _, good = run(of_files([tmp_path / "broken.onnx", make_onnx(tmp_path / "good.onnx")])).rows
    assert good.timing is not None
    assert good.speed_up is None


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    (row,) = run(of_files([make_onnx(tmp_path / "a.onnx", scale=np.inf)])).rows
    assert row.timing is None
    assert row.code == ExitCode.PARITY


def test_a_device_that_is_not_there_is_an_error_never_a_fall_back(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(MvpError, match="onnxruntime-gpu") as caught:
        open_runner(make_onnx(tmp_path / "a.onnx"), device="cuda")
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_without_a_gpu_any_device_is_the_cpu_whatever_onnxruntime_is_built_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    from mvp_deploy.exporters import cuda

    built_with = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_with)
    monkeypatch.setattr(cuda, "available", lambda: False)
    with closing(open_runner(make_onnx(tmp_path / "a.onnx"), device="auto")) as runner:
        assert runner.name == "onnxruntime CPU"


def test_a_runtime_that_is_not_installed_names_the_cure(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(MvpError, match="not a model file"):
        runtime_of(tmp_path / "a.xyz")
    with pytest.raises(MvpError) as caught:
        open_runner(tmp_path / "a.xyz", "no_such_runtime")
    assert caught.value.code == ExitCode.ENVIRONMENT
    with pytest.raises(MvpError, match="there is no file"):
        open_runner(tmp_path / "b.onnx")


def test_more_weights_take_more_memory(tmp_path: Path) -> None:
    small, large = (
        cold(make_onnx(tmp_path / f"{width}.onnx", width), "onnxruntime", batch_size=1, threads=1, device="cpu")
        for width in (8, 200_000)  # 24 MB of weights
    )
    assert small is not None
    assert large is not None
    assert min(small.load_ms, small.first_ms) > 0
    if small.memory is None or large.memory is None:
        pytest.skip("this system does not tell a process's memory")
    assert large.memory - small.memory > 20e6
    assert large.peak > large.memory


def test_a_sustained_run_compares_its_first_tenth_with_its_last() -> None:
    slower = np.cumsum(np.concatenate([np.full(100, 0.01), np.full(450, 0.02)]))  # 10 s in all
    found = of_ends(slower, batch_size=4)
    assert found.seconds == pytest.approx(10)
    assert found.first == pytest.approx(400, rel=0.02)
    assert found.last == pytest.approx(200, rel=0.03)


def test_the_environment_names_machine_and_versions() -> None:
    found = environment()
    assert cpu_name()
    assert found["cores"] >= 1  # type: ignore[operator]
    assert {"numpy", "onnxruntime"} <= found["versions"].keys()  # type: ignore[union-attr]


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_work_of_others_is_distinguished_from_ones_own() -> None:
    with other_work() as alone:
        spin(0.5)
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        with other_work() as beside:
            time.sleep(1.0)
    finally:
        child.kill()
        child.wait()
    if not alone:
        pytest.skip("this system does not tell")
    assert alone[0] < cores()
    assert beside[0] > 0.2


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How many cores others keep busy while each look is taken, the last for all that follow."""
    told: list[float] = []

    @contextmanager
    def busy() -> Iterator[list[float]]:
        yield [told.pop(0) if len(told) > 1 else told[0]]

    monkeypatch.setattr(looks, "other_work", busy)
    return told


def test_on_a_busy_machine_the_times_are_not_a_result_and_say_so(
    tmp_path: Path, loads: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.append(float(cores()))
    told: list[str] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "warn", told.append, raising=False)
    candidates = of_files([make_onnx(tmp_path / "a.onnx")])
    found = compare.benchmark(candidates, [1], QUICK, threads=1, device="cpu", reporter=reporter)
    assert found.disturbed
    assert found.environment["others"] == cores()
    assert "Do not use them" in told[0]


def test_looks_that_were_disturbed_are_taken_again(tmp_path: Path, loads: list[float]) -> None:
    loads += [float(cores()), 0.0, float(cores()), 0.0]
    found = run(of_files([make_onnx(tmp_path / "a.onnx")]))
    assert not found.disturbed
    assert found.rows[0].timing is not None
    assert len(found.rows[0].timing.windows) == QUICK.processes


def test_models_are_timed_in_fresh_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []

    def really_apart(function, *arguments):
        called.append(apart(os.getpid))
        return apart(function, *arguments)

    monkeypatch.setattr(looks, "apart", really_apart)
    (row,) = run(of_files([make_onnx(tmp_path / "a.onnx")])).rows
    assert row.timing is not None
    assert len(called) >= QUICK.processes  # more where other work disturbed some
    assert len({os.getpid(), *called}) == 1 + len(called)


def test_a_process_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*call: object) -> None:
        raise ChildProcessError("the process ended before its work was done")

    monkeypatch.setattr(looks, "apart", killed)
    with pytest.raises(MvpError, match="timing failed"):
        run(of_files([make_onnx(tmp_path / "a.onnx")]))


def test_another_package_adds_a_runtime_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    entry = EntryPoint("theirs", "mvp_deploy.benchmark.onnxruntime", runner.GROUP)
    monkeypatch.setattr(runner, "entry_points", lambda **of: EntryPoints([entry]).select(**of))
    file = make_onnx(tmp_path / "a.onnx").rename(tmp_path / "a.theirs")
    (row,) = run(of_files([file])).rows
    assert row.timing is not None
