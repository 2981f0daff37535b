"""Every kind of image file as a viewer shows it, or refused with the reason."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp_deploy.tasks import picture
from mvp_deploy.tasks.picture import Unreadable, read

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (10, 14), np.uint8)
RGB = RANDOM.integers(0, 256, (10, 14, 3), np.uint8)
ALPHA = np.where(GREY > 128, 255, GREY).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 257  # the same picture in 16 bits
GREY_AS_RGB = np.repeat(GREY[..., None], 3, axis=2)
PALETTE = Image.fromarray(RGB).quantize(16)


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.round(rgb * share + 255 * (1 - share))


@pytest.mark.parametrize(
    ("ending", "stored", "shown", "how"),
    [
        ("png", RGB, RGB, ()),
        ("PNG", GREY, GREY_AS_RGB, ()),
        ("png", Image.fromarray(GREY > 128), np.where(GREY_AS_RGB > 128, 255, 0), ()),
        ("gif", PALETTE, np.asarray(PALETTE.convert("RGB")), ()),
        ("png", DEEP, GREY_AS_RGB, (picture.DEEP,)),
        ("tif", DEEP, GREY_AS_RGB, (picture.DEEP,)),
        ("tif", Image.frombytes("I;16B", (14, 10), DEEP.astype(">u2").tobytes()), GREY_AS_RGB, (picture.DEEP,)),
        ("jp2", DEEP, GREY_AS_RGB, (picture.DEEP,)),
        ("pgm", b"P5 14 10 65535\n" + DEEP.astype(">u2").tobytes(), GREY_AS_RGB, (picture.DEEP,)),
        ("png", np.dstack([RGB, np.full_like(GREY, 255)]), RGB, ()),
        ("png", np.dstack([RGB, ALPHA]), on_white(RGB, ALPHA), (picture.ON_WHITE,)),
        ("tif", np.dstack([RGB, ALPHA]), on_white(RGB, ALPHA), (picture.ON_WHITE,)),
        ("png", np.dstack([GREY, ALPHA]), on_white(GREY_AS_RGB, ALPHA), (picture.ON_WHITE,)),
        ("tif", Image.fromarray(RGB).convert("CMYK"), RGB, (picture.CMYK,)),
    ],
)
def test_images_are_read_as_they_look(
    tmp_path: Path, ending: str, stored: np.ndarray | Image.Image | bytes, shown: np.ndarray, how: tuple[str, ...]
) -> None:
    path = tmp_path / f"a.{ending}"
    if isinstance(stored, bytes):
        path.write_bytes(stored)
    else:
        (Image.fromarray(stored) if isinstance(stored, np.ndarray) else stored).save(path)
    found = read(path)
    assert found.pixels.dtype == np.uint8
    assert abs(found.pixels.astype(int) - shown).max() <= (1 if picture.ON_WHITE in how else 0)
    assert found.conversions == read(path, glance=True).conversions == how


@pytest.mark.parametrize("transparency", [3, b"\xff\xff\xff\x00" + b"\xff" * 12])
def test_transparent_palette_entries_are_white(tmp_path: Path, transparency: int | bytes) -> None:
    PALETTE.save(tmp_path / "a.png", transparency=transparency)
    found = read(tmp_path / "a.png")
    through = np.asarray(PALETTE) == 3
    assert through.any()
    assert (found.pixels[through] == 255).all()
    assert (found.pixels[~through] == np.asarray(PALETTE.convert("RGB"))[~through]).all()
    assert found.conversions == (picture.ON_WHITE,)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_obeyed(tmp_path: Path, ending: str, orientation: int) -> None:
    """Against EXIF's definition: where the stored row 0 and column 0 lie on the picture."""
    corner = np.zeros((32, 48), np.uint8)
    corner[:16, :16] = 255  # row 0, column 0
    corner[:16, 32:] = 128  # row 0, the last column
    exif = Image.Exif()
    exif[picture.ORIENTATION] = orientation
    image = Image.fromarray(np.repeat(corner[..., None], 3, axis=2))
    image.save(tmp_path / f"a.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {}))
    found = read(tmp_path / f"a.{ending}")
    top, bottom, left, right = 8, -8, 8, -8
    row, column = {  # of the stored first row and column
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    places = {"top": top, "bottom": bottom, "left": left, "right": right}
    far = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}[column]

    def at(one: str, other: str) -> int:
        y, x = (one, other) if one in ("top", "bottom") else (other, one)
        return int(found.pixels[places[y], places[x], 0])

    assert found.pixels.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    assert at(row, column) > 240
    assert abs(at(row, far) - 128) < 10
    assert found.conversions == ((picture.TURNED,) if orientation > 1 else ())
    assert read(tmp_path / f"a.{ending}", glance=True).conversions == found.conversions


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_the_first_of_several_frames_counts(tmp_path: Path, ending: str) -> None:
    first, second = (Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (10, 200))
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second])
    found = read(tmp_path / f"a.{ending}")
    assert abs(found.pixels.astype(int) - 10).max() <= 4
    assert found.conversions == (picture.FIRST,)


def test_a_cameras_jpeg_with_a_preview_is_one_image(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    image.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[image])
    assert read(tmp_path / "a.jpg").conversions == ()


def test_a_name_says_nothing_and_odd_exif_does_no_harm(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", format="PNG", exif=b"Exif\0\0nonsense")
    assert (read(tmp_path / "a.jpg").pixels == RGB).all()


def test_damaged_exif_is_read_without_a_word_of_pillow_s(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[picture.ORIENTATION], exif[0x010F] = 1, "a camera of a long name"
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif.tobytes()[:-30])
    program = f"import picture; print(picture.read({str(tmp_path / 'a.jpg')!r}).pixels.shape)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(picture.__file__).parent
    )
    assert (done.stdout, done.stderr) == (f"{RGB.shape}\n", "")


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.kron(RGB, np.ones((8, 8, 1), np.uint8))).save(file, "JPEG")
    return file.getvalue()


def saved(image: np.ndarray | Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: b"", "cannot identify"),
        (lambda: b"P6 0 4 255\n", "."),
        (lambda: b"\0\0\0\x18ftypheic", "cannot identify"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),  # would start ghostscript
        (lambda: jpeg()[:-40], "truncated"),
        (lambda: jpeg()[: len(jpeg()) // 2], "."),
        (lambda: saved(RGB, "PNG")[:-60], "."),
        (lambda: saved(GREY.astype(np.float32) / 255, "TIFF"), "mode F has no exact way"),
        (lambda: saved(np.full((4, 4), np.nan, np.float32), "TIFF"), "mode F has no exact way"),
        (lambda: saved(GREY.astype(np.int32), "TIFF"), "mode I has no exact way"),
        (lambda: saved(DEEP, "TIFF", tiffinfo={262: 0}), "mode I;16 has no exact way"),  # white is 0
        (lambda: saved(DEEP, "PNG", transparency=5), "mode I;16 has no exact way"),
        (lambda: saved(Image.frombytes("LAB", (14, 10), RGB.tobytes()), "TIFF"), "mode LAB has no exact way"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, content: Callable[[], bytes], says: str) -> None:
    (tmp_path / "a.png").write_bytes(content())
    for glance in (False, True):
        with pytest.raises(Unreadable, match=says):
            read(tmp_path / "a.png", glance=glance)


@pytest.mark.parametrize(
    ("form", "image"),
    [
        ("PNG", np.dstack([RGB, ALPHA])),
        ("PNG", DEEP),
        ("JPEG", RGB),
        ("GIF", RGB),
        ("BMP", RGB),
        ("TIFF", DEEP),
        ("WEBP", RGB),
        ("PPM", RGB),
        ("JPEG2000", GREY),
    ],
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, form: str, image: np.ndarray) -> None:
    """A hundred times some bytes are changed, cut out or put in."""
    whole, random = saved(image, form), np.random.default_rng(0)
    path = tmp_path / "a"
    for _ in range(100):
        content = bytearray(whole)
        for place in random.integers(0, len(content), random.integers(1, 6)):
            match random.integers(4):
                case 0:
                    del content[place : place + 9]
                case 1:
                    content[place:place] = random.bytes(3)
                case _:
                    content[min(place, len(content) - 1)] = random.integers(256)
        path.write_bytes(content)
        try:
            found = read(path, glance=bool(random.integers(2)))
        except Unreadable:
            continue
        assert found.pixels.dtype == np.uint8
        assert found.pixels.shape[2:] == (3,)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(Unreadable, match="not a file"):
            read(path)


@pytest.mark.parametrize(
    ("width", "height", "says"),
    [(1_000_000, 1, "longer than 100 times"), (1, 2000, "longer than"), (9000, 9000, "more than the"),
     (20_000, 20_000, "more than the")],
)  # fmt: skip
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, width: int, height: int, says: str) -> None:
    path = tmp_path / "a.png"
    header = bytearray(saved(np.zeros((1, 1), np.uint8), "PNG"))
    header[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    path.write_bytes(header)
    tracemalloc.start()
    with pytest.raises(Unreadable, match=says):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
