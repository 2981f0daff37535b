"""From an image file to its pixels: one policy for training, export and the device.

Needs numpy and Pillow alone, and nothing else of this program: every bundle's example.py holds a copy of it. What is
read, how it is converted and what is refused: docs/data.md.
"""

import os
import threading
import warnings
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from PIL import Image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # Pillow's names
MAX_PIXELS = 1 << 26  # 67 million: 8192 x 8192
MAX_RATIO = 100  # of the longer edge to the shorter: resized to the model's height, a longer one would fill the memory
PLAIN = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK")  # Pillow's modes
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION = 0x0112  # EXIF's tag

TURNED = "turned as their EXIF orientation says"
ON_WHITE = "transparent, laid on white"
DEEP = "of 16 bits, the upper 8 taken"
CMYK = "converted from CMYK"
FIRST = "of several frames, the first taken"

# Of damaged metadata and of sizes Pillow warns; what is read, converted and refused is said here, per file.
warnings.filterwarnings("ignore", module=r"PIL\.")

_large = threading.Lock()  # one large image at a time, however many threads read
_LARGE = 1 << 24  # pixels


class Unreadable(ValueError):
    """The file cannot be read as an image, and why."""


class Picture(NamedTuple):
    """An image as a viewer shows it, and how it had to be converted for that."""

    pixels: np.ndarray  # uint8 RGB [height, width, 3]
    conversions: tuple[str, ...] = ()  # among TURNED, ON_WHITE, …; none for plain 8-bit grey, palette and RGB images


def read(path: str | os.PathLike[str], *, glance: bool = False) -> Picture:
    """Decode an image file, at once refusing what is larger than ``MAX_PIXELS`` before its pixels are decoded.

    Args:
        path: of the file; its content says which format it has, not its name.
        glance: decode all of a JPEG, but reconstruct an eighth of its size: to check a file, in half the time.

    Raises:
        Unreadable: it is damaged, too large, of a format that is not read, or of numbers without a known range.
    """
    Image.init()
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for, a device never ends
        raise Unreadable("it is not a file")
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            check_size(*image.size)
            if glance:
                image.draft("RGB", (1, 1))
            return decode(image)
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above
        raise Unreadable(f"it has more than the {MAX_PIXELS:,} pixels that are read: make it smaller") from error
    except Exception as error:  # decoders raise whatever a broken file drives them to
        raise Unreadable(str(error) or type(error).__name__) from error


def check_size(width: int, height: int) -> None:
    """Raises Unreadable for an image that would take too much memory, decoded or resized."""
    if min(width, height) < 1:
        raise Unreadable(f"it has {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are read: make it smaller")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise Unreadable(f"{width} x {height} pixels are longer than {MAX_RATIO} times the shorter edge: cut it")


def decode(image: Image.Image) -> Picture:
    """The pixels of an opened image.

    Raises:
        Unreadable: its size or its kind of numbers is not read.
        Exception: whatever Pillow's decoder raises for a damaged file.
    """
    check_size(*image.size)
    with _large if image.width * image.height > _LARGE else nullcontext():
        return _decoded(image)


def _decoded(image: Image.Image) -> Picture:
    turn = _orientation(image)  # before: Pillow itself turns a TIFF as it loads it
    frames = image.format != "MPO" and getattr(image, "is_animated", False)  # MPO: a camera's JPEG with a preview
    image.load()
    conversions = [TURNED] * (turn > 1) + [FIRST] * bool(frames)
    if _is_deep(image):
        pixels = np.repeat(_upper_bits(image)[..., None], 3, axis=2)
        conversions.append(DEEP)
    elif image.mode in ALPHA or (image.mode in PLAIN and "transparency" in image.info):
        pixels, transparent = _on_white(image.convert("RGBA"))
        conversions += [ON_WHITE] * transparent
    elif image.mode in PLAIN:
        conversions += [CMYK] * (image.mode == "CMYK")
        pixels = np.asarray(image.convert("RGB"))
    else:
        raise Unreadable(f"Pillow's mode {image.mode} has no exact way to 8-bit RGB: save it as RGB, or as 16-bit grey")
    return Picture(_turned(pixels, _orientation(image)), tuple(conversions))


def _orientation(image: Image.Image) -> int:
    """EXIF's: 1 is upright, 2 to 8 are turned or mirrored."""
    try:
        value: int = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data: viewers show the image as it lies
        return 1
    return value if value in range(2, 9) else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels upright, by EXIF's eight cases."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _is_deep(image: Image.Image) -> bool:
    """Whether it is grey with 16 bits, black at 0. Pillow reads such PNM files, and older ones such PNG files, as I."""
    if image.format == "TIFF":
        black_at_0 = image.tag_v2.get(262) == 1  # type: ignore[attr-defined] # PhotometricInterpretation
        return image.mode.startswith("I;16") and black_at_0
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    return deep and "transparency" not in image.info


def _upper_bits(image: Image.Image) -> np.ndarray:
    """uint8 [height, width] from the upper 8 bits, as Pillow does for RGB of 16 bits.

    Exact if the values were made from 8 bits.
    """
    bits = 16
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (16,))[0]  # type: ignore[attr-defined] # BitsPerSample: 12 or 16
    return (np.asarray(image) >> (bits - 8)).astype(np.uint8)


def _on_white(image: Image.Image) -> tuple[np.ndarray, bool]:
    """An RGBA image as seen on white paper, and whether any of it is transparent at all."""
    opaque = image.getchannel("A").getextrema() == (255, 255)
    if not opaque:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB")), not opaque
