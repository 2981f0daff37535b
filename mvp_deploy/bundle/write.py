"""Writing a bundle, replacing one and taking one away: what its manifest does not list is never touched."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath

from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.files import sha256, writing_errors
from mvp_deploy.base.folders import atomic_folder
from mvp_deploy.bundle.examples import NAMES, examples
from mvp_deploy.bundle.format import BUILT, FORMAT, MANIFEST, SIGNATURE, inside, listed, names, write_json

# What `build` keeps in a bundle: engines with their descriptions, a list, a lock, and what a killed build left.
ENGINES = re.compile(rf"{BUILT}/[^/]+/(models\.json|[^/]+\.engine(\.json)?|\.lock|\..+\.[0-9a-f]{{16}}\.tmp[^/]*)")


@contextmanager
def writing(path: str | os.PathLike[str], seal: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends well it becomes the bundle, with its manifest.

    An older bundle of that name is replaced, in one step and only by a whole one. A killed process leaves either, and
    the next one clears up.

    Args:
        seal: called with the folder and its manifest, before it takes its place: to sign it.

    Raises:
        MvpError: (INPUT) something that is not a bundle of ours is in the way, or a bundle with files that are not
            its own; (ENVIRONMENT) another process is writing there, or nobody can.
    """
    path = Path(os.path.realpath(path))
    with atomic_folder(path, partial(refuse_strangers, path), _delete) as fresh:
        yield fresh
        with writing_errors(path):
            for name, program in examples(fresh).items():
                (fresh / name).write_text(program, encoding="utf-8")
            files = {
                name: {"sha256": sha256(fresh / name), "bytes": (fresh / name).stat().st_size}
                for name in names(fresh)
                if not name.startswith(f"{BUILT}/")
            }
            write_json(fresh / MANIFEST, {"format": FORMAT, "files": files})
        if seal is not None:
            seal(fresh)


def add(path: Path, files: Mapping[str, bytes], seal: Callable[[Path], None] | None = None) -> None:
    """Put more files, named with slashes, into a bundle and its manifest: all of them or none.

    What was built in it stays. A signature goes, unless ``seal`` signs again.

    Raises:
        MvpError: as `writing` does.
    """
    path = Path(os.path.realpath(path))
    with writing(path, seal) as fresh, writing_errors(path):
        shutil.copytree(path, fresh, dirs_exist_ok=True, copy_function=_link, ignore=partial(_made_again, path))
        for name, content in files.items():
            target = inside(fresh, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # the old bundle may share it
            target.write_bytes(content)


def _made_again(bundle: Path, folder: str, names: list[str]) -> set[str]:
    """What `writing` makes; a user's file of such a name in ``extra`` is another's."""
    return {MANIFEST, SIGNATURE, *NAMES} & set(names) if Path(folder) == bundle else set()


def _link(source: str, target: str) -> None:
    """The same content under another name; a copy where the file system has no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)


def withdraw(path: Path) -> None:
    """Take a bundle away, where there is one.

    Raises:
        MvpError: (INPUT) it is not a bundle of ours, or holds files that are not its own: it is left as it is.
    """
    path = Path(os.path.realpath(path))
    if not path.exists():
        return
    with atomic_folder(path, partial(refuse_strangers, path), _delete):
        pass  # an empty folder takes its place
    with writing_errors(path):
        path.rmdir()


def refuse_strangers(path: Path) -> None:
    """Refuse a place for a bundle where anything lies that no manifest of ours lists."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        strangers = sorted(_everything(path) - own_names(path, _everything(path)))
    except MvpError as error:
        raise InputError(f"{path} exists and is not a bundle: choose another --out, or remove it.") from error
    if strangers:
        raise InputError(
            f"{path} holds what is not of its bundle ({', '.join(strangers[:3])}): move that away, or choose another "
            "--out."
        )


def own_names(path: Path, there: Iterable[str]) -> set[str]:
    """What of a bundle is its own: the files that its manifest lists, engines among those ``there``, their folders.

    Raises:
        MvpError: it is not a bundle of this format.
    """
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} has no {MANIFEST}.")
    files = {MANIFEST, SIGNATURE, *listed(path), *filter(ENGINES.fullmatch, there)}
    for name in files:
        inside(path, name)  # refuses a name that leads out
    return files | {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}


def _everything(path: Path) -> set[str]:
    """Every file and folder below a folder, with slashes."""
    if not path.is_dir():
        return {path.name}
    found = (
        Path(folder, name).relative_to(path).as_posix()
        for folder, folders, files in os.walk(path)
        for name in [*files, *folders]
    )
    return set(found)


def _delete(path: Path) -> None:
    """Delete a bundle's own files and then its empty folders; whatever else lies there stays."""
    own = own_names(path, _everything(path)) if (path / MANIFEST).is_file() else {"."}
    deepest_first = sorted(own - {MANIFEST}, key=lambda name: -len(PurePosixPath(name).parts))
    for name in (*deepest_first, MANIFEST, "."):
        with suppress(OSError):
            (Path.rmdir if (path / name).is_dir() else Path.unlink)(path / name)
