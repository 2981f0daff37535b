from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.tasks import load_again, load_task

SHARED = Path(__file__).parents[4] / "shared" / "data"


def arrays() -> dict[str, np.ndarray]:
    """Three classes; every pixel of an image has its label's value."""
    train, test = np.repeat(np.arange(3), 4), np.repeat(np.arange(3), 2)
    return {
        "x_train": np.broadcast_to(train[:, None, None, None], (12, 8, 6, 3)).astype(np.uint8),
        "y_train": train,
        "x_test": np.broadcast_to(test[:, None, None, None], (6, 8, 6, 3)).astype(np.uint8),
        "y_test": test,
        "classes": np.array(["ant", "bee", "cat, black"]),
    }


def test_digits_hold_all_images_and_always_the_same_ones_out() -> None:
    task = load_task("digits")
    assert task.classes == tuple("0123456789")
    assert len(task.train) + len(task.test) == 1797
    assert task.train.images.shape[1:] == (8, 8, 3)  # type: ignore[union-attr]
    assert np.max(task.train.images) == 255  # type: ignore[arg-type]
    share = np.bincount(task.test.labels) / np.bincount(np.r_[task.train.labels, task.test.labels])
    assert (abs(share - 0.2) < 0.01).all()  # stratified
    assert task.fingerprint == "a5b586f6be01f6d2a4e95727e6d04389b518a2626ea47c8c7125c18661f0e30d"  # banks know it
    drawn = load_task("digits", seed=1)  # as --seed once did
    assert drawn.fingerprint != task.fingerprint
    again = load_again("digits", drawn.fingerprint, seed=1)
    assert again is not None
    assert again.fingerprint == drawn.fingerprint


def test_tasks_that_share_a_class_hold_out_the_same_images_of_it() -> None:
    def held_out_threes(spec: str) -> set[bytes]:
        task = load_task(spec)
        label = task.classes.index("3")
        return {
            image.tobytes()
            for image, k in zip(task.test.images, task.test.labels, strict=True)  # type: ignore[union-attr]
            if k == label
        }

    assert held_out_threes("digits#3,8") == held_out_threes("digits#1,3,5,7") == held_out_threes("digits")


def test_named_classes_become_labels_in_their_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    task = load_task(f'{tmp_path}/a.npz#"cat, black",ant')
    assert task.classes == ("cat, black", "ant")
    for split in (task.train, task.test):
        assert [int(image[0, 0, 0]) for image in split.images] == [  # type: ignore[union-attr, index]
            2 if label == 0 else 0 for label in split.labels
        ]
    assert len(task.test) == 4


def test_grey_images_are_shown_as_rgb_and_unnamed_classes_by_number(tmp_path: Path) -> None:
    labels = np.repeat([4, 7], 10)
    np.savez(
        tmp_path / "a.npz",
        images=np.tile(np.arange(25, dtype=np.uint8).reshape(5, 5), (20, 1, 1)),
        labels=labels,
    )
    task = load_task(f"{tmp_path}/a.npz")
    assert task.classes == ("4", "7")
    assert (len(task.train), len(task.test)) == (16, 4)
    image = task.train.images[0]
    assert image.shape == (5, 5, 3)  # type: ignore[union-attr]
    assert (image == np.arange(25).reshape(5, 5, 1)).all()  # type: ignore[union-attr]


def test_an_image_is_held_out_by_its_content(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (90, 6, 6, 3), np.uint8)
    labels = np.repeat([0, 1, 2], 30)
    np.savez(tmp_path / "a.npz", images=images, labels=labels, classes=["ant", "bee", "cat"])
    order = np.random.default_rng(1).permutation(90)
    order = order[np.isin(labels[order], [1, 2])]
    np.savez(tmp_path / "b.npz", images=images[order], labels=labels[order] + 4)
    one, two = load_task(f"{tmp_path}/a.npz"), load_task(f"{tmp_path}/b.npz")
    assert len(one.test) == 18
    assert set(two.test.digests) <= set(one.test.digests)
    assert not set(two.train.digests) & set(one.test.digests)


def test_copies_of_training_images_among_the_held_out_are_mentioned(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    (note,) = load_task(f"{tmp_path}/a.npz").notes
    assert "6 of 6 held-out images are copies of training images" in note


def test_class_names_of_any_kind_of_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays() | {"classes": np.array(["Äpfel".encode(), b"bee", b"cat"])})
    assert load_task(f"{tmp_path}/a.npz").classes == ("Äpfel", "bee", "cat")
    assert load_task(f"{tmp_path}/a.npz#A\u0308pfel,cat").classes == ("Äpfel", "cat")  # NFD


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    content = arrays()
    np.savez(tmp_path / "a.npz", **content)
    before, state = load_task(f"{tmp_path}/a.npz").fingerprint, (tmp_path / "a.npz").stat()
    np.savez(tmp_path / "a.npz", **content | {"x_train": 255 - content["x_train"]})
    os.utime(tmp_path / "a.npz", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (tmp_path / "a.npz").stat().st_size == state.st_size
    assert load_task(f"{tmp_path}/a.npz").fingerprint != before


Change = Callable[[dict[str, np.ndarray]], object]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("y_test"), "lacks the keys"),
        (lambda a: a.update(x_train=a["x_train"] / 255), "float64: store them as uint8"),
        (lambda a: a.update(x_train=a["x_train"][:, 0, 0]), r"shape \[12, 3\]"),
        (lambda a: a.update(y_train=a["y_train"][1:]), "one integer for each of the 12 images"),
        (lambda a: a.update(y_train=a["y_train"] * 1.0), "labels of type float64"),
        (lambda a: a.update(y_test=a["y_test"] + 1), "labels from 0 to 3, but 3 names"),
        (lambda a: a.update(y_test=a["y_test"] * 0), "class 'bee' of .* has no test images"),
        (lambda a: a.update(classes=np.array(["a", "a", "b"])), "class name twice"),
        (lambda a: a.update(x_train=a["x_train"].astype(np.uint16) * 257), "uint16: store them as uint8"),
        (lambda a: a.update(x_train=a["x_train"] * np.nan), "float64: store them as uint8"),
        (lambda a: a.update(x_train=np.zeros((12, 1, 2000), np.uint8)), "2000 x 1 pixels are longer than 100 times"),
        (lambda a: a.update(x_train=a["x_train"][..., :2]), r"shape \[12, 8, 6, 2\]"),
        (lambda a: a.update(x_train=a["x_train"][:0], y_train=a["y_train"][:0]), r"shape \[0, 8, 6, 3\]"),
        (lambda a: a.update(y_train=a["y_train"] - 1), "labels from -1 to 1: count the classes from 0 up"),
        (lambda a: a.update(y_train=np.full(12, 2**64 - 1, np.uint64)), "count the classes from 0 up"),
        (lambda a: a.update(y_train=a["y_train"] > 0), "labels of type bool"),
        (lambda a: a.update(x_train=np.array([None] * 12)), "plain arrays"),
        (lambda a: a.update(classes=np.array(["a", None, "b"], object)), "plain arrays"),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, change: Change, says: str) -> None:
    content = arrays()
    change(content)
    np.savez(tmp_path / "a.npz", **content)  # type: ignore[arg-type]
    with pytest.raises(MvpError, match=says) as caught:
        load_task(f"{tmp_path}/a.npz")
    assert caught.value.code == ExitCode.INPUT
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digits#3", "only the class '3'"),
        ("digits#", "no class of digits"),
        ("digits#1,1", "'1' is named twice"),
        ("digits#1,eleven", "no class 'eleven'"),
        ("#1,2", "names no source"),
        ("nowhere.npz#a,b", "no image folder and no .npz, .* file 'nowhere.npz'"),
    ],
)
def test_unusable_names_are_explained(spec: str, says: str) -> None:
    with pytest.raises(MvpError, match=says) as caught:
        load_task(spec)
    assert caught.value.code == ExitCode.INPUT


def promising() -> bytes:
    """An .npz whose header promises a million images, where there are none."""
    file, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "|u1", "fortran_order": False, "shape": (1_000_000, 224, 224, 3)}
    )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", array.getvalue())
        archive.writestr("labels.npy", array.getvalue())
    return file.getvalue()


def other() -> bytes:
    """An archive of what is no array."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", "hello")
    return file.getvalue()


def plain() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", promising(), other(), plain()])
def test_a_broken_npz_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(MvpError, match=r"a\.npz cannot be read"):
        load_task(f"{tmp_path}/a.npz")


def test_an_npz_cut_short_is_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **arrays())  # type: ignore[arg-type]
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    whole[60:90] = bytes(30)  # the directory at the end is fine, a member is not
    (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(MvpError, match=r"a\.npz cannot be read"):
        load_task(f"{tmp_path}/a.npz")


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [("cifar100_200x50.npz", 100, 32), ("caltech101_64.npz", 101, 64), ("omniglot28.npz", 1623, 28)],
)
def test_real_image_sets_load(name: str, classes: int, size: int) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"needs {SHARED / name}, which only the project's own machines have")
    whole = load_task(str(SHARED / name))
    assert len(whole.classes) == classes
    some = load_task(f"{SHARED / name}#" + ",".join(f'"{c}"' for c in whole.classes[5:1:-1]))
    assert some.classes == whole.classes[5:1:-1]
    assert some.train.images.shape[1:] == (size, size, 3)  # type: ignore[union-attr]
    assert len(some.train) < len(whole.train)
    assert sorted(set(some.test.labels.tolist())) == [0, 1, 2, 3]
