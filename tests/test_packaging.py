"""What pip is told: one constraints file for every Python promised, a base install that is a device's."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mvp_deploy.cli import DEVICE
from mvp_deploy.exporters.protocol import OWN, exporter

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROMISED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def listed(name: str) -> list[str]:
    """The packages in a list of pyproject.toml."""
    [block] = re.findall(rf"^{name} = \[(.*?)\n\]", PROJECT, re.M | re.S)
    return [Requirement(text).name for text in re.findall(r'^  "(.*?)"', block, re.M)]


@pytest.mark.parametrize("python", PROMISED)
def test_each_promised_python_has_one_version_of_every_package(python: str) -> None:
    here = {"python_version": python}
    pins = Counter(pin.name for pin in CONSTRAINTS if pin.marker is None or pin.marker.evaluate(here))
    assert set(pins.values()) == {1}
    assert set(pins) == {pin.name for pin in CONSTRAINTS}


@pytest.mark.parametrize("block", ["dependencies", "train"])
def test_what_an_install_brings_is_pinned(block: str) -> None:
    assert {name.lower() for name in listed(block)} <= {pin.name.lower() for pin in CONSTRAINTS}


def test_the_command_line_knows_what_the_base_install_brings() -> None:
    assert {"pillow" if name == "PIL" else name for name in DEVICE} == set(listed("dependencies"))


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_target_that_is_not_installed_names_an_extra_of_ours(name: str) -> None:
    [extra] = re.findall(r"^pip install 'mvp-deploy\[(.*)\]'$", exporter(name).needs)
    assert re.search(rf"^{extra} = \[", PROJECT, re.M)


def test_the_page_on_pypi_has_no_link_into_the_repository() -> None:
    [page] = re.findall(r'^readme = "(.*)"', PROJECT, re.M)
    links = re.findall(r"\]\((.*?)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert all(link.startswith("https://") for link in links)
