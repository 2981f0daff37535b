"""Tasks from folders of images, one folder per class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvp_deploy.base.errors import DeployError
from mvp_deploy.tasks.task import Split, Task, choose, held_out

Files = dict[str, list[Path]]  # of each class


def read_folder(spec: str, root: Path, wanted: tuple[str, ...] | None, seed: int, skip_bad: bool) -> Task:
    """A task from ``root/train/CLASS/*`` with ``root/val`` or ``root/test`` (val where there are both), or
    from ``root/CLASS/*`` split by the seed. Every image is decoded once, so that a broken one is found here.
    """
    if _class_folders(root / "train"):  # else «train» may be the name of a class
        return _divided(spec, root, wanted, skip_bad)
    files, skipped = _usable(root, wanted, skip_bad)
    classes = choose(str(root), sorted(files), wanted)
    whole = _split(files, classes)
    test = held_out((classes[label] for label in whole.labels), str(root), seed)
    return Task(spec, classes, _part(whole, ~test), _part(whole, test), skipped)


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """The image as uint8 RGB [height, width, 3]; raises DeployError when it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders raise whatever a broken file drives them to
        raise DeployError(_unreadable(path, error)) from error


def _divided(spec: str, root: Path, wanted: tuple[str, ...] | None, skip_bad: bool) -> Task:
    held = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if held is None:
        raise DeployError(f"{root} has train/ but neither val/ nor test/: add one, with the same classes")
    train, skipped_train = _usable(root / "train", wanted, skip_bad)
    test, skipped_test = _usable(held, wanted, skip_bad)
    lonely = sorted(train.keys() ^ test.keys())
    if lonely and not skip_bad:
        there, missing = (root / "train", held) if lonely[0] in train else (held, root / "train")
        raise DeployError(
            f"class {lonely[0]!r} is in {there} but not in {missing}: give both the same class folders, or "
            "pass --skip-bad to leave such classes out"
        )
    classes = choose(str(root), sorted(train.keys() & test.keys()), wanted)
    skipped = skipped_train + skipped_test + len(lonely)
    return Task(spec, classes, _split(train, classes), _split(test, classes), skipped)


def _usable(root: Path, wanted: tuple[str, ...] | None, skip_bad: bool) -> tuple[Files, int]:
    """The readable images of each class, and how many images and classes were left out as unusable."""
    names = [folder.name for folder in _class_folders(root)]
    if not names:
        raise DeployError(f"{root} has no class folders: put each class's images into a folder of its name")
    chosen = names if wanted is None else choose(str(root), names, wanted)
    files = {name: _images(root / name) for name in chosen}
    errors = _errors([path for paths in files.values() for path in paths])
    if errors and not skip_bad:
        raise DeployError(next(iter(errors.values())))
    good = {name: [path for path in paths if path not in errors] for name, paths in files.items()}
    empty = [name for name, paths in good.items() if not paths]
    if empty and (wanted is not None or not skip_bad):
        cure = "do not name the class" if skip_bad else "remove the folder, or pass --skip-bad"
        raise DeployError(f"the class folder {root / empty[0]} holds no readable image: add some, or {cure}")
    return {name: paths for name, paths in good.items() if paths}, len(errors) + len(empty)


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    from PIL import Image

    endings = Image.registered_extensions()
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.suffix.lower() in endings]


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
    return Split(tuple(split.images[k] for k in np.flatnonzero(mask)), split.labels[mask])
