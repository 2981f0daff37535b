from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes.bundle import tiny_bundle

from mvp_deploy import bundle
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.base.files import sha256
from mvp_deploy.bundle import signing
from mvp_deploy.cli import main

pytest.importorskip("model_signing", reason="the extra signing is not installed")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two pairs of keys: ours and theirs."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(public)
    return tmp_path


@pytest.fixture
def signed(keys: Path) -> Path:
    path = tiny_bundle(keys / "bundle", ["fp32"])
    signing.sign(path, keys / "ours.pem")
    return path


def verify(path: Path, key: Path) -> int:
    return CliRunner().invoke(main, ["verify", str(path), "--public-key", str(key)]).exit_code


def test_a_signed_bundle_is_whole_and_its_owners(signed: Path, keys: Path) -> None:
    (signed / "built").mkdir()
    (signed / "built" / "engine").write_text("made on this machine")
    assert bundle.verify(signed) == []
    assert verify(signed, keys / "ours.pub") == 0


def test_another_owners_bundle_and_an_unsigned_one_are_refused(signed: Path, keys: Path) -> None:
    assert verify(signed, keys / "theirs.pub") == ExitCode.INPUT
    (signed / bundle.SIGNATURE).unlink()
    assert verify(signed, keys / "ours.pub") == ExitCode.INPUT


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_who_changes_a_file_and_the_manifest_with_it_is_found_out(signed: Path, keys: Path, change: str) -> None:
    labels, manifest = signed / "labels.json", json.loads((signed / "manifest.json").read_text())
    if change == "remove":
        labels.unlink()
        del manifest["files"]["labels.json"]
    else:
        file = labels if change == "edit" else signed / ".git"
        file.write_text("[]")
        manifest["files"][file.name] = {"sha256": sha256(file), "bytes": 2}
    (signed / "manifest.json").write_text(json.dumps(manifest))
    assert bundle.verify(signed) == []  # checksums alone see nothing
    assert verify(signed, keys / "ours.pub") == ExitCode.INPUT


def test_others_verify_it_without_this_package(signed: Path, keys: Path) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / "model.sig"), "--public_key", str(keys / "ours.pub")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_a_key_is_refused_before_anything_is_signed(keys: Path) -> None:
    path = tiny_bundle(keys / "bundle", ["fp32"])
    for file in (keys / "ours.pub", keys / "nowhere.pem"):
        with pytest.raises(MvpError, match="openssl"):
            signing.sign(path, file)
    assert not (path / bundle.SIGNATURE).exists()


def test_a_copy_is_signed_as_the_original_is(signed: Path, keys: Path) -> None:
    shutil.copytree(signed, keys / "device" / "dogs")
    assert verify(keys / "device" / "dogs", keys / "ours.pub") == 0


def test_files_of_ones_own_are_covered_where_the_manifest_lists_them_and_may_come_later(keys: Path) -> None:
    path = tiny_bundle(keys / "bundle", ["fp32"])
    (path / "extra").mkdir()
    file = path / "extra" / "camera.txt"
    file.write_text("f/2.8")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["extra/camera.txt"] = {"sha256": sha256(file), "bytes": 5}
    (path / "manifest.json").write_text(json.dumps(manifest))
    signing.sign(path, keys / "ours.pem")
    (path / "extra" / "later.txt").write_text("mine")
    assert verify(path, keys / "ours.pub") == 0
    file.write_text("f/1.4")
    assert verify(path, keys / "ours.pub") == ExitCode.INPUT
