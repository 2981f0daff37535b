"""Write mvp_deploy/backbones/architectures.json for the installed timm, in minutes."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import torch

from mvp_deploy.backbones import architectures
from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.base.files import write_text

INIT = [name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")]


def _nothing(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return tensor


def main() -> None:
    """Build every model without memory for its weights, and note its signature: a line for each."""
    lines = []
    models = timm().models
    for name in models.list_models():
        try:
            with torch.device("meta"), patch.multiple(torch.nn.init, **dict.fromkeys(INIT, _nothing)):
                state = models.create_model(name, num_classes=10).state_dict()
        except Exception as error:  # a model that needs what is not installed
            print(f"{name} is left out: {error}")
            continue
        found = architectures.Signature.of({key: value.shape for key, value in state.items()})
        lines.append(f"{json.dumps(name)}: {json.dumps([found.names, found.shapes, found.params])}")
    write_text(Path(architectures.__file__).with_name(architectures.TABLE), "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
