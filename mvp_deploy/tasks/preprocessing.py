"""What happens to an image before the model sees it: numpy and Pillow only, since it travels to devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Malformed, Within, parse

MAX_EDGE = 2048
Edge = Annotated[int, Within(1, MAX_EDGE)]  # of a model's input, in pixels
Level = Annotated[float, Within(-1000, 1000)]
Spread = Annotated[float, Within(1e-6, 1000)]

MAX_RESIZED = 1 << 26  # pixels of an image before its centre is cut out: more memory is not spent on one


class Layout(NamedTuple):
    """How one image is brought to the input's size: resize it, then put a part of it onto a canvas.

    Height comes before width everywhere.
    """

    size: tuple[int, int]  # to resize to, in pixels
    source: tuple[slice, slice]  # the part taken of the resized image
    target: tuple[slice, slice]  # where that part lies on the canvas, which has the input's size
    fill: tuple[int, int, int]  # the canvas's colour


@dataclass(frozen=True)
class Preprocessing:
    """timm's preprocessing for evaluation: resize, crop at the centre, scale to 0..1, normalise.

    ``crop_mode`` says which edge is resized to the input's edge / ``crop_pct``: the shortest ('center', loses
    the image's ends), each ('squash', loses the aspect ratio) or the longest ('border', pads).
    """

    input_size: tuple[int, Edge, Edge]  # channels (3), height, width
    interpolation: Literal["bilinear", "bicubic"]  # 'bilinear' or 'bicubic', antialiased when shrinking
    crop_pct: Annotated[float, Within(0.01, 10)]
    crop_mode: Literal["center", "squash", "border"]
    mean: tuple[Level, Level, Level]  # of RGB scaled to 0..1
    std: tuple[Spread, Spread, Spread]

    def __post_init__(self) -> None:
        if self.input_size[0] != 3:
            raise InputError(f"the model takes {self.input_size[0]} channels: choose one for RGB images")
        for value, known in (
            (self.interpolation, ("bilinear", "bicubic")),
            (self.crop_mode, ("center", "squash", "border")),
        ):
            if value not in known:
                raise InputError(f"unknown preprocessing {value!r}: known are {', '.join(known)}")

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """From a uint8 RGB image [height, width, 3] to the model's float32 input [3, H, W]."""
        return self.normalise(self.resize(image))

    def normalise(self, crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The rest of `apply`: what `resize` gave, uint8 [H, W, 3], to float32 [3, H, W]. Needs numpy alone."""
        pixels = crop.astype(np.float32) / 255
        normalised = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def resize(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The part of `apply` that keeps bytes: a uint8 RGB image [height, width, 3] to [H, W, 3]."""
        from PIL import Image

        layout = self.layout(image.shape[0], image.shape[1])
        filter = Image.Resampling[self.interpolation.upper()]
        resized = Image.fromarray(image).resize(layout.size[::-1], filter)
        canvas = np.full((*self.input_size[1:], 3), layout.fill, np.uint8)
        canvas[layout.target] = np.asarray(resized)[layout.source]
        return canvas

    def layout(self, height: int, width: int) -> Layout:
        """Where an image of this height and width goes, to the pixel as timm's own transform does it."""
        box = self.input_size[1:]
        goal = (math.floor(box[0] / self.crop_pct), math.floor(box[1] / self.crop_pct))
        ratios = (height / goal[0], width / goal[1])
        if self.crop_mode == "squash":
            size = goal
        elif self.crop_mode == "border" or goal[0] != goal[1]:
            ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
            size = (max(1, round(height / ratio)), max(1, round(width / ratio)))
        elif height <= width:
            size = (goal[0], int(goal[0] * width / height))
        else:
            size = (int(goal[0] * height / width), goal[0])
        if size[0] * size[1] > MAX_RESIZED:
            raise InputError(
                f"an image of {width} x {height} pixels would be resized to {size[1]} x {size[0]}: cut or shrink it"
            )
        rows, columns = _centre(size[0], box[0]), _centre(size[1], box[1])
        border = self.crop_mode == "border"
        red, green, blue = (round(255 * value) if border else 0 for value in self.mean)
        return Layout(size, (rows[0], columns[0]), (rows[1], columns[1]), (red, green, blue))

    def to_json(self) -> dict[str, Any]:
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_json`; raises MvpError for data that does not describe a preprocessing."""
        try:
            return parse(cls, data)
        except Malformed as error:
            raise InputError(f"this is not a description of a preprocessing: {error}") from error


def _centre(length: int, box: int) -> tuple[slice, slice]:
    """The parts of an edge and of the box that coincide when the one is centred in the other."""
    if length >= box:
        start = round((length - box) / 2)
        return slice(start, start + box), slice(0, box)
    start = (box - length) // 2
    return slice(0, length), slice(start, start + length)
