"""Bank, data and out on a real server that speaks S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mvp_deploy import bundle
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.pipeline.places import fetch
from mvp_deploy.pipeline.publish import publish

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
server = pytest.importorskip("moto.server", reason="moto is not installed")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """An S3 server with the bucket «team», found by the variables that clients of S3 read."""
    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MVP_DEPLOY_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.makedirs("team", exist_ok=True)
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def test_a_run_reads_and_writes_s3(run, bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    bucket.put("bank", "team/bank", recursive=True)
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    images = (rng.integers(0, 100, (80, 16, 16)) + 100 * labels[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "shade.npz", images=images, labels=labels, classes=np.array(["dark", "light"]))
    bucket.put(str(tmp_path / "shade.npz"), "team/data/shade.npz")

    changes = ["bank=s3://team/bank", "out=s3://team/out", "tasks.ones.data=s3://team/data/shade.npz#dark,light"]
    arguments = [part for change in changes for part in ("--set", change)]
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "s3://team/out/report.html" in done.stdout
    assert not {file.split("/")[2] for file in bucket.find("team/out")} & {"work", ".lock"}
    copy = fetch("s3://team/out")
    assert [bundle.verify(copy / "bundles" / task) for task in ("ones", "twos")] == [[], []]
    labels_there = json.loads((copy / "bundles/ones/labels.json").read_text())
    assert labels_there == ["dark", "light"]

    again = run(*arguments, "--json", "--set", "tasks.twos.gates.min_accuracy=1.0")
    assert again.exit_code == ExitCode.ACCURACY
    assert again.stdout.count('"unchanged"') == 7  # of twos, no bundle is made
    bucket.invalidate_cache()
    assert bucket.exists("team/out/bundles/ones/manifest.json")
    assert not bucket.exists("team/out/bundles/twos")


def test_a_bucket_that_is_not_there_is_one_sentence(run, bucket: s3fs.S3FileSystem) -> None:
    done = run("--set", "bank=s3://nobody/bank")
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert "s3://nobody/bank cannot be fetched" in done.output
    with pytest.raises(MvpError, match="cannot be written to") as error:
        publish(json.loads(Path("deploy/report.json").read_text()), Path("deploy"), "s3://nobody/out")
    assert error.value.code == ExitCode.ENVIRONMENT
