"""Everything that only a GPU can show, in one run of under ten minutes; writes gpu.json with machine and versions.

    python benchmarks/gpu/everything.py cifar100_200x50.npz --out gpu [--tensorrt trt/env]

Meta-Vote Pruning under CUDA (a backbone pretrained on half of the classes, a bank, a new task), ONNX in fp32, fp16 and
int8 of the pruned and the unpruned model, engines of both, their agreement with ONNX Runtime, and their latency.

TensorRT may have a Python of its own, which has numpy, click and tensorrt: --tensorrt names a shell file that sets its
environment, after which `python3.10` is it. Engines are then built and timed there. What fails does not stop the rest;
its error is in the JSON, and the exit code is 1.
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

from mvp_deploy.benchmark.environment import environment

REPOSITORY = Path(__file__).parents[2]
COMMAND = "from mvp_deploy.cli import main; main()"
LOGITS = Path(__file__).with_name("engine_logits.py")
LIMIT = 570  # seconds for all steps together
BATCHES = "1,8,32"


@dataclass
class Session:
    """The steps taken so far, each with its time and its result or error."""

    out: Path
    device: str
    tensorrt: Path | None
    start: float = field(default_factory=time.monotonic)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def mvp(self, *arguments: object, on_engine: bool = False) -> Any:
        """What `mvp-deploy ARGUMENTS --json` prints, run by this Python or by the one that has TensorRT."""
        done = self.python("-c", COMMAND, *map(str, arguments), "--json", on_engine=on_engine)
        return json.loads(done)

    def python(self, *arguments: str, on_engine: bool = False) -> str:
        command = [sys.executable, *arguments]
        if on_engine and self.tensorrt is not None:
            command = ["bash", "-c", 'source "$0" && exec python3.10 "$@"', str(self.tensorrt), *arguments]
        left = LIMIT - (time.monotonic() - self.start)
        if left < 1:
            raise RuntimeError(f"not begun: the other steps took all of the {LIMIT} s")
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=left,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

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


@click.command()
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", default="gpu", show_default=True, type=click.Path(path_type=Path))
@click.option("--tensorrt", type=click.Path(exists=True, path_type=Path), help="Shell file to source for python3.10.")
@click.option("--backbone", default="resnet18", show_default=True)
@click.option("--image-size", default=32, show_default=True)
@click.option("--device", default="cuda", show_default=True, help="cpu leaves the engines out, to try the script.")
@click.option("--classes", default=5, show_default=True, help="Of each task.")
@click.option("--tasks", default=6, show_default=True, help="In the bank.")
@click.option("--steps", default=200, show_default=True, help="Of each fine-tuning; pretraining takes five times it.")
@click.option("--opset", default=17, show_default=True, help="Newest that the TensorRT here reads.")
def main(
    data: Path,
    out: Path,
    tensorrt: Path | None,
    backbone: str,
    image_size: int,
    device: str,
    classes: int,
    tasks: int,
    steps: int,
    opset: int,
) -> None:
    data, out = data.resolve(), out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    session = Session(out, device, tensorrt.resolve() if tensorrt else None)
    pretext, *chosen = _tasks(data, classes, tasks)
    bank, run, bundle = out / "bank", out / "run", out / "bundle"

    with session.step("pretrain") as record:
        record["accuracy"] = _pretrain(backbone, image_size, pretext, out / "weights.safetensors", device, 5 * steps)
    with session.step("bank"):
        weights = ["--weights", out / "weights.safetensors", "--image-size", image_size]
        session.mvp("bank", "init", bank, "--backbone", backbone, *weights)
        training = ["--steps", steps, "--round-steps", steps // 2, "--flip", "--device", device]
        session.mvp("bank", "add", bank, *chosen[:-1], "--keep", 0.3, *training)
    with session.step("prune") as record:
        training = ["--steps", steps, "--flip", "--device", device]
        record["run"] = session.mvp("prune", chosen[-1], "--bank", bank, "--keep", 0.3, "--out", run, *training)
    with session.step("export") as record:
        asked = ["--precision", "fp32,fp16,int8", "--target", "onnx", "--target", "tensorrt", "--opset", opset]
        made = session.mvp("export", run, "--out", bundle, *asked, "--measure", "", "--device", device)
        record["models"] = made["models"]
    if device != "cpu":
        _engines(session, bundle)
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**environment(), "gpu": _gpu()},
        "arguments": {"data": data.name, "backbone": backbone, "image_size": image_size, "steps": steps},
        "seconds": round(time.monotonic() - session.start, 1),
        "steps": session.steps,
    }
    (out / "gpu.json").write_text(json.dumps(result, indent=2, default=str) + "\n")
    failed = [step["step"] for step in session.steps if "error" in step]
    print(
        f"{result['seconds']:6.1f} s  done: {out / 'gpu.json'}" + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    sys.exit(1 if failed else 0)


def _engines(session: Session, bundle: Path) -> None:
    with session.step("engines") as record:
        asked = ["--precision", "fp16,int8", "--batch", "1", "--batch", "1:8:32", "--device", session.device]
        record["built"] = session.mvp("build", bundle, *asked, on_engine=True)["engines"]
    for precision in ("fp16", "int8"):
        engines = [next(bundle.rglob(f"{model}.{precision}.engine"), None) for model in ("unpruned", "pruned")]
        with session.step(f"agreement of {precision} engines with ONNX Runtime") as record:
            record["relative"] = _agreement(session, bundle, precision)
        with session.step(f"latency of {precision} engines") as record:
            timing = ["--batch", BATCHES, "--duration", 5, "--device", session.device]
            record["benchmark"] = session.mvp("bench", *engines, *timing, on_engine=True)


def _agreement(session: Session, bundle: Path, precision: str) -> dict[str, float]:
    """Largest difference between an engine's logits and its ONNX file's in ONNX Runtime, by the largest of them."""
    import onnxruntime

    from mvp_deploy.bundle import read

    whole = read(bundle)
    found = session.out / f"{precision}.npz"
    session.python(str(LOGITS), str(bundle), precision, str(found), on_engine=True)
    images, relative = whole.samples["images"], {}
    with np.load(found) as logits:
        for model in logits.files:
            files = [
                f for f in whole.models if (f.model, f.precision) == (model, precision) and f.file.endswith(".onnx")
            ]
            file = next((f for f in files if f.target == "tensorrt"), files[0])
            inference = onnxruntime.InferenceSession(bundle / file.file, providers=["CPUExecutionProvider"])
            wanted = inference.run(None, {inference.get_inputs()[0].name: images})[0]
            relative[model] = float(np.abs(logits[model] - wanted).max() / np.abs(wanted).max())
    return relative


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
    from mvp_deploy.devices import resolve
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
    from exporters import cuda
    from exporters.errors import DeployError

    try:
        return asdict(cuda.select())
    except DeployError as error:
        return str(error)


if __name__ == "__main__":
    main()
