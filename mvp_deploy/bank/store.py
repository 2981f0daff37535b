"""The bank: a folder with a backbone and one file per task already pruned.

    BANK/bank.json                  format and backbone; written last, so a folder with it is whole
    BANK/backbone.safetensors       the pretrained weights
    BANK/tasks/NAME-HASH.safetensors  one task: keep plan, metrics, cost in its header; weights, scores, signature
    BANK/balance.json               how much own importance counts beside lent (see balance.py)
    BANK/ladder/                    models at a few budgets that serve every task (see ladder.py)
    BANK/.work/                     locks, and what interrupted additions go on from

There is no index that writers could spoil for each other: the folder is the list. Each file appears whole or not at
all, a lock per task keeps two writers of one task apart (it dies with its process), and everything read is checked
against its checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mvp_deploy.backbones import Backbone
from mvp_deploy.bank import balance
from mvp_deploy.bank.entry import Entry, Record
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.files import is_leftover, locked, remove_leftovers, write_text, writing_errors
from mvp_deploy.base.formats import Malformed, Sha256, damaged, parse, read_json, sealed, unsealed
from mvp_deploy.base.workspaces import remove_workspaces

FORMAT = 2  # of bank.json; 1 had no checksum of itself


@dataclass(frozen=True)
class BankFile:
    """bank.json, but for its checksum."""

    format: int
    backbone: Backbone
    fingerprint: Sha256


@dataclass(frozen=True)
class Bank:
    """An open bank. Make one with `init`, open one with `open`."""

    folder: Path
    backbone: Backbone

    @classmethod
    def init(cls, folder: str | os.PathLike[str], backbone: Backbone, state: Mapping[str, Tensor]) -> Bank:
        """Start an empty bank for ``backbone`` with its weights. Raises MvpError if there is something."""
        folder = Path(folder)
        _refuse_strangers(folder, backbone)
        with locked(folder / ".work" / "init.lock", f"another process is starting the bank {folder}: wait for it."):
            _refuse_strangers(folder, backbone)  # meanwhile another process may have started it
            with writing_errors(folder):
                (folder / "tasks").mkdir(parents=True, exist_ok=True)
            tensorfile.save(folder / "backbone.safetensors", backbone.to_json(), {"weights": state})
            content = {"format": FORMAT, "backbone": backbone.to_json(), "fingerprint": backbone.fingerprint}
            write_text(folder / "bank.json", json.dumps(sealed(content), indent=2) + "\n")
        return cls(folder, backbone)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bank:
        """Open a bank. Raises MvpError if there is none, or one of another format."""
        folder = Path(folder)
        file, cure = folder / "bank.json", "restore it from a copy"
        missing = f"{folder} is not a bank: make one with `mvp-deploy bank init {folder} --backbone resnet18`."
        found = read_json(file, dict, cure=cure, missing=missing, versions=(1, FORMAT))
        try:
            content = parse(BankFile, found if found["format"] == 1 else unsealed(found))
        except Malformed as error:
            raise damaged(file, error, cure) from error
        if content.backbone.fingerprint != content.fingerprint:
            raise InputError(f"{file} was changed by hand: its backbone's fingerprint does not match.")
        return cls(folder, content.backbone)

    @property
    def origin(self) -> str:
        """What results are known by to be of the same backbone; see `NoBank`."""
        return self.backbone.fingerprint

    def kept(self, file: Path) -> Bank:
        """The bank whose units work that once began goes on counting; see `NoBank`."""
        return self

    def state(self) -> dict[str, Tensor]:
        """The backbone's pretrained weights, without a head. Raises MvpError if they are not this bank's."""
        header, sections = tensorfile.load(self.folder / "backbone.safetensors")
        self.require(Backbone.from_json(header).fingerprint, "backbone.safetensors")
        return sections["weights"]

    def require(self, fingerprint: str, what: str) -> None:
        """Refuse what was made from another backbone, other weights or other preprocessing."""
        if fingerprint != self.backbone.fingerprint:
            raise InputError(
                f"{what} does not belong to the bank {self.folder}: its backbone or weights are not the bank's "
                f"{self.backbone.name}. Use the bank it was made for, or start a new one."
            )

    def path(self, name: str) -> Path:
        """Where the task of that name is stored, whether it is or not."""
        return self.folder / "tasks" / f"{_stem(name)}.safetensors"

    def entries(self, damaged: list[str] | None = None) -> Iterator[Entry]:
        """All stored tasks by file name, from headers alone.

        A damaged file raises MvpError, or, where ``damaged`` is given, adds its sentence there.
        """
        for path in self._files():
            try:
                yield Entry.read(path)
            except MvpError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))

    def _files(self) -> list[Path]:
        found = (path for path in (self.folder / "tasks").glob("*.safetensors") if path.name[0] != ".")
        return sorted(found, key=lambda path: path.name)

    def rungs(self) -> list[Path]:
        """The files of the ladder's models, largest first."""
        found = (path for path in (self.folder / "ladder").glob("*.safetensors") if path.name[0] != ".")
        return sorted(found, key=lambda path: path.name, reverse=True)

    def entry(self, name: str) -> Entry:
        """The stored task of that name. Raises MvpError if there is none."""
        path = self.path(name)
        if not path.exists():
            raise InputError(f"{self.folder} has no task {name!r}: `mvp-deploy bank list {self.folder}` shows all.")
        return Entry.read(path)

    @contextmanager
    def alone(self, name: str) -> Iterator[Path]:
        """Keep every other process from adding the task until the block ends. Gives its folder for work on the way.

        Raises MvpError if another process is adding it.
        """
        work = self.folder / ".work" / _stem(name)
        busy = f"{name!r} is being added to {self.folder} by another process: wait for it."
        with locked(work.with_name(f"{work.name}.lock"), busy):
            yield work

    @contextmanager
    def claim(self, name: str, *, replace: bool = False) -> Iterator[Path]:
        """As `alone`; raises MvpError too where the task is stored already (unless ``replace``)."""
        with self.alone(name) as work:
            self.require_free(name, replace=replace)
            remove_leftovers(self.path(name))  # of a killed process: the lock is ours, so nobody writes it
            yield work

    def require_free(self, name: str, *, replace: bool = False) -> None:
        """Raise MvpError if a task of that name is stored (unless ``replace``)."""
        if self.path(name).exists() and not replace:
            raise InputError(f"{name!r} is in {self.folder} already, made otherwise: give --replace to prune it again.")

    def add(self, record: Record, *, replace: bool = False) -> Entry:
        """Store a task, whole or not at all. Raises MvpError if its name is taken (unless ``replace``)."""
        with self.claim(record.name, replace=replace) as work:
            path = self.path(record.name)
            record.save(path, self.backbone.fingerprint)
            remove_workspaces(work)
        return Entry.read(path)

    def verify(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
        """Read every file whole, check every checksum and fingerprint; sentences on what is wrong, [] if nothing."""
        problems = []
        try:
            self.state()
        except MvpError as error:
            problems.append(str(error))
        paths = self._files()
        for index, path in enumerate(paths):
            try:
                entry = Entry.read(path)
                tensorfile.load(path)
                self.require(entry.backbone, str(path))
                if path != self.path(entry.name):
                    raise InputError(f"{path} was renamed: it holds {entry.name!r}. Name it {self.path(entry.name)}.")
            except MvpError as error:
                problems.append(str(error))
            progress(index + 1, len(paths))
        try:
            balance.read(self)
        except MvpError as error:
            problems.append(str(error))
        for path in self.rungs():
            try:
                self.require(tensorfile.load(path)[0].get("backbone", ""), str(path))
            except MvpError as error:
                problems.append(str(error))
        return problems


def _refuse_strangers(folder: Path, backbone: Backbone) -> None:
    """Refuse a folder for a new bank where anything lies but what a killed start of the same bank left."""

    def ours(path: Path) -> bool:
        if path.name != "backbone.safetensors":
            return path.name in ("tasks", ".work") or is_leftover(path, folder / "backbone.safetensors")
        try:
            return Backbone.from_json(tensorfile.read_header(path)).fingerprint == backbone.fingerprint
        except (MvpError, KeyError, TypeError):
            return False  # somebody's weights

    if (folder / "bank.json").exists():
        raise InputError(f"{folder} is a bank already: add tasks with `mvp-deploy bank add {folder} TASK`.")
    strange = sorted(path.name for path in folder.iterdir() if not ours(path)) if folder.is_dir() else []
    if strange or folder.is_file():
        what = strange[0] if strange else "it is a file"
        raise InputError(f"{folder} is not empty ({what}): name a new or empty folder for the bank.")


def _stem(name: str) -> str:
    """A file name for a task: readable, safe on every file system, and its own for every task."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[-40:].strip("-.")
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
