"""Classify images with this bundle: needs numpy, Pillow and the runtime of one of its models, nothing else.

python example.py [--model models/FILE] IMAGE …
"""

import argparse
import hashlib
import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mvp_deploy.tasks.picture import Unreadable, decode, read

HERE = Path(__file__).parent


def prepare(image: Image.Image, how: dict) -> np.ndarray:
    """From an image to the model's input, float32 [1, 3, H, W]: resize, centre, scale to 0..1, normalise."""
    pixels = fit(image, how).astype(np.float32) / 255
    normalised = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32)


def fit(image: Image.Image, how: dict) -> np.ndarray:
    """The part that keeps bytes: an image resized and centred, uint8 [1, H, W, 3]."""
    _, height, width = how["input_size"]
    goal = (math.floor(width / how["crop_pct"]), math.floor(height / how["crop_pct"]))
    image = Image.fromarray(decode(image).pixels)
    ratios = (image.width / goal[0], image.height / goal[1])
    if how["crop_mode"] == "squash":
        size = goal
    elif how["crop_mode"] == "border" or goal[0] != goal[1]:
        ratio = max(ratios) if how["crop_mode"] == "border" else min(ratios)
        size = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
    else:
        shortest = min(image.size)
        size = (int(goal[0] * image.width / shortest), int(goal[0] * image.height / shortest))
    fill = tuple(round(255 * value) if how["crop_mode"] == "border" else 0 for value in how["mean"])
    canvas = Image.new("RGB", (width, height), fill)
    resized = image.resize(size, Image.Resampling[how["interpolation"].upper()])
    canvas.paste(resized, (offset(width, size[0]), offset(height, size[1])))
    return np.asarray(canvas)[None]


def offset(box: int, edge: int) -> int:
    """Where an edge begins that is centred in the box; negative for one that is longer."""
    return (box - edge) // 2 if edge < box else -round((edge - box) / 2)


def with_onnxruntime(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(["logits"], {name: x})[0]


def with_openvino(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # which sends usage data on import
    import openvino

    # CPUs with bfloat16 would otherwise compute in that
    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: model(x)[0]


def with_executorch(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(file)
    method = program.load_method("forward")
    return lambda x: method.execute([torch.from_numpy(x)])[0].numpy()


def with_litert(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner()
    (name,) = runner.get_input_details()
    return lambda x: next(iter(runner(**{name: x}).values()))


def with_ncnn(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import ncnn

    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False  # as it was checked
    net.load_param(str(file))
    net.load_model(str(file.with_suffix(".bin")))

    def run(x: np.ndarray) -> np.ndarray:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(x[0]).clone())
            return np.array(extractor.extract("out0")[1])[None]

    return run


def with_mnn(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import MNN

    float32 = MNN.expr.PrecisionMode.High  # as it was checked
    model = MNN.nn.load_module_from_file(str(file), ["input"], ["logits"], precision_mode=float32)
    return lambda x: model.forward(MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)).read()


def with_coreml(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import coremltools

    model = coremltools.models.MLModel(str(file))
    return lambda x: model.predict({"images": x})["logits"]


def with_torch(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    model = torch.export.load(file).module()
    return lambda x: model(torch.from_numpy(x)).detach().numpy()


RUNTIMES = {  # by a file's suffix: what opens it, the module which that needs, and what the model takes
    ".uint8.onnx": (with_onnxruntime, "onnxruntime", fit),
    ".onnx": (with_onnxruntime, "onnxruntime", prepare),
    ".xml": (with_openvino, "openvino", prepare),
    ".tflite": (with_litert, "ai_edge_litert.interpreter", prepare),
    ".ncnn.param": (with_ncnn, "ncnn", prepare),
    ".mnn": (with_mnn, "MNN", prepare),
    ".mlpackage": (with_coreml, "coremltools.libcoremlpython", prepare),  # which is there on macOS alone
    ".pte": (with_executorch, "executorch.runtime", prepare),
    ".pt2": (with_torch, "torch", prepare),
}


def suffix_of(file: str) -> str:
    """The suffix by which `RUNTIMES` knows a file; empty if nothing here runs it."""
    return next((suffix for suffix in RUNTIMES if file.endswith(suffix)), "")


def choose() -> str:
    """The first of the bundle's own models that this machine can run; fp32 before reduced precisions."""
    models = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))["models"]
    own = [each for each in models if each["model"] != "unpruned" and suffix_of(each["file"])]
    missing = []
    for each in sorted(own, key=lambda each: ("fp32", "fp16", "int8").index(each["precision"])):
        try:
            importlib.import_module(RUNTIMES[suffix_of(each["file"])][1])
            return each["file"]
        except ImportError as error:
            missing.append(f"{each['file']} ({error})")
    raise SystemExit(f"No model of this bundle runs here: {', '.join(missing)}. Install what one of them needs.")


def require_whole(model: Path) -> None:
    """Refuse a model, labels or preprocessing that are not as the manifest has them: copied halfway, or another's."""
    if not (HERE / "manifest.json").exists():
        raise SystemExit(f"{HERE} has no manifest.json: copy the whole bundle.")
    listed = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))["files"]
    alike = f"/{model.with_suffix('').name}."  # some formats keep weights in a file beside
    for name in listed:
        if name in ("labels.json", "preprocessing.json") or alike in f"/{name}":
            file = HERE / name
            if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() != listed[name]["sha256"]:
                raise SystemExit(f"{name} is not as it was written: copy the bundle again, or export it again.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify images with a model of this bundle.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--model", help="a file of the bundle, such as models/pruned.int8.onnx")
    asked = parser.parse_args()
    if not (HERE / "preprocessing.json").exists():
        raise SystemExit("Only the model's owner knows how an image becomes its input: export it with preprocessing=.")
    labels = json.loads((HERE / "labels.json").read_text(encoding="utf-8"))
    how = json.loads((HERE / "preprocessing.json").read_text(encoding="utf-8"))
    file = HERE / (asked.model or choose())
    suffix = suffix_of(file.name)
    if not suffix or not file.exists():
        raise SystemExit(f"{file} is not a model of this bundle that runs as it is: bundle.json lists those there are.")
    require_whole(file)
    open_model, module, prepared = RUNTIMES[suffix]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"{file.name} does not run here ({error}): install that, or take another --model.") from error
    logits_of = open_model(file)
    for path in asked.images:
        try:
            image = Image.fromarray(read(path).pixels)
        except Unreadable as error:
            print(f"{path}: cannot be read as an image ({error})")
            continue
        logits = np.asarray(logits_of(prepared(image, how)))[0]
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        best = int(chances.argmax())
        print(f"{path}: {labels[best]} ({chances[best]:.1%})")


if __name__ == "__main__":
    main()
