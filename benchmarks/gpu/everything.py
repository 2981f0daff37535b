"""Everything that only a GPU can show, in calls of under ten minutes; writes gpu.json with machine and versions.

    python benchmarks/gpu/prepare.py caltech101_160.tar --out kit                     # on a CPU, before
    PYTHONPATH=. python benchmarks/gpu/everything.py kit --out gpu --tensorrt trt/env

or, in a quarter of an hour, with steps beside each other where none of them times anything: chains.sh.

In the order of what matters most: the tests marked gpu; engines in every precision of bundles that were made on a CPU,
what they compute, how fast they are, and damaged ones; the job at its real size (prune, export, time) on the GPU and on
the CPU; profiles and plans under a budget of time; a transformer with heads cut. --only takes steps by name.

Allow for TensorRT: an engine of lite2 took 23 to 68 s to build at --level 1 on an H200, and more at the default level.

Needs what the extra `train` names, and pytest for the tests; this project itself need not be installed. TensorRT may
have a Python of its own, which has numpy, click and tensorrt: --tensorrt names a shell file that sets its environment,
after which `python3.10` is it. Engines are then built and timed there.

A step that fails does not stop the rest; its error is in the JSON, and the exit code is 1. Called again with the same
--out and --work, steps that ended well are not taken again. `--device cpu` tries the script: what needs a GPU is named
as skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import numpy as np
from session import Session, Skipped

from mvp_deploy.base.environment import environment

LOGITS = Path(__file__).with_name("engine_logits.py")
PRECISIONS = ("fp16", "int8", "fp32")  # what matters most comes first
BATCHES = "1,8,32"
TENSORRT = ["--target", "tensorrt", "--opset", 17, "--max-drop", "5%", "--measure", ""]
JOBS = {  # backbone, image size, weights in the kit, share of the MACs
    "lite2": ("tf_efficientnet_lite2", 128, "lite2.safetensors", 0.45),
    "resnet50": ("resnet50", 224, None, 0.45),
    "vit_small": ("vit_small_patch16_224", 224, None, 0.5),
}


@click.command()
@click.argument("kit", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", envvar="OUT", default="gpu", show_default="$OUT or gpu", type=click.Path(path_type=Path))
@click.option("--work", default="build/gpu", show_default=True, type=click.Path(path_type=Path), help="For all files.")
@click.option("--tensorrt", type=click.Path(exists=True, path_type=Path), help="Shell file to source for python3.10.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Only steps of such names, as «lite2: fp16*».")
@click.option("--device", default="cuda", show_default=True, help="cpu skips what needs a GPU, to try the script.")
@click.option("--steps", default=100, show_default=True, help="Of each fine-tuning.")
@click.option("--duration", default=1.0, show_default=True, help="Seconds to time each model and batch size, at most.")
@click.option("--level", default=1, show_default=True, help="How long TensorRT looks for fast kernels, 0 to 5.")
@click.option("--limit", default=570.0, show_default=True, help="Seconds for this call.")
def main(
    kit: Path,
    out: Path,
    work: Path,
    tensorrt: Path | None,
    only: tuple[str, ...],
    device: str,
    steps: int,
    duration: float,
    level: int,
    limit: float,
) -> None:
    kit, out, work = kit.resolve(), out.resolve(), work.resolve()
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**environment(), "gpu": _gpu()},
        "arguments": {"steps": steps, "duration": duration, "level": level},
    }
    session = Session(out / "gpu.json", device, tensorrt.resolve() if tensorrt else None, only, limit, about)
    timing = ["--batch", BATCHES, "--duration", duration]
    tests(session, out)
    job(session, "lite2", kit, work, steps, timing)
    engines(session, "lite2", kit / "bundle", level, timing)
    job(session, "resnet50", kit, work, steps, timing)
    engines(session, "resnet50", work / "resnet50" / "bundle", level, timing)
    heads(session, kit, work, level, timing)
    profiles(session, kit, out, work, steps, timing)
    print(f"done: {session.file}" + (f"; failed: {', '.join(session.failed)}" if session.failed else ""))
    sys.exit(1 if session.failed else 0)


def tests(session: Session, out: Path) -> None:
    """One line for each test as it ends, so that a run that is cut off has told what it found.

    Those of engines run where TensorRT is, which may lack what tests/conftest.py imports.
    """
    pytest = ["-m", "pytest", "-m", "gpu", "-o", "addopts=", "-v", "-rfEs", "--tb=short", "-p", "no:cacheprovider"]
    together = ["tests/gpu", "-n", "8", "--dist", "worksteal"]
    alone = ["tests/gpu/test_gpu_engines.py", "--noconftest", "-o", "pythonpath=tests"]
    for name, command, engines in (
        ("tests marked gpu", together, False),
        ("tests of engines, by the Python that has TensorRT", alone, True),
    ):
        with session.step(name) as found:
            if found is None:
                continue
            if engines:
                _wants_gpu(session)
            log = out / f"{'engines' if engines else 'tests'}.log"
            try:
                code = session.run(*pytest, *command, engines=engines, log=log).returncode
            finally:
                lines = log.read_text(encoding="utf-8").splitlines()
                found["results"] = [line for line in lines if re.search("PASSED|FAILED|ERROR|SKIPPED", line)]
            if code:
                raise RuntimeError(f"pytest ended with {code}: {log}")


def job(session: Session, name: str, kit: Path, work: Path, steps: int, timing: list[Any]) -> None:
    """Prune, export and time one backbone; with real weights also on the CPU, whose seconds are put beside."""
    weights, run, bundle = JOBS[name][2], work / name / "run", work / name / "bundle"
    with session.step(f"{name}: prune") as found:
        if found is not None:
            found |= prune(session, name, kit, run, "--steps", steps, "--device", session.device)
    with session.step(f"{name}: export") as found:
        if found is not None:
            asked = ["--precision", "fp32,fp16,int8", "--target", "onnx", *TENSORRT, "--device", session.device]
            found["bundle"] = session.mvp("export", run, "--out", bundle, *asked)
    with session.step(f"{name}: latency in PyTorch") as found:
        if found is not None:
            found["benchmark"] = session.mvp("bench", run, *timing, "--device", session.device)
    with session.step(f"{name}: latency by ONNX Runtime's CUDA provider") as found:
        if found is not None:
            _wants_provider(session)
            files = ["--runtime", "onnxruntime", "--precision", "fp32,fp16", "--provider", "cuda"]
            found["benchmark"] = session.mvp("bench", bundle, *files, *timing)
    if weights and session.gpu:
        with session.step(f"{name}: prune on the CPU") as found:
            if found is not None:
                found |= prune(session, name, kit, work / name / "cpu", "--steps", steps, "--device", "cpu")


def prune(session: Session, name: str, kit: Path, out: Path, *more: object) -> Any:
    backbone, size, weights, macs = JOBS[name]
    given = ["--weights", kit / weights] if weights else []
    budget = [] if "--speed-up" in more else ["--macs", macs]
    which = ["--backbone", backbone, "--image-size", size, *given, *budget]
    return session.sampled("prune", kit / "photographs", *which, "--flip", "--out", out, *more)


def engines(session: Session, name: str, bundle: Path, level: int, timing: list[Any]) -> None:
    for precision in PRECISIONS:
        with session.step(f"{name}: {precision} engines") as found:
            if found is not None:
                _wants_gpu(session)
                asked = ["--precision", precision, "--batch", "1:8:32", "--level", level, "--device", session.device]
                found["built"] = session.mvp("build", bundle, *asked, engines=True)
                found["from_onnx_runtime"] = _agreement(session, bundle, precision)
    with session.step(f"{name}: latency of engines") as found:
        if found is not None:
            _wants_gpu(session)
            chosen = ["--runtime", "tensorrt", "--device", session.device]
            found["benchmark"] = session.mvp("bench", bundle, *chosen, *timing, engines=True)
    with session.step(f"{name}: engines that are damaged or foreign") as found:
        if found is not None:
            _wants_gpu(session)
            found |= _refusals(session, bundle)


def _refusals(session: Session, bundle: Path) -> dict[str, Any]:
    """What `bench` says of an engine cut short, one with a changed byte, and one described as of another GPU."""
    [first, *_] = sorted((bundle / "built").glob("*/*.engine"))
    plan, told = first.read_bytes(), first.with_name(f"{first.name}.json")
    half = len(plan) // 2
    changed: dict[str, dict[Path, bytes | None]] = {
        "cut short": {first: plan[:half]},
        "a byte changed": {first: plan[:half] + bytes([plan[half] ^ 1]) + plan[half + 1 :]},
    }
    if told.is_file():
        words = told.read_text()
        other = json.loads(words)
        changed["without its description"] = {told: None}
        changed["of another GPU"] = {told: json.dumps(_renamed(other)).encode()}
    found = {}
    for name, files in changed.items():
        with_copy = bundle.with_name(f"{bundle.name}-changed")
        shutil.copytree(bundle, with_copy)
        for file, content in files.items():
            there = with_copy / file.relative_to(bundle)
            there.unlink() if content is None else there.write_bytes(content)
        brief = ["--runtime", "tensorrt", "--batch", "1", "--duration", 0.2, "--device", session.device]
        found[name] = session.mvp("bench", with_copy, *brief, engines=True, expected=None)
        shutil.rmtree(with_copy)
    return found


def _renamed(told: Any) -> Any:
    """A description with its GPU's name changed."""
    gpu = told["identity"]["gpu"] | {"name": "NVIDIA Other"}
    return told | {"identity": told["identity"] | {"gpu": gpu}}


def profiles(session: Session, kit: Path, out: Path, work: Path, steps: int, timing: list[Any]) -> None:
    """Profile lite2, foresee what was left out of the fit, prune for twice the speed, and time what came of it."""
    backbone, size, *_ = JOBS["lite2"]
    engine = out / "lite2.tensorrt.fp16.json"
    with session.step("profile: TensorRT, fp16") as found:
        if found is not None:
            _wants_gpu(session)
            asked = ["--runtime", "tensorrt", "--precision", "fp16", "--device", session.device, "--out", engine]
            found["profile"] = session.mvp("profile", kit / "pieces.zip", *asked, engines=True)
            found["held_out"] = _foreseen(session, engine)
    run, bundle = work / "faster" / "run", work / "faster" / "bundle"
    with session.step("profile: prune for twice the speed") as found:
        if found is not None:
            _wants_gpu(session)
            asked = ["--speed-up", "2x", "--on", engine, "--steps", steps, "--device", session.device]
            found |= prune(session, "lite2", kit, run, *asked)
            exported = ["--precision", "fp32", *TENSORRT, "--device", session.device]
            session.mvp("export", run, "--out", bundle, *exported)
    with session.step("profile: latency of what it foretold") as found:
        if found is not None:
            _wants_gpu(session)
            asked = ["--precision", "fp16", "--batch", "1", "--device", session.device]
            found["built"] = session.mvp("build", bundle, *asked, engines=True)
            chosen = ["--runtime", "tensorrt", "--batch", "1", *timing[2:], "--device", session.device]
            found["benchmark"] = session.mvp("bench", bundle, *chosen, engines=True)
    cuda = out / "lite2.cuda.fp32.json"
    with session.step("profile: ONNX Runtime's CUDA provider") as found:
        if found is not None:
            _wants_provider(session)
            asked = ["--image-size", size, "--device", session.device, "--variants", 6, "--out", cuda]
            found["profile"] = session.mvp("profile", backbone, *asked)
            found["held_out"] = _foreseen(session, cuda)


def _foreseen(session: Session, profile: Path) -> Any:
    """Each of a profile's variants, predicted from the others."""
    file = profile.with_suffix(".held-out.json")
    done = session.run("benchmarks/latency/held_out.py", str(profile), "--out", str(file))
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(file.read_text())


def heads(session: Session, kit: Path, work: Path, level: int, timing: list[Any]) -> None:
    """A transformer with heads cut: does an engine gain what its multiply-accumulates lose?"""
    run, bundle = work / "vit_small" / "run", work / "vit_small" / "bundle"
    with session.step("vit_small: prune") as found:
        if found is not None:
            found |= prune(session, "vit_small", kit, run, "--steps", 0, "--device", session.device)
    with session.step("vit_small: export") as found:
        if found is not None:
            asked = ["--precision", "fp32,fp16", *TENSORRT, "--device", session.device]
            found["bundle"] = session.mvp("export", run, "--out", bundle, *asked)
    with session.step("vit_small: fp16 engines") as found:
        if found is not None:
            _wants_gpu(session)
            asked = ["--precision", "fp16", "--batch", "1:8:32", "--level", level, "--device", session.device]
            found["built"] = session.mvp("build", bundle, *asked, engines=True)
            found["from_onnx_runtime"] = _agreement(session, bundle, "fp16")
    with session.step("vit_small: latency of engines") as found:
        if found is not None:
            _wants_gpu(session)
            chosen = ["--runtime", "tensorrt", "--precision", "fp16", "--device", session.device]
            found["benchmark"] = session.mvp("bench", bundle, *chosen, *timing, engines=True)


def _agreement(session: Session, bundle: Path, precision: str) -> dict[str, float]:
    """Largest difference between an engine's logits and its ONNX file's in ONNX Runtime, by the largest of them.

    An engine in fp16 is compared with the float32 file: before TensorRT 10.12 it is built from that.
    """
    from mvp_deploy.benchmark.runner import logits, open_runner
    from mvp_deploy.bundle import read

    whole = read(bundle)
    images, found = whole.samples["images"], bundle.with_name(f"{bundle.name}.{precision}.npz")
    done = session.run(str(LOGITS), str(bundle), precision, str(found), engines=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    files = {
        file.model: file.file
        for file in whole.models
        if file.precision == ("fp32" if precision == "fp16" else precision)
        and file.target == "tensorrt"
        and file.file.endswith(".onnx")
    }
    with np.load(found) as got:
        wanted = {
            model: logits(open_runner(bundle / files[model], "onnxruntime"), images, len(images)) for model in got.files
        }
        return {
            model: float(np.abs(got[model] - wanted[model]).max() / np.abs(wanted[model]).max()) for model in wanted
        }


def _wants_gpu(session: Session) -> None:
    if not session.gpu:
        raise Skipped("needs a GPU and TensorRT")


def _wants_provider(session: Session) -> None:
    import onnxruntime

    if not session.gpu or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise Skipped("needs a GPU and onnxruntime-gpu")


def _gpu() -> dict[str, Any] | str:
    from mvp_deploy.exporters import cuda
    from mvp_deploy.exporters.errors import MvpError

    try:
        return asdict(cuda.select())
    except MvpError as error:
        return str(error)


if __name__ == "__main__":
    main()
