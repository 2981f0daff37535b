"""What runs on a device runs with the base install alone: no torch, timm, onnx, nor anything optional.

The commands run in a fresh interpreter that refuses every other package; TensorRT and its GPU are stand-ins. Set
DEVICE_PYTHON to try another interpreter, with `pip install .` in it:

    DEVICE_PYTHON=venv310/bin/python pytest tests/mvp_deploy/cli/test_on_device.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from fakes.bundle import tiny_bundle
from fakes.profiles import tiny_pieces
from PIL import Image

TESTS = Path(__file__).parents[2]
PYTHON = os.environ.get("DEVICE_PYTHON", sys.executable)
HAS = {"click", "numpy", "onnxruntime"}  # onnxruntime: also what the stand-in engines run on
OWN = {"mvp_deploy", "fakes"}
PATHS = [str(TESTS), *([] if "DEVICE_PYTHON" in os.environ else [str(TESTS.parent)])]
DEVICE = f"""
import sys
also = set(sys.argv.pop(1).split())
class OnDevice:
    @staticmethod
    def find_spec(name, *_):
        if name.split(".")[0] not in sys.stdlib_module_names | {HAS | OWN} | also:
            raise ModuleNotFoundError(f"a device has no {{name}}", name=name)
sys.meta_path.insert(0, OnDevice)
sys.path[:0] = {PATHS}
from fakes.tensorrt import install
install("8.6.0")
import os
from dataclasses import replace
vars(os).pop("sched_getaffinity", None)  # a system that does not tell what else runs: tests run beside other work
from mvp_deploy.benchmark import looks, measure
looks.apart = lambda function, *arguments: function(*arguments)  # the stand-ins are in this process alone
def soon(runners, batch, settings, **named):  # no real times are asked for
    return measure.session(runners, batch, replace(settings, window=0.005, warm_up=0.005), **named)
looks.session = soon
"""
MAIN = "from mvp_deploy.cli import main; main(sys.argv[1:])"


def on_device(*arguments: str, home: Path, also: str = "", code: str = MAIN) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    call = [PYTHON, "-c", DEVICE + code, also, *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False, env=environment, cwd=home)


def test_build_verify_and_bench_run_there(tmp_path: Path) -> None:
    path = str(tiny_bundle(tmp_path / "b", ["fp32", "int8"]))
    built = on_device("build", path, "--precision", "fp16,int8", "--json", home=tmp_path, also="filelock")
    assert built.returncode == 0, built.stderr
    assert [engine["error"] for engine in json.loads(built.stdout)["engines"]] == [None] * 4
    whole = on_device("verify", path, home=tmp_path)
    assert whole.returncode == 0, whole.stderr
    engines = [str(engine) for engine in sorted(Path(path).rglob("*.engine"), reverse=True)]
    timed = on_device("bench", *engines, "--batch", "1,8", "--duration", "0.1", "--json", home=tmp_path)
    assert timed.returncode == 0, timed.stderr
    rows = json.loads(timed.stdout)["rows"]
    assert len(rows) == 8
    assert all(row["timing"]["parts"]["compute"] > 0 for row in rows)
    together = on_device("bench", path, "--duration", "0.1", "--json", home=tmp_path)
    assert together.returncode == 0, together.stderr
    named = [(row["model"], row["precision"], row["runtime"]) for row in json.loads(together.stdout)["rows"]]
    assert ("pruned", "fp32", "onnxruntime CPU") in named
    assert ("pruned", "int8", "tensorrt CUDA") in named


def test_a_profile_is_timed_there_from_pieces(tmp_path: Path) -> None:
    pieces = tiny_pieces(tmp_path / "pieces")
    timed = on_device("profile", str(pieces), "--out", "board.json", "--json", home=tmp_path, also="filelock")
    assert timed.returncode == 0, timed.stderr
    assert json.loads(timed.stdout)["full_ms"] > 0
    assert len(json.loads((tmp_path / "board.json").read_text(encoding="utf-8"))["kernels"]) == 2


def test_tensorrt_is_profiled_there_with_numpy_and_click_alone(tmp_path: Path) -> None:
    pieces = tiny_pieces(tmp_path / "pieces", "engine")
    call = ["profile", str(pieces), "--runtime", "tensorrt", "--out", "orin.json", "--json"]
    timed = on_device(*call, home=tmp_path)
    assert timed.returncode == 0, timed.stderr
    found = json.loads((tmp_path / "orin.json").read_text(encoding="utf-8"))
    assert found["machine"]["gpu"] == "Orin, 16 multiprocessors"
    assert found["conditions"]["device"] == "cuda"
    assert {path.name for path in tmp_path.iterdir()} >= {"orin.json", "mvp-deploy"}  # the timing cache is kept
    assert not (tmp_path / "orin.json.parts").exists()  # engines and all


def test_predict_and_evaluate_need_pillow_besides(tmp_path: Path) -> None:
    path = str(tiny_bundle(tmp_path / "b", ["fp32"]))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "task.npz", images=pixels, labels=np.arange(8) % 4, classes=np.array(list("abcd")))
    Image.fromarray(pixels[0]).save(tmp_path / "photo.png")
    seen = on_device("predict", path, str(tmp_path / "photo.png"), home=tmp_path, also="PIL")
    assert seen.returncode == 0, seen.stderr
    judged = on_device("evaluate", path, str(tmp_path / "task.npz"), "--json", home=tmp_path, also="PIL")
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)["images"] == 4


@pytest.mark.parametrize("command", ["build", "bench", "verify", "predict", "evaluate"])
def test_their_help_needs_nothing_more(tmp_path: Path, command: str) -> None:
    assert on_device(command, "--help", home=tmp_path).returncode == 0


def test_check_needs_onnx_and_says_so(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "b", ["fp32"])
    done = on_device("check", str(path / "models" / "pruned.fp32.onnx"), home=tmp_path)
    assert done.returncode == 6
    assert "onnx" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["demo"], ["structure", "resnet18"]])
def test_what_needs_torch_says_which_line_installs_it(tmp_path: Path, command: list[str]) -> None:
    done = on_device(*command, home=tmp_path, also="filelock PIL")
    assert done.returncode == 6
    assert done.stderr == "Error: this needs torch, which is not installed: pip install 'mvp-deploy[train]'\n"


def test_every_module_is_imported_or_lacks_a_package_that_only_training_needs(tmp_path: Path) -> None:
    code = """
    import pkgutil, mvp_deploy
    for module in pkgutil.walk_packages(mvp_deploy.__path__, "mvp_deploy."):
        try:
            __import__(module.name)
        except ModuleNotFoundError as error:
            print(error.name)
    """
    done = on_device(code=textwrap.dedent(code), home=tmp_path, also="filelock PIL")
    assert done.returncode == 0, done.stderr
    lacking = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in lacking
    runtimes = {"MNN", "ai_edge_litert", "executorch", "ncnn", "onnx", "openvino"}
    assert lacking <= runtimes | {"jinja2", "pydantic", "torch", "yaml"}
