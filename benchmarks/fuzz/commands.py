"""Commands with bad values, bad paths and damaged inputs: each ends in a sentence and its exit code, and loses no file.

    nice -n 19 python benchmarks/fuzz/commands.py --seconds 600 --out benchmarks/fuzz/commands.json

Every input is one of the calls of `CALLS`, which work, with one to three changes: an option's value, any other option
that the command has, a path in its place (missing, empty, a folder, a pipe, a dead link, another kind of file), or
bytes of a file it reads. A fault is: an exit code that is not told in `mvp-deploy --help`, or 1 («unexpected»); a
failure that says nothing, or says it in a traceback; a file of somebody else that is changed or gone; a call that takes
over two minutes, but for commands that train or measure, which are then stopped and counted as such.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from click.testing import CliRunner
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from fakes.bundle import tiny_bundle
from fuzz.mutate import contents, remove

from mvp_deploy.base.environment import environment
from mvp_deploy.cli import main as command

TINY = ["--steps", "1", "--batch-size", "8", "--device", "cpu"]
CALLS = {
    "export": ["export", "run", "--out", "OUT", "--measure", "", "--precision", "fp32", "--max-drop", "1"],
    "bench": ["bench", "bundle", "--duration", "0.01", "--batch", "1,2", "--threads", "1"],
    "evaluate": ["evaluate", "bundle", "photos", "--part", "all", "--limit", "3", "--csv", "OUT"],
    "predict": ["predict", "bundle", "photos/a/0.png", "--top", "2", "--threads", "1"],
    "pack": ["pack", "bundle", "--for", "triton", "--out", "OUT", "--name", "dogs"],
    "bank init": ["bank", "init", "OUT", "--backbone", "test_resnet", "--weights", "weights.safetensors"],
    "bank add": ["bank", "add", "bank", "digits#4,5", *TINY, "--rounds", "1", "--round-steps", "1", "--keep", "0.5"],
    "bank build": ["bank", "build", "bank", "--macs", "0.5", "--images", "photos", *TINY],
    "bank evaluate": ["bank", "evaluate", "bank", "digits#0,1", "--steps", "1", "--repeats", "1"],
    "bank show": ["bank", "show", "bank", "digits#0,1"],
    "prune": ["prune", "photos", "--bank", "bank", "--out", "OUT", *TINY, "--keep", "0.5", "--neighbours", "1"],
    "shrink": ["shrink", "photos", "--model", "test_resnet", "--weights", "weights.safetensors", "--image-size", "32",
               "--out", "OUT", "--train", "none", "--macs", "0.5", "--measure", "", "--device", "cpu"],
    "profile": ["profile", "test_resnet", "--out", "OUT.json", "--image-size", "32", "--threads", "1", "--batch", "1"],
    "frontier": ["frontier", "photos", "--backbone", "test_resnet", "--weights", "weights.safetensors",
                 "--image-size", "32", "--out", "OUT", "--keep-time", "", "--time-limit", "1"],
    "report": ["report", "times.json", "--out", "OUT.html"],
    "verify": ["verify", "bundle"],
    "check": ["check", "bundle/models/pruned.fp32.onnx", "--for", "tensorrt"],
    "build": ["build", "bundle", "--precision", "fp32", "--batch", "1:2:4"],
    "structure": ["structure", "test_resnet", "--image-size", "32"],
    "run": ["run", "deploy.yaml", "--dry-run"],
    "bank list": ["bank", "list", "bank"],
    "bank verify": ["bank", "verify", "bank"],
    "devices": ["devices", "list"],
    "push": ["push", "bundle", "somebody/dogs"],
    "init": ["init", "OUT.yaml"],
    "schema": ["schema"],
}  # fmt: skip
CONFIG = "bank: bank\nout: deploy\nbudget: {fraction: 0.5, of: units}\ntasks:\n  ones: {data: 'digits#1,8'}\n"
SLOW = {"export", "bank add", "bank build", "prune", "shrink", "profile", "frontier", "bank evaluate"}
PATHS = ("empty", "folder", "pipe", "dead", "noise", "theirs", "bundle", "bank", "run", "photos", "weights.safetensors",
         "bundle/samples.npz", "run/run.json", "theirs/thesis.txt", ".", "noise/x", "deploy.yaml")  # fmt: skip
VALUES = ("nan", "-inf", "-1", "0", "1e999", "9" * 400, "", "x", "1,", ",", "--", "\u0663", "\x00", "x" * 5000, "../x",
          "/", "a b#c \u00e9\nd", "-x", "hf-hub:", "local-dir:", "digits", "digits#", "digits#0", "digits#0,0",
          "digits#11", "digits?limit=0", "photos#a", "\udcff", "1:2", "0x10", "~", "*", "a=b", "none",
          "cuda:99")  # fmt: skip
CODES = range(8)
STOPPED = -1


class Late(BaseException):
    """A call takes too long. Not an Exception, of which a command makes a row's error."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def make(folder: Path) -> None:
    """What the calls read, and files of somebody else."""
    from mvp_deploy.backbones import create
    from mvp_deploy.tasks import load_task

    draw = np.random.default_rng(0)
    for kind, level in (("a", 60), ("b", 190)):
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(8):
            pixels = np.clip(level + draw.normal(0, 20, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{number}.png")
    assert load_task(str(folder / "photos")).classes == ("a", "b")
    from safetensors.torch import save_file

    save_file(create("test_resnet", image_size=32)[1], folder / "weights.safetensors")
    tiny_bundle(folder / "bundle", ["fp32", "int8"])
    for call in (
        ["bank", "init", "bank", "--backbone", "test_resnet", "--weights", "weights.safetensors", "--image-size", "32"],
        ["bank", "add", "bank", "digits#0,1", "digits#2,3", *TINY, "--rounds", "1", "--round-steps", "1"],
        ["prune", "photos", "--bank", "bank", "--out", "run", *TINY, "--keep", "0.5"],
        ["bench", "bundle", "--duration", "0.01", "--out", "times.json"],
    ):
        done = CliRunner().invoke(command, call)
        assert done.exit_code == 0, done.output
    (folder / "deploy.yaml").write_text(CONFIG)
    (folder / "theirs").mkdir()
    (folder / "theirs/manifest.json").write_text('{"name": "a web app"}')
    (folder / "theirs/thesis.txt").write_text("precious")


def changed(call: list[str], draw: random.Random, there: Path) -> tuple[list[str], list[str]]:
    """The call with one to three changes, and what they are."""
    call, told = list(call), []
    for _ in range(draw.choice((1, 1, 2, 3))):
        values = [place for place, part in enumerate(call) if place and not part.startswith("--")]
        anywhere = range(1, len(call)) or [1]
        place = draw.choice(values if values and draw.random() < 0.9 else anywhere)
        kind = draw.choice((0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 4, 4, 5, 5, 5))
        if kind == 0:
            call[place : place + 1] = [draw.choice(VALUES)]
        elif kind == 1:
            call[place : place + 1] = [draw.choice(PATHS)]
        elif kind == 2:
            del call[place : place + 1]
        elif kind == 3:
            call[place:place] = call[place : place + 1]
        elif kind == 5 and (others := options_of(call)):
            call.append(f"{draw.choice(others)}={draw.choice((*VALUES, *PATHS))}")
        else:
            told.append(spoilt(draw, there))
    return call, told


def options_of(call: list[str]) -> list[str]:
    """The options that the command has which the call names, but for --debug, which shows tracebacks."""
    found: click.Command = command
    for part in call:
        if not isinstance(found, click.Group):
            break
        found = found.get_command(click.Context(found), part) or found
    options = [each for each in found.params if isinstance(each, click.Option) and not each.is_flag]
    return [each.opts[-1] for each in options]


def spoilt(draw: random.Random, there: Path) -> str:
    """Damage one file of the inputs, in place."""
    files = sorted(
        path for name in ("bundle", "bank", "run", "photos", "times.json", "weights.safetensors")
        for path in ([there / name] if (there / name).is_file() else (there / name).rglob("*")) if path.is_file()
    )  # fmt: skip
    file = draw.choice(files)
    if not (whole := file.read_bytes()):
        return ""
    what, content = draw.choice(list(contents(whole, count=4, seed=draw.randrange(2**31))))
    file.write_bytes(content)
    return f"{file.relative_to(there)}: {what}"


def odd(folder: Path) -> None:
    (folder / "empty").touch()
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "dead").symlink_to("nowhere")
    (folder / "noise").write_bytes(random.Random(0).randbytes(4096))


def state(folder: Path) -> dict[str, bytes]:
    """What must stay as it is, whatever is asked for: files of others, and of ours that no call writes to."""
    names = ("photos", "theirs", "weights.safetensors", "deploy.yaml")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in names
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
        if path.is_file()
    }


def tried(one: str, call: list[str], folder: Path) -> tuple[int, str | None]:
    """The exit code, and what is wrong with how it ended."""
    before = state(folder)
    try:
        with within(120), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = CliRunner().invoke(command, call)
    except Late:
        return STOPPED, None if one in SLOW else "over two minutes"
    said = done.output
    if done.exit_code not in CODES or done.exit_code == 1:
        wrong = f"exit code {done.exit_code}: {said[-300:]} {done.exception!r}"
        return done.exit_code, None if one == "bank verify" else wrong
    if "Traceback" in said or "Error: unexpected" in said:
        return done.exit_code, said[-300:]
    # a group without a command shows its help
    if done.exit_code and not ("Error" in said or said.startswith("Usage: ")):
        return done.exit_code, f"says nothing: {said[-300:]}"
    after = state(folder)
    if lost := [name for name, content in before.items() if after.get(name) != content]:
        return done.exit_code, f"changed or gone: {lost}"
    return done.exit_code, None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--only", nargs="*", default=list(CALLS))
    options.add_argument("--out", type=Path, default=Path(__file__).with_name("commands.json"))
    asked = options.parse_args()
    draw, out = random.Random(asked.seed), asked.out.absolute()
    rows = {name: {"inputs": 0, "codes": Counter(), "faults": 0, "first": None} for name in asked.only}
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        made, there = Path(name, "made"), Path(name, "there")
        made.mkdir()
        os.chdir(made)
        make(made)
        end = time.monotonic() + asked.seconds
        while time.monotonic() < end:
            one = draw.choices(asked.only, [1 if name in SLOW else 3 for name in asked.only])[0]
            os.chdir(name)
            remove(there) if there.exists() else None
            shutil.copytree(made, there, symlinks=True)
            odd(there)
            os.chdir(there)
            call, told = changed(CALLS[one], draw, there)
            code, wrong = tried(
                one, ["theirs" if part == "OUT" and draw.random() < 0.3 else part for part in call], there
            )
            row = rows[one]
            row["inputs"] += 1
            row["codes"]["stopped" if code == STOPPED else str(code)] += 1
            if wrong:
                row["faults"] += 1
                row["first"] = row["first"] or f"{call} {told}: {wrong}"
                print(one, call, told, wrong, sep="\n   ", flush=True)
        os.chdir("/")
    total = {key: sum(row[key] for row in rows.values()) for key in ("inputs", "faults")}
    found = {"seed": asked.seed, "seconds": asked.seconds, "total": total, "commands": rows}
    out.write_text(json.dumps(found | {"environment": environment()}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(total))


if __name__ == "__main__":
    main()
