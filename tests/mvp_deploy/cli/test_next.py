"""Every command ends with the one to call next: for people, not with --json or --quiet."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from fakes.bundle import tiny_bundle
from PIL import Image

from mvp_deploy.cli import main


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle, a photo, labelled photos; out: a folder that is not there."""
    folder = tmp_path_factory.mktemp("next")
    for name in "abcd":
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    bundle = tiny_bundle(folder / "bundle", ["fp32"])
    photos = folder / "photos"
    model = bundle / "models" / "pruned.fp32.onnx"
    return {"bundle": bundle, "photos": photos, "photo": photos / "a" / "0.png", "model": model, "out": folder / "out"}


CALLS = {
    "verify {bundle}": "mvp-deploy bench {bundle}",
    "bench {bundle} --duration 0.1 --threads 1": "mvp-deploy evaluate {bundle} DATA",
    "evaluate {bundle} {photos}": "mvp-deploy predict {bundle} PHOTO",
    "predict {bundle} {photo}": "mvp-deploy evaluate {bundle} DATA",
    "check {model}": "mvp-deploy build {bundle}, on the machine with the GPU",
    "pack {bundle} --for hf --out {out}": "mvp-deploy push {out} USER/NAME",
    "structure test_resnet": "mvp-deploy shrink DATA --model test_resnet --pretrained --macs 0.5 --out OUT",
}


@pytest.mark.parametrize(("call", "expected"), CALLS.items())
def test_a_command_ends_with_the_next_one(places: dict[str, Path], call: str, expected: str) -> None:
    done = CliRunner().invoke(main, call.format(**places).split())
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"Next: {expected.format(**places)}"


@pytest.mark.parametrize("flag", ["--json", "--quiet"])
def test_a_program_gets_none(places: dict[str, Path], flag: str) -> None:
    done = CliRunner().invoke(main, ["verify", str(places["bundle"]), flag])
    assert done.exit_code == 0, done.output
    assert "Next:" not in done.output
    if flag == "--json":
        json.loads(done.stdout)


def commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield from commands(command) if isinstance(command, click.Group) else [(name, command)]


def test_no_command_was_forgotten() -> None:
    silent = {
        name
        for name, command in commands(main)  # type: ignore[arg-type]
        if not any(word in inspect.getsource(inspect.unwrap(command.callback)) for word in ("console.next(", "Next: "))
    }
    assert silent == {"schema"}  # its output is a file
