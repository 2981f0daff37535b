"""A checkpoint of your own, pruned and exported to OpenVINO in int8.

python openvino_int8.py [FOLDER]

Needs OpenVINO: pip install 'mvp-deploy[openvino]'.
"""

import sys
from pathlib import Path

import timm
import torch

import mvp_deploy as mvp

CLASSES = "digits#0,1,2,3"  # yours is a folder of images with one folder per class


def checkpoint(file: Path) -> Path:
    """A timm model's state dict on disk: stands in for the one that you trained."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4)
    torch.save(model.state_dict(), file)
    return file


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = checkpoint(folder / "mine.pth")

    model = timm.create_model("test_resnet", num_classes=4)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()

    result = mvp.prune(model, CLASSES, macs=0.6, image_size=32)
    print(result.report)

    # A fifth of the digits is held out and judges; int8's ranges are measured on the others. Pass `result` in place of
    # `result.model` to have the unpruned model in the bundle as well.
    bundle = mvp.export(
        result.model,
        folder / "bundle",
        data=CLASSES,
        targets=["openvino"],
        precisions=["int8"],
        preprocessing=result.backbone.preprocessing,
        max_drop=10,
    )
    for file in bundle.models:
        print(f"{file.file}: accuracy {file.accuracy:.1%}, parity {file.parity:.1e}")
    print(bundle.evaluate(CLASSES, precision="int8").confused())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "openvino-int8"))
