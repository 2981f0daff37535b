from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.tasks import load_again, load_task
from mvp_deploy.tasks.folder import read_image


def fill(folder: Path, count: int = 5, ending: str = "png", mode: str = "RGB") -> None:
    """Different images in each folder, 16x12 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(zlib.crc32("/".join(folder.parts[-2:]).encode()))
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
    assert sum(task.left_out.values()) == 0


def test_test_stands_in_for_val(divided: Path) -> None:
    (divided / "val").rename(divided / "test")
    assert load_task(str(divided)).test.images[0] == divided / "test" / "ant" / "0.png"


def test_one_folder_of_classes_is_split_by_content(tmp_path: Path) -> None:
    fill(tmp_path / "ant", 10)
    fill(tmp_path / "train", 10)  # a class may be called so
    first, again = load_task(str(tmp_path)), load_task(str(tmp_path))
    assert first.classes == ("ant", "train")
    assert not set(first.train.images) & set(first.test.images)  # type: ignore[arg-type]
    assert np.bincount(first.test.labels).tolist() == [2, 2]
    assert first.test.images == again.test.images


def test_an_image_stays_held_out_whatever_its_name_class_and_neighbours(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        fill(tmp_path / "one" / name, 40)
    shutil.copytree(tmp_path / "one" / "bee", tmp_path / "two" / "wasp")
    fill(tmp_path / "two" / "wasp" / "later", 5, "bmp")  # the class has grown
    fill(tmp_path / "two" / "cat", 12)
    for path in (tmp_path / "two" / "wasp").glob("*.png"):
        path.rename(path.with_name(f"renamed {path.name}"))
    one, two = load_task(str(tmp_path / "one")), load_task(str(tmp_path / "two"))
    trained = {digest for digest, label in zip(one.train.digests, one.train.labels, strict=True) if label == 1}
    held = {digest for digest, label in zip(one.test.digests, one.test.labels, strict=True) if label == 1}
    assert len(set(two.test.digests) & held) >= 7  # of 8
    assert len(set(two.test.digests) & trained) <= 1


def test_banks_and_runs_of_before_find_their_split_again(tmp_path: Path) -> None:
    fill(tmp_path / "ant", 10)
    fill(tmp_path / "bee", 10)
    old = load_task(str(tmp_path), seed=3)
    drawn = [path.name for path in old.test.images]  # type: ignore[union-attr]
    assert drawn == ["3.png", "4.png", "2.png", "9.png"]  # as it was before the content decided
    now = load_task(str(tmp_path))
    for task in (old, now):
        again = load_again(str(tmp_path), task.fingerprint, seed=3)
        assert again is not None
        assert again.test.images == task.test.images
    fill(tmp_path / "bee", 1, "bmp")
    assert load_again(str(tmp_path), old.fingerprint, seed=3) is None


def test_a_task_called_by_another_name_is_found_where_it_lies(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        fill(tmp_path / name)
    task = load_task(str(tmp_path)).named("insects")
    assert (task.name, task.source) == ("insects", str(tmp_path))
    again = load_again("insects", task.fingerprint, seed=0, source=task.source)
    assert again is not None
    assert (again.name, again.source) == ("insects", str(tmp_path))


def test_data_are_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ant", "bee"):
        fill(tmp_path / "project" / "data" / name)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    fingerprint = load_task("data#bee,ant").fingerprint
    monkeypatch.chdir(tmp_path / "other")
    run = Path("../project/runs/a")
    for folder in ("data", "data/ant", "data/bee"):  # nothing of that name here, then something else
        task = load_again("data#bee,ant", fingerprint, 0, beside=run)
        assert task is not None
        assert task.name == "data#bee,ant"
        assert Path(task.train.images[0]).is_relative_to(tmp_path / "project")  # type: ignore[arg-type]
        Path(folder).mkdir()
    (tmp_path / "project" / "data").rename(tmp_path / "moved")
    with pytest.raises(MvpError, match="holds no readable image"):
        load_again("data#bee,ant", fingerprint, 0, beside=run)


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    fill(tmp_path / "ant", 10)
    fill(tmp_path / "bee", 10)
    for path in (tmp_path / "ant").glob("*.png"):
        shutil.copy(path, path.with_suffix(".copy.png"))
    task = load_task(str(tmp_path))
    assert not set(task.train.digests) & set(task.test.digests)
    assert task.notes == ()


def test_copies_in_both_parts_or_two_classes_are_mentioned(divided: Path) -> None:
    shutil.copy(divided / "train" / "bee" / "1.png", divided / "val" / "bee" / "x.png")
    shutil.copy(divided / "train" / "bee" / "1.png", divided / "train" / "cat" / "y.png")
    held, classes = load_task(str(divided)).notes
    assert "1 of 16 held-out images are copies of training images" in held
    assert str(divided / "val" / "bee" / "x.png") in held
    assert "1 training images lie in two classes" in classes
    assert str(divided / "train" / "cat" / "y.png") in classes


def test_the_fingerprint_follows_the_content_not_the_place(divided: Path) -> None:
    before = load_task(str(divided)).fingerprint
    moved = divided.rename(divided.with_name("moved"))
    assert load_task(str(moved)).fingerprint == before
    fill(moved / "val" / "ant", mode="L")
    assert load_task(str(moved)).fingerprint != before


def refused(spec: Path | str, says: str) -> str:
    with pytest.raises(MvpError, match=says) as caught:
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
    assert sum(task.left_out.values()) == 2
    assert path not in task.train.images
    assert task.classes == ("ant", "bee", "cat")


def test_an_empty_class_is_named_or_left_out(divided: Path) -> None:
    for path in (divided / "val" / "cat").iterdir():
        path.unlink()
    refused(divided, r"class 'cat' of .*val holds no readable image")
    task = load_task(str(divided), skip_bad=True)
    assert task.classes == ("ant", "bee")
    assert sum(task.left_out.values()) == 2  # the folder, and the same class in train/
    with pytest.raises(MvpError, match=r"class 'cat' of .*val holds no readable image"):
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
    (divided / "val").rename(divided / "later")
    refused(divided, "neither val/ nor test/")


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    fill(tmp_path / "ant", 3)
    fill(tmp_path / "bee", 1)
    refused(tmp_path, "class 'bee' of .* has one image")


def test_other_files_are_not_images(divided: Path) -> None:
    (divided / "train" / "ant" / "notes.txt").write_text("hello")
    (divided / "train" / "ant" / ".DS_Store").write_text("hello")
    (divided / "train" / ".cache").mkdir()
    task = load_task(str(divided))
    assert len(task.train) == 15
    assert task.left_out == {".txt files": 1}


def test_all_that_is_left_out_is_counted_by_reason(divided: Path) -> None:
    ant = divided / "train" / "ant"
    for k in range(3):
        (ant / f"IMG_{k}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
        (ant / f"dead{k}.png").symlink_to("/nowhere/x.png")
    (ant / "raw.NEF").write_bytes(b"II*\0")
    (ant / "._0.png").write_bytes(b"a Mac's second half of a file")
    (ant / "notes").write_text("hello")
    os.mkfifo(ant / "pipe.png")
    (divided / "train" / "owl").symlink_to("/nowhere/owl")
    fill(divided / "train" / "ant" / ".thumbnails", 2)
    Image.new("RGB", (9, 9)).save(divided / "train" / "stray.jpg")
    fill(divided / "test" / "ant")
    fill(divided / "older" / "ant")
    task = load_task(str(divided))
    assert len(task.train) == 15
    assert task.left_out == {
        ".heic files to convert to JPEG or PNG": 3,
        ".nef files to convert to JPEG or PNG": 1,
        "dead links": 4,
        "files without a suffix that are not images": 1,
        "folders beside train/, val/, test/: older": 1,
        "hidden files": 1,
        "images beside the class folders": 1,
        "special files": 1,
    }
    assert sum(task.left_out.values()) == 13
    (note,) = task.notes
    assert note.startswith(f"{divided}: left out: .heic files to convert to JPEG or PNG (3), ")


def test_subfolders_links_and_files_without_a_suffix_are_read(tmp_path: Path) -> None:
    fill(tmp_path / "data" / "ant" / "2024" / "may", 4)
    fill(tmp_path / "data" / "ant", 3, "JPG")
    for k, path in enumerate(sorted((tmp_path / "data" / "ant").glob("*.JPG"))):
        path.rename(path.with_name(f"photo 12.3{k}"))
    fill(tmp_path / "store", 6)
    (tmp_path / "data" / "bee").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "store")  # a link into itself
    task = load_task(str(tmp_path / "data"))
    assert np.bincount(np.r_[task.train.labels, task.test.labels]).tolist() == [7, 6]
    assert task.left_out == {}


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("ant/train", "ant/val", "bee/train"), "has the folders train, val where classes are looked for"),
        (("training/ant", "testing/ant", "training/bee", "testing/bee"), "has the folders testing, training"),
    ],
)
def test_parts_are_not_taken_for_classes(tmp_path: Path, folders: tuple[str, ...], says: str) -> None:
    for folder in folders:
        fill(tmp_path / folder)
    refused(tmp_path, says)


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="file names have no such letters here")
def test_class_names_are_the_same_however_unicode_writes_them(divided: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "grün") for form in ("NFC", "NFD"))
    fill(divided / "train" / composed)
    fill(divided / "val" / decomposed)
    for name in (composed, decomposed):
        task = load_task(f"{divided}#ant,{name}")
        assert task.classes == ("ant", composed)
        assert len(task.test) == 10
    (divided / "train" / decomposed).mkdir(exist_ok=True)  # where the file system tells the two apart
    if len(list((divided / "train").iterdir())) == 5:
        refused(divided, "has the class folder 'grün' twice")


def test_a_class_name_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "ant")
    fill(tmp_path / "bee\n")
    refused(tmp_path, r"the class name 'bee\\n' of .* cannot be shown")


def test_classes_that_differ_in_case_alone_are_mentioned(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.arange(36, dtype=np.uint8).reshape(9, 2, 2), labels=np.repeat([0, 1, 2], 3),
             classes=["Ant", "ant", "bee"])  # fmt: skip
    assert load_task(f"{tmp_path}/a.npz").notes == (
        f"{tmp_path}/a.npz: the classes Ant, ant differ only in upper and lower case",
    )


def test_a_path_may_have_a_hash_in_it(tmp_path: Path) -> None:
    for name in ("ant", "C#", "bee"):
        fill(tmp_path / "C# and C++#1" / name)
    for spec, classes in (("", ("C#", "ant", "bee")), ("#bee,C#", ("bee", "C#")), ("#ant,bee", ("ant", "bee"))):
        assert load_task(f"{tmp_path}/C# and C++#1{spec}").classes == classes
    refused(f"{tmp_path}/C# and C++#1#" + "wasp" * 500, "no class 'wasp")


def test_images_turned_by_exif_are_upright_for_the_model_and_said_to_be(divided: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = divided / "train" / "ant" / "0.png"
    stored = np.asarray(Image.open(path))
    plain = load_task(str(divided))
    Image.fromarray(stored).save(path, exif=exif)
    task = load_task(str(divided))
    assert (read_image(path) == np.rot90(stored, -1)).all()
    assert task.notes == (f"{divided}: images turned as their EXIF orientation says (1)",)
    assert task.converted == {"turned as their EXIF orientation says": 1}
    assert plain.notes == ()


def test_deep_images_that_would_be_black_are_refused(tmp_path: Path) -> None:
    def deep(name: str, level: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        for k in range(4):
            grey = np.random.default_rng(k).integers(level // 2, level, (12, 12)).astype(np.uint16)
            Image.fromarray(grey).save(tmp_path / name / f"{k}.png")

    deep("dim", 2000)
    deep("bright", 4000)  # a camera's 12 bits
    refused(tmp_path, r"16-bit images of .* would be read as black, for instance .*bright/0.png")
    deep("bright", 60000)
    task = load_task(str(tmp_path))
    assert task.converted == {"of 16 bits, the upper 8 taken": 8}


def test_one_fault_among_many_images_is_named_with_its_reason(divided: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(divided / "train" / "ant" / "nan.tif")
    refused(divided, r"ant/nan\.tif cannot be read as an image \(Pillow's mode F has no exact way")
    (divided / "train" / "ant" / "nan.tif").unlink()
    Image.new("1", (100_000, 20)).save(divided / "val" / "cat" / "long.png")
    refused(divided, r"long\.png cannot be read as an image \(100000 x 20 pixels are longer than 100 times")
    assert load_task(str(divided), skip_bad=True).left_out == {"unreadable images": 1}
