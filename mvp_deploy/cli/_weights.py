"""The options that say where a named backbone's weights come from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvp_deploy.base.bounds import IMAGE_SIZE
from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._options import Decorator
from mvp_deploy.cli._types import PATH, Number

if TYPE_CHECKING:
    from torch import Tensor

    from mvp_deploy.backbones import Backbone
    from mvp_deploy.cli._common import Console


@dataclass(frozen=True)
class Weights:
    """timm's own, those of a file, or none: then they are random. image_size: the model's own where None."""

    pretrained: bool = False
    file: Path | None = None
    image_size: int | None = None

    @property
    def random(self) -> bool:
        return not self.pretrained and self.file is None

    def backbone(self, name: str, seed: int, console: Console) -> tuple[Backbone, dict[str, Tensor]]:
        """The backbone and its state dict without the head; warns if the weights are random.

        Raises InputError for several names, which `frontier` takes.
        """
        from mvp_deploy import backbones

        if "," in name and ":" not in name:
            raise InputError(
                f"{name} are several models: name one. `mvp-deploy frontier DATA --backbone {name} --latency 4ms` "
                f"finds which is the most accurate within a time; `shrink --model {name} --latency 4ms` ships it."
            )
        made = backbones.create(
            name, pretrained=self.pretrained, weights=self.file, image_size=self.image_size, seed=seed
        )
        if self.random and ":" not in name:  # what is published has its weights
            console.warn("the backbone's weights are random: give --pretrained or --weights for useful models.")
        return made


def weights_options(beside: str = "") -> Decorator:
    """--pretrained, --weights and --image-size; the command receives ``weights: Weights``.

    Args:
        beside: the option they go with, where the command has others.
    """
    start = f"With {beside}: " if beside else ""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--pretrained", is_flag=True, help=f"{start}timm's pretrained weights (downloads them).")
        @click.option("--weights", "file", type=PATH,
                      help=f"{start}the weights in this .safetensors or .pth file.")  # fmt: skip
        @click.option("--image-size", type=Number(IMAGE_SIZE),
                      help="Edge of the input in pixels; the model's own by default.")  # fmt: skip
        @functools.wraps(function)
        def command(pretrained: bool, file: Path | None, image_size: int | None, **arguments: Any) -> Any:
            return function(weights=Weights(pretrained, file, image_size), **arguments)

        return command

    return decorate
