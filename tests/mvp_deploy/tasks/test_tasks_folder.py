from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp_deploy.base.errors import DeployError, ExitCode
from mvp_deploy.tasks import load_task


def fill(folder: Path, count: int = 5, ending: str = "png", mode: str = "RGB") -> None:
    """Different images in each folder, 16x12 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(str(folder)) + ord(folder.name[0]))
    for k in range(count):
        pixels = random.integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{k}.{ending}")


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for name in ("ant", "bee", "cat"):
            fill(tmp_path / part / name)
    return tmp_path


def test_a_divided_folder(divided: Path) -> None:
    task = load_task(f"{divided}#cat,ant")
    assert task.classes == ("cat", "ant")
    assert task.train.images[0] == divided / "train" / "cat" / "0.png"
    assert task.test.images[-1] == divided / "val" / "ant" / "4.png"
    assert task.test.labels.tolist() == [0] * 5 + [1] * 5
    assert task.skipped == 0


def test_test_stands_in_for_val(divided: Path) -> None:
    (divided / "val").rename(divided / "test")
    assert load_task(str(divided)).test.images[0] == divided / "test" / "ant" / "0.png"


def test_one_folder_of_classes_is_split_by_the_seed(tmp_path: Path) -> None:
    fill(tmp_path / "ant", 10)
    fill(tmp_path / "train", 10)  # a class may be called so
    first, again, other = (load_task(str(tmp_path), seed=seed) for seed in (0, 0, 1))
    assert first.classes == ("ant", "train")
    assert not set(first.train.images) & set(first.test.images)  # type: ignore[arg-type]
    assert np.bincount(first.test.labels).tolist() == [2, 2]
    assert first.test.images == again.test.images
    assert first.test.images != other.test.images


def test_the_fingerprint_follows_the_content_not_the_place(divided: Path) -> None:
    before = load_task(str(divided)).fingerprint
    moved = divided.rename(divided.with_name("moved"))
    assert load_task(str(moved)).fingerprint == before
    fill(moved / "val" / "ant", mode="L")
    assert load_task(str(moved)).fingerprint != before


def refused(spec: Path | str, says: str) -> str:
    with pytest.raises(DeployError, match=says) as caught:
        load_task(str(spec))
    assert caught.value.code == ExitCode.INPUT
    return str(caught.value)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp"])
def test_a_broken_image_is_named_or_skipped(divided: Path, ending: str) -> None:
    fill(divided / "train" / "bee", 1, ending)
    path = divided / "train" / "bee" / f"0.{ending}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (divided / "val" / "ant" / "3.png").write_text("no image at all")
    assert "--skip-bad" in refused(divided, re.escape(str(path)))
    task = load_task(str(divided), skip_bad=True)
    assert task.skipped == 2
    assert path not in task.train.images
    assert task.classes == ("ant", "bee", "cat")


def test_an_empty_class_is_named_or_left_out(divided: Path) -> None:
    for path in (divided / "val" / "cat").iterdir():
        path.unlink()
    refused(divided, "val/cat holds no readable image")
    task = load_task(str(divided), skip_bad=True)
    assert task.classes == ("ant", "bee")
    assert task.skipped == 2  # the folder, and the same class in train/
    with pytest.raises(DeployError, match="val/cat holds no readable image"):
        load_task(f"{divided}#ant,cat", skip_bad=True)  # asked for by name: not left out in silence


@pytest.mark.parametrize(("where", "other"), [("train", "val"), ("val", "train")])
def test_a_class_in_one_part_only_is_named_or_left_out(divided: Path, where: str, other: str) -> None:
    fill(divided / where / "dog")
    message = refused(divided, "class 'dog'")
    assert f"{divided / where} but not in {divided / other}" in message
    assert load_task(str(divided), skip_bad=True).classes == ("ant", "bee", "cat")
    assert load_task(f"{divided}#ant,bee").classes == ("ant", "bee")


def test_other_unusable_folders_are_explained(divided: Path) -> None:
    refused(f"{divided}#ant,be", "no class 'be': did you mean 'bee'")
    refused(f"{divided}#ant", "only the class 'ant'")
    refused(divided / "train" / "ant", "no class folders")
    (divided / "val").rename(divided / "validation")
    refused(divided, "neither val/ nor test/")


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    fill(tmp_path / "ant", 3)
    fill(tmp_path / "bee", 1)
    refused(tmp_path, "class 'bee' of .* has one image")


def test_other_files_are_no_images(divided: Path) -> None:
    (divided / "train" / "ant" / "notes.txt").write_text("hello")
    (divided / "train" / "ant" / ".DS_Store").write_text("hello")
    (divided / "train" / ".cache").mkdir()
    assert len(load_task(str(divided)).train) == 15
