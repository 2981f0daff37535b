"""What stands between a machine and an engine is said in one sentence with exit code 6."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.tensorrt import VERSIONS

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.tensorrt.probe import probe


def refused(match: str) -> None:
    with pytest.raises(MvpError, match=match) as caught:
        probe()
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_precision_comes_from_flags_up_to_10_11_and_from_types_since(install, version: str) -> None:
    install(version)
    offer = probe()
    assert offer.version == version
    assert offer.typed == (version in ("10.16.1.11", "11.4.0.106"))
    asked = {flag.name for flag in offer.precision_flags("int8")}
    assert asked == (set() if offer.typed else {"INT8", "FP16"})


@pytest.mark.parametrize("version", VERSIONS)
def test_networks_are_created_the_way_each_version_wants(install, version: str) -> None:
    kinds = install(version).NetworkDefinitionCreationFlag
    flags = {kind.name for kind in kinds if probe().network_flags() >> int(kind) & 1}
    explicit = {"EXPLICIT_BATCH"} & set(kinds.__members__)  # 11 has no other kind and no flag for it
    assert flags == explicit | ({"STRONGLY_TYPED"} if probe().typed else set())


def test_tensorrt_that_is_not_installed(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused(r"not installed.*pip install tensorrt")


def test_tensorrt_that_does_not_load_names_what_is_missing(install, monkeypatch, tmp_path: Path) -> None:
    install("10.3.0")
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libcublas.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt")
    refused(r"does not load .libcublas\.so\.12")


def test_tensorrt_that_is_too_old(install) -> None:
    install("8.5.3.1").__version__ = "8.4.1.5"
    refused(r"8\.4\.1\.5 is older than 8\.5")


def test_the_driver_is_asked_before_tensorrt_is_imported() -> None:
    """Without a driver some TensorRT calls end the process, and importing it costs seconds."""
    code = (
        "import sys; from mvp_deploy.exporters import cuda; from mvp_deploy.exporters.errors import MvpError\n"
        "from mvp_deploy.exporters.tensorrt.probe import probe\n"
        "def absent(): raise MvpError('no driver')\n"
        "cuda._library = absent\n"
        "try: probe()\n"
        "except MvpError as error: print(error, 'tensorrt' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "no driver False"
