"""Core ML's ML program (.mlpackage, a folder), for Apple's devices, from the PyTorch model."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mvp_deploy.exporters.protocol import OwnExporter, Source, converting
from mvp_deploy.exporters.silence import quiet

if TYPE_CHECKING:
    import torch

MANIFEST = "Manifest.json"
ELSEWHERE = "Core ML runs on macOS alone: here PyTorch computes the program's operators to check it, untimed"


class CoreMlExporter(OwnExporter):
    """fp32, fp16 and int8, one image at a time: the Neural Engine computes in fp16, and takes no batches of any size.

    In int8 only the weights are int8, and fp16 is computed: coremltools measures ranges of activations on macOS alone.
    """

    name = "coreml"
    suffix = ".mlpackage"
    needs = "pip install 'mvp-deploy[coreml]'"
    modules = ("coremltools",)
    precisions = ("fp32", "fp16", "int8")
    int8_form = "own"
    notes = ("takes one image at a time", *(() if sys.platform == "darwin" else (ELSEWHERE,)))

    def write(self, source: Source, path: Path) -> None:
        with TemporaryDirectory() as temporary:
            made = Path(temporary) / path.name
            program = _convert(source)
            if source.precision == "int8":
                program = _with_int8_weights(program)
            program.user_defined_metadata["classes"] = json.dumps(source.classes, ensure_ascii=False)
            program.save(str(made))
            _name_by_place(made / MANIFEST)
            shutil.rmtree(path, ignore_errors=True)
            shutil.move(made, path)


def _convert(source: Source) -> Any:
    """The model as an ML program in memory: input ``images`` [1, channels, height, width], output ``logits``."""
    import numpy as np

    precision = "FLOAT32" if source.precision == "fp32" else "FLOAT16"
    with quiet():  # progress bars, and versions it was not tested with
        import coremltools

        with converting("Core ML"):
            return coremltools.convert(
                _constant(source),
                convert_to="mlprogram",
                inputs=[coremltools.TensorType("images", shape=(1, *source.image_shape), dtype=np.float32)],
                outputs=[coremltools.TensorType("logits", dtype=np.float32)],
                compute_precision=coremltools.precision[precision],
                minimum_deployment_target=coremltools.target.iOS16,
                skip_model_load=True,
            )


def _with_int8_weights(program: Any) -> Any:
    """Weights of 2,048 values and more as int8 with a scale for each output channel: a round trip of 1/254 at most."""
    with quiet():
        from coremltools.optimize import coreml

        how = coreml.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", granularity="per_channel")
        with converting("Core ML"):
            return coreml.linear_quantize_weights(program, coreml.OptimizationConfig(global_config=how))


def _constant(source: Source) -> torch.jit.ScriptModule:
    """The model traced for one image, whatever does not depend on the image computed.

    From torch.export, in whose program shapes are numbers: coremltools stumbles over those a trace computes.
    """
    import torch

    image = torch.zeros(1, *source.image_shape)
    program = torch.export.export(source.model.eval(), (image,)).module(check_guards=False)
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.trace(program, image, check_trace=False).eval())


def _name_by_place(manifest: Path) -> None:
    """Name the package's parts by where they lie: coremltools draws identifiers, and equal models must be equal."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    names = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, part["path"])) for key, part in content["itemInfoEntries"].items()}
    content["itemInfoEntries"] = {names[key]: part for key, part in content["itemInfoEntries"].items()}
    content["rootModelIdentifier"] = names[content["rootModelIdentifier"]]
    # laid out as Core ML does when it opens a package, so that a bundle's checksum holds
    manifest.write_text(json.dumps(content, indent=4, sort_keys=True) + "\n", encoding="utf-8")
