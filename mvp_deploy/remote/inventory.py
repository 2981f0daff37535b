"""devices.yaml: the machines that can be reached, and how.

pi5:
  address: pi@pi5.local
  python: ~/venv/bin/python
  threads: 4
  power: {governor: performance}
  tags: [arm]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mvp_deploy.base import yamlfile
from mvp_deploy.base.bounds import DEVICE, THREADS
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import write_text
from mvp_deploy.base.formats import Like

MISTAKES = 20  # told at once
ALL = "all"  # the tag that every device has
FIRST = "# Devices for --on. Keys, host names and jump hosts are ssh's: see ~/.ssh/config.\n"

# No name starts with a dash, which ssh would take for an option.
Name = Annotated[str, Like("[A-Za-z0-9][A-Za-z0-9_-]{0,59}", "up to 60 letters, digits, - and _, the first no - or _")]
Address = Annotated[str, Like(r"[A-Za-z0-9_:][A-Za-z0-9_.+@:%\[\]-]{0,299}", "user@host, or a Host of ~/.ssh/config")]
Place = Annotated[str, Like(r"[^\x00-\x1f-][^\x00-\x1f]{0,999}", "a path")]
Where = Annotated[str, Like(DEVICE, "auto, cpu, cuda or cuda:N")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, str_max_length=4096)


class Power(Strict):
    """The state the device must be in when something is timed. Nothing here is changed: differences are reported."""

    power_mode: str | None = Field(None, description="Jetson's (nvpmodel), as MAXN or 15W.")
    jetson_clocks: bool | None = Field(None, description="Whether Jetson's clocks are fixed.")
    governor: str | None = Field(None, description="Of all CPU cores, as performance.")


class Device(Strict):
    """One machine."""

    address: Address = Field(description="user@host, or a Host of ~/.ssh/config.")
    port: int | None = Field(None, ge=1, le=65535, description="ssh's if left out.")
    python: Place = Field("python3", description="The Python that has the runtime; ~/ is the device's home.")
    workdir: Place = Field("~/.cache/mvp-deploy-device", description="Where files are kept there.")
    keep_mb: int = Field(4000, ge=0, le=10**7, description="Of files kept there between runs.")
    threads: int | None = Field(
        None, ge=THREADS.low, le=THREADS.high, description="Of each runtime; one per core if left out."
    )
    device: Where | None = Field(None, description="For --device there: auto, cpu, cuda or cuda:N.")
    power: Power = Power()
    tags: list[Name] = []
    wait_s: int = Field(3600, ge=0, le=10**6, description="Seconds to wait while another run holds it.")
    limit_s: int = Field(7200, ge=1, le=10**6, description="Seconds that a command may take there.")

    @property
    def settings(self) -> dict[str, Any]:
        """What times taken there depend on, as JSON values."""
        return self.model_dump(mode="json", exclude={"tags", "wait_s", "limit_s", "keep_mb"})


Inventory = Mapping[str, Device]
FILE: TypeAdapter[dict[str, Device]] = TypeAdapter(dict[Name, Device])


def load(path: Path) -> Inventory:
    """Read and check devices.yaml.

    Raises:
        MvpError: (INPUT) there is none, or values are wrong; it names line and key of each mistake.
    """
    missing = f"{path} does not exist: `mvp-deploy devices add NAME user@host` starts it."
    root, data = yamlfile.read(path, missing)
    return _checked(path, root, data if data is not None else {})


def add(path: Path, name: str, device: Mapping[str, Any]) -> Device:
    """Write a device below those that the file has; its comments stay.

    Raises:
        MvpError: (INPUT) the name is taken, or a value is wrong; nothing is written then.
    """
    import yaml

    there = FIRST
    if path.exists():
        if name in load(path):  # which refuses pipes, devices and what is too long
            raise InputError(f"{path} has {name!r} already: change it there, or choose another name.")
        there = path.read_text(encoding="utf-8")
    entry = yaml.safe_dump({name: dict(device)}, sort_keys=False, allow_unicode=True)
    text = there + ("" if there.endswith("\n") else "\n") + entry
    found = _checked(path, *yamlfile.parse(text))
    write_text(path, text)
    return found[name]


def chosen(inventory: Inventory, names: Sequence[str]) -> Inventory:
    """The devices of these names or tags, each once.

    Raises:
        MvpError: (INPUT) there is no such name and no such tag.
    """
    found = {}
    for name in names:
        hits = {key: each for key, each in inventory.items() if name in (key, ALL) or name in each.tags}
        if not hits:
            known = sorted({*inventory, *(tag for each in inventory.values() for tag in each.tags)})
            raise InputError(f"there is no device and no tag {name!r}: devices.yaml has {', '.join(known) or 'none'}.")
        found.update(hits)
    return found


def one(path: Path, name: str) -> tuple[str, Device]:
    """The device of this name in the file, to prune for, where a profile's file might have been named.

    Raises:
        MvpError: (INPUT) there is none, or it is several devices' tag; what `load` raises.
    """
    try:
        (found, *others) = chosen(load(path), (name,)).items()
    except InputError as error:
        raise InputError(f"{error} If {name} is a profile: its file must end in .json.") from error
    if others:
        raise InputError(f"{name} is {len(others) + 1} devices: a model is pruned for one, so name it.")
    return found


def _checked(path: Path, root: Any, data: Any) -> Inventory:
    try:
        found = FILE.validate_python(data, strict=True)
    except ValidationError as error:
        told = dict.fromkeys(f"{path}, {_told(root, problem)}" for problem in error.errors())
        raise InputError("\n".join([*told][:MISTAKES])) from error
    if ALL in found:
        raise InputError(f"{path}: {ALL!r} stands for every device: choose another name for one.")
    return found


def _told(root: Any, problem: Any) -> str:
    """A validation error as 'line N: key: what is wrong'."""
    where = [part for part in problem["loc"] if part != "[key]"]
    line = yamlfile.line_of(root, where) if root is not None else 1
    message = yamlfile.wrong(problem, {*Device.model_fields, *Power.model_fields})
    return f"line {line}: {'.'.join(map(str, where)) or 'the file'}: {message}"
