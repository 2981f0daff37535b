"""bench --on: three devices at once, from devices.yaml to a table with a column for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from samples import make_bundle

from mvp_deploy import bundle
from mvp_deploy.bundle import signing
from mvp_deploy.cli import main
from mvp_deploy.remote.measured import kept


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "dogs")
    return tmp_path


def inventory(project: Path, **machines) -> None:
    devices = {name: {**each.entry, "threads": 1, "tags": ["desk"]} for name, each in machines.items()}
    (project / "devices.yaml").write_text(yaml.safe_dump(devices, sort_keys=False))


def bench(*arguments: str):
    return CliRunner().invoke(main, ["bench", "dogs", "--duration", "0.05", *arguments])


def test_three_devices_give_three_columns_and_files_in_the_bundle(machine, project: Path) -> None:
    before = bundle.digest(project / "dogs")
    inventory(project, pi=machine(), orin=machine(), nas=machine(("numpy", "click")))
    done = bench("--on", "desk", "--out", "found.json")
    assert done.exit_code == 6, done.output  # nas has no runtime: its rows say so
    header = next(line for line in done.output.splitlines() if line.startswith("model"))
    assert header.split() == ["model", "batch", "pi", "orin", "nas"]
    assert "onnxruntime is not installed" in done.output
    assert bundle.verify(project / "dogs") == []
    found = kept(project / "dogs")
    assert set(found) == {"pi", "orin"}  # a device without times replaces none that it had
    for name in ("pi", "orin"):
        assert found[name].digest == before == bundle.digest(project / "dogs")
        assert [row.model for row in found[name].times.rows if row.timing] == ["unpruned", "pruned"]
        assert {row.samples for row in found[name].times.rows} == {10}
        assert all(row.details["threads"] == "1" for row in found[name].times.rows)
    assert set(json.loads((project / "found.json").read_text())["devices"]) == {"pi", "orin", "nas"}


def test_a_signed_bundle_is_signed_again_with_what_was_measured(machine, project: Path) -> None:
    pytest.importorskip("model_signing", reason="needs the extra signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (project / "key.pem").write_bytes(key.private_bytes(*form))
    public = key.public_key().public_bytes(form[0], serialization.PublicFormat.SubjectPublicKeyInfo)
    (project / "key.pub").write_bytes(public)
    signing.sign(project / "dogs", project / "key.pem")
    inventory(project, pi=machine())

    unsigned = bench("--on", "pi")
    assert unsigned.exit_code == 2
    assert "give --sign-key" in unsigned.output
    assert bench("--on", "pi", "--sign-key", "key.pem").exit_code == 0
    assert set(kept(project / "dogs")) == {"pi"}
    signing.verify(project / "dogs", project / "key.pub")


def test_measurements_from_anywhere_become_one_table(machine, project: Path) -> None:
    inventory(project, pi=machine())
    assert bench("--on", "pi").exit_code == 0
    assert bench("--out", "here.json").exit_code == 0
    done = CliRunner().invoke(main, ["report", "dogs", "here.json", "--out", "all.html", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["columns"][:2] == ["model", "batch"]
    assert "pi" in told["columns"]
    assert len(told["columns"]) == 4
    assert {row[0].split()[0] for row in told["rows"]} == {"unpruned", "pruned"}
    assert "pi" in (project / "all.html").read_text(encoding="utf-8")
