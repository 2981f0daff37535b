"""Everything that only a GPU can show, in one run of under ten minutes; writes gpu.json with machine and versions.

    python benchmarks/gpu/everything.py cifar100_200x50.npz --out gpu [--tensorrt trt/env]

The tests marked gpu; Meta-Vote Pruning under CUDA (a backbone pretrained on half of the classes, a bank, a new task);
ONNX in fp32, fp16 and int8 of the pruned and the unpruned model; both timed in PyTorch and by ONNX Runtime's CUDA
provider; engines of both, their agreement with ONNX Runtime, and their latency.

Needs torch, timm, onnx, onnxscript, onnxruntime, safetensors, filelock, pillow and click, and pytest for the tests;
this project itself need not be installed. TensorRT may have a Python of its own, which has numpy, click and tensorrt:
--tensorrt names a shell file that sets its environment, after which `python3.10` is it. Engines are then built and
timed there.

gpu.json is written anew after every step. A step that fails does not stop the rest; its error is in the JSON, and the
exit code is 1. Called again with the same --work it goes on where it was, so what the ten minutes did not reach comes
then: engines that are there are kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import numpy as np

from mvp_deploy.base.environment import environment

REPOSITORY = Path(__file__).parents[2]
COMMAND = "from mvp_deploy.cli import main; main()"
LOGITS = Path(__file__).with_name("engine_logits.py")
LIMIT = 570  # seconds for all steps together
FOR_ENGINES = 330  # of them, which the steps before leave to TensorRT: each engine may take a minute
FOR_TIMING = 60  # which building them leaves
PRECISIONS = ("fp16", "int8", "fp32")  # what matters most comes first
BATCHES = "1,8,32"


@dataclass
class Session:
    """The steps taken so far, each with its time and its result or error, kept in ``out``/gpu.json."""

    out: Path
    device: str
    tensorrt: Path | None
    about: dict[str, Any]
    start: float = field(default_factory=time.monotonic)
    steps: list[dict[str, Any]] = field(default_factory=list)
    reserve: float = FOR_ENGINES

    def mvp(self, record: dict[str, Any], name: str, *arguments: object, on_engine: bool = False) -> None:
        """Keep what `mvp-deploy ARGUMENTS --json` prints, also where it fails, run by the Python it is for."""
        done = self.run("-c", COMMAND, *map(str, arguments), "--json", on_engine=on_engine)
        if done.stdout.strip():
            record[name] = json.loads(done.stdout)
        _succeeded(done)

    def run(self, *arguments: str, on_engine: bool = False) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        if on_engine and self.tensorrt is not None:
            command = ["bash", "-c", 'source "$0" && exec python3.10 "$@"', str(self.tensorrt), *arguments]
        left = LIMIT - self.reserve - (time.monotonic() - self.start)
        if left < 1:
            raise RuntimeError(f"not begun: the other steps took their share of the {LIMIT} s")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=left, check=False, cwd=REPOSITORY
        )

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """A step whose findings go into the dictionary it gives; an error is kept and ends only the step."""
        record: dict[str, Any] = {"step": name}
        began = time.monotonic()
        print(f"{began - self.start:6.1f} s  {name}", flush=True)
        try:
            yield record
        except Exception as error:  # whatever a step meets belongs into the record
            record["error"] = f"{type(error).__name__}: {error}"
            print(f"          failed: {record['error']}", flush=True)
        record["seconds"] = round(time.monotonic() - began, 1)
        self.steps.append(record)
        whole = {**self.about, "seconds": round(time.monotonic() - self.start, 1), "steps": self.steps}
        (self.out / "gpu.json").write_text(json.dumps(whole, indent=1, default=str) + "\n")


def _succeeded(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stderr.strip() or done.stdout.strip())[-2000:]}")


@click.command()
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", envvar="OUT", default="gpu", show_default="$OUT or gpu", type=click.Path(path_type=Path))
@click.option("--work", default="build/gpu", show_default=True, type=click.Path(path_type=Path), help="For all files.")
@click.option("--tensorrt", type=click.Path(exists=True, path_type=Path), help="Shell file to source for python3.10.")
@click.option("--backbone", default="resnet18", show_default=True)
@click.option("--image-size", default=128, show_default=True)
@click.option("--device", default="cuda", show_default=True, help="cpu leaves out what needs a GPU, to try the script.")
@click.option("--classes", default=5, show_default=True, help="Of each task.")
@click.option("--tasks", default=6, show_default=True, help="In the bank.")
@click.option("--steps", default=200, show_default=True, help="Of each fine-tuning; pretraining takes five times it.")
@click.option("--opset", default=17, show_default=True, help="Newest that the TensorRT here reads.")
@click.option("--duration", default=3.0, show_default=True, help="Seconds to time each model, at most.")
def main(
    data: Path,
    out: Path,
    work: Path,
    tensorrt: Path | None,
    backbone: str,
    image_size: int,
    device: str,
    classes: int,
    tasks: int,
    steps: int,
    opset: int,
    duration: float,
) -> None:
    data, out, work = data.resolve(), out.resolve(), work.resolve()
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**environment(), "gpu": _gpu()},
        "arguments": {"data": data.name, "backbone": backbone, "image_size": image_size, "steps": steps},
    }
    session = Session(out, device, tensorrt.resolve() if tensorrt else None, about)
    pretext, *chosen = _tasks(data, classes, tasks)
    bank, run, bundle, weights = (work / name for name in ("bank", "run", "bundle", "weights.safetensors"))
    on_device, timing = ["--device", device], ["--batch", BATCHES, "--duration", duration]

    with session.step("tests marked gpu") as record:
        done = session.run("-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider")
        record["end"] = done.stdout[-1500:]
        _succeeded(done)
    with session.step("pretrain") as record:
        if not weights.is_file():
            record["accuracy"] = _pretrain(backbone, image_size, pretext, weights, device, 5 * steps)
    with session.step("bank") as record:
        if not (bank / "bank.json").is_file():
            given = ["--backbone", backbone, "--weights", weights, "--image-size", image_size]
            session.mvp(record, "init", "bank", "init", bank, *given)
        training = ["--keep", 0.3, "--steps", steps, "--round-steps", steps // 2, "--flip", *on_device]
        missing = [
            task for task in chosen[:-1] if session.run("-c", COMMAND, "bank", "show", str(bank), task).returncode
        ]
        if missing:
            session.mvp(record, "add", "bank", "add", bank, *missing, *training)
    with session.step("prune") as record:
        training = ["--keep", 0.3, "--steps", steps, "--flip", *on_device]
        session.mvp(record, "run", "prune", chosen[-1], "--bank", bank, "--out", run, *training)
    with session.step("export") as record:
        asked = ["--precision", "fp32,fp16,int8", "--target", "onnx", "--target", "tensorrt", "--opset", opset]
        asked += ["--max-drop", 5, "--measure", ""]  # what int8 loses is in the record; engines are to be built anyway
        session.mvp(record, "bundle", "export", run, "--out", bundle, *asked, *on_device)
    with session.step("latency in PyTorch") as record:
        brief = ["--batch", "1,32", "--duration", duration]
        session.mvp(record, "benchmark", "bench", run, *brief, *on_device)
    with session.step("latency by ONNX Runtime") as record:
        files = ["--runtime", "onnxruntime", "--precision", "fp32,fp16", "--provider", device.partition(":")[0]]
        session.mvp(record, "benchmark", "bench", bundle, *files, *timing)
    if device != "cpu":
        _engines(session, bundle, timing)
    failed = [step["step"] for step in session.steps if "error" in step]
    print(f"done: {out / 'gpu.json'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


def _engines(session: Session, bundle: Path, timing: list[Any]) -> None:
    session.reserve = FOR_TIMING
    for precision in PRECISIONS:
        with session.step(f"{precision} engines") as record:
            asked = ["--precision", precision, "--batch", "1", "--batch", "1:8:32", "--device", session.device]
            session.mvp(record, "built", "build", bundle, *asked, on_engine=True)
            record["from_onnx_runtime"] = _agreement(session, bundle, precision)
    session.reserve = 0
    with session.step("latency of engines") as record:
        chosen = ["--runtime", "tensorrt", "--device", session.device]
        session.mvp(record, "benchmark", "bench", bundle, *chosen, *timing, on_engine=True)


def _agreement(session: Session, bundle: Path, precision: str) -> dict[str, float]:
    """Largest difference between an engine's logits and its ONNX file's in ONNX Runtime, by the largest of them."""
    from mvp_deploy.benchmark.runner import logits, open_runner
    from mvp_deploy.bundle import read

    whole = read(bundle)
    images, found = whole.samples["images"], bundle.with_name(f"{precision}.npz")
    _succeeded(session.run(str(LOGITS), str(bundle), precision, str(found), on_engine=True))
    files = {
        file.model: file.file
        for file in whole.models
        if file.precision == precision and file.target == "tensorrt" and file.file.endswith(".onnx")
    }
    with np.load(found) as got:
        wanted = {
            model: logits(open_runner(bundle / files[model], "onnxruntime"), images, len(images)) for model in got.files
        }
        return {
            model: float(np.abs(got[model] - wanted[model]).max() / np.abs(wanted[model]).max()) for model in wanted
        }


def _tasks(data: Path, classes: int, tasks: int) -> list[str]:
    """The pretext task (half of the classes), the bank's tasks and the new one, of classes that no two share."""
    with np.load(data) as arrays:
        names = arrays["classes"].tolist() if "classes" in arrays.files else sorted(set(arrays["y_train"].tolist()))
    half = len(names) // 2
    groups = [names[:half], *(names[half + i * classes : half + (i + 1) * classes] for i in range(tasks + 1))]
    if len(groups[-1]) < classes:
        raise click.UsageError(f"{data.name} has {len(names)} classes: too few for {tasks + 1} tasks of {classes}")
    return [f"{data}#{','.join(map(str, group))}" for group in groups]


def _pretrain(name: str, image_size: int, task_name: str, out: Path, device: str, steps: int) -> float:
    from dataclasses import replace

    from safetensors.torch import save_file

    from mvp_deploy import backbones
    from mvp_deploy.base.devices import resolve
    from mvp_deploy.pruning.original import suited
    from mvp_deploy.tasks import load_task, prepare
    from mvp_deploy.training import accuracy, fit

    recipe, state = backbones.create(name, image_size=image_size)
    task = load_task(task_name)
    model = backbones.build(recipe, state, len(task.classes))
    train, test = (prepare(part, recipe.preprocessing, resolve(device)) for part in (task.train, task.test))
    fit(model, train, replace(suited(recipe), steps=steps, batch_size=256, schedule="onecycle", flip=True))
    weights = {key: value.cpu().contiguous() for key, value in model.state_dict().items() if key in state}
    save_file(weights, out)
    return accuracy(model, test)


def _gpu() -> dict[str, Any] | str:
    from mvp_deploy.exporters import cuda
    from mvp_deploy.exporters.errors import MvpError

    try:
        return asdict(cuda.select())
    except MvpError as error:
        return str(error)


if __name__ == "__main__":
    main()
