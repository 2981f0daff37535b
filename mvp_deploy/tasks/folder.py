"""Tasks from folders of images, one folder per class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvp_deploy.errors import DeployError
from mvp_deploy.tasks.task import Split, Task, choose, held_out

Files = dict[str, list[Path]]  # of each class


def read_folder(spec: str, root: Path, wanted: tuple[str, ...] | None, seed: int, skip_bad: bool) -> Task:
    """A task from ``root/train/CLASS/*`` with ``root/val`` or ``root/test`` (val where there are both), or from
    ``root/CLASS/*`` split by the seed. Every image is decoded once, so that a broken one is found here.
    """
    if not _class_folders(root / "train"):
        found, skipped = _usable(root, wanted, skip_bad)
        classes = choose(str(root), sorted(found), wanted)
        whole = _split(found, classes)
        test = held_out((classes[label] for label in whole.labels), str(root), seed)
        return Task(spec, classes, _part(whole, ~test), _part(whole, test), skipped)

    other = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if other is None:
        raise DeployError(f"{root} has train/ but neither val/ nor test/: add one with the same class folders")
    train, skipped_train = _usable(root / "train", wanted, skip_bad)
    test_files, skipped_test = _usable(other, wanted, skip_bad)
    lonely = sorted(train.keys() ^ test_files.keys())
    if lonely and not skip_bad:
        where, missing = (root / "train", other) if lonely[0] in train else (other, root / "train")
        raise DeployError(
            f"class {lonely[0]!r} is in {where} but not in {missing}: give both the same class folders, or pass "
            "--skip-bad to leave such classes out"
        )
    classes = choose(str(root), sorted(train.keys() & test_files.keys()), wanted)
    skipped = skipped_train + skipped_test + len(lonely)
    return Task(spec, classes, _split(train, classes), _split(test_files, classes), skipped)


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """The image as uint8 RGB [height, width, 3]; raises DeployError when it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders raise whatever a broken file drives them to
        raise DeployError(_unreadable(path, error)) from error


def _usable(root: Path, wanted: tuple[str, ...] | None, skip_bad: bool) -> tuple[Files, int]:
    """The readable images of each class, and how many images and classes were left out as unusable."""
    names = [folder.name for folder in _class_folders(root)]
    if not names:
        raise DeployError(f"{root} has no class folders: put each class's images into a folder of its name")
    chosen = names if wanted is None else [name for name in names if name in wanted]
    if wanted is not None and len(chosen) < len(wanted):
        choose(str(root), names, wanted)  # says which name is unknown
    files = {name: _images(root / name) for name in chosen}
    errors = _errors([path for paths in files.values() for path in paths])
    if errors and not skip_bad:
        raise DeployError(next(iter(errors.values())))
    good = {name: [path for path in paths if path not in errors] for name, paths in files.items()}
    empty = [name for name, paths in good.items() if not paths]
    if empty and not skip_bad:
        raise DeployError(
            f"the class folder {root / empty[0]} holds no images: add some, remove it, or pass --skip-bad"
        )
    return {name: paths for name, paths in good.items() if paths}, len(errors) + len(empty)


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    from PIL import Image

    endings = Image.registered_extensions()
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".") and p.is_file()
    )


def _errors(paths: list[Path]) -> dict[Path, str]:
    """What is wrong with each file that cannot be decoded to its end."""
    with ThreadPoolExecutor() as threads:  # decoding does not hold Python's lock
        return {path: error for path, error in zip(paths, threads.map(_error, paths), strict=True) if error}


def _error(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))  # JPEG: read all of the file, but reconstruct an eighth of the size
            image.load()
    except Exception as error:  # decoders raise whatever a broken file drives them to
        return _unreadable(path, error)
    return None


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} cannot be read as an image ({error}): replace it, remove it, or pass --skip-bad"


def _split(files: Files, classes: tuple[str, ...]) -> Split:
    paths = tuple(path for name in classes for path in files[name])
    labels = [k for k, name in enumerate(classes) for _ in files[name]]
    return Split(paths, np.array(labels, np.int64))


def _part(split: Split, mask: npt.NDArray[np.bool_]) -> Split:
    paths = tuple(path for path, taken in zip(split.images, mask, strict=True) if taken)
    return Split(paths, split.labels[mask])  # type: ignore[arg-type]
