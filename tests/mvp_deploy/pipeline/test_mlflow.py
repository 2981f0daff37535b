"""Results in MLflow: in a folder, and where not its client alone is installed, in a database and on a real server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from mvp_deploy.base.errors import EnvironmentMissing, ExitCode
from mvp_deploy.pipeline import tracking as ours

tracking = pytest.importorskip("mlflow.tracking", reason="the extra mlflow is not installed")
try:
    WHOLE = bool(version("mlflow"))
except PackageNotFoundError:
    WHOLE = False
whole = pytest.mark.skipif(not WHOLE, reason="mlflow is not installed, only its client mlflow-skinny")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """`mlflow server` on the loopback, its database and artefacts in ``folder``; the URI it listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail((folder / "log").read_text(encoding="utf-8"))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(timeout=60)


@pytest.fixture(params=["folder", pytest.param("database", marks=whole), pytest.param("server", marks=whole)])
def store(
    request: pytest.FixtureRequest, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "server":
        with server(tmp_path) as uri:
            yield uri
    elif request.param == "database":
        yield "sqlite:///mlflow.db"
    else:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        yield f"file:{tmp_path / 'store'}"


def test_results_go_to_mlflow(run, store: str, tmp_path: Path) -> None:
    assert run("--mlflow", store, "--set", "tasks.twos.gates.min_accuracy=1.0").exit_code == ExitCode.ACCURACY
    client = tracking.MlflowClient(tracking_uri=store)
    [experiment] = [e for e in client.search_experiments() if e.name == "mvp-deploy"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"mvp-deploy run", "ones", "twos"}
    report = json.loads(Path("deploy/report.json").read_text(encoding="utf-8"))["tasks"]["ones"]
    ones, twos, all_tasks = (runs[name] for name in ("ones", "twos", "mvp-deploy run"))
    assert ones.data.metrics["pruned.accuracy"] == report["metrics"]["pruned"]["accuracy"]
    assert ones.data.metrics["pruned.fp32.onnxruntime_CPU.batch1.speed_up"] > 0
    assert ones.data.params["budget.fraction"] == "0.5"
    assert (ones.data.tags["outcome"], twos.data.tags["outcome"]) == ("met", "failed")
    assert all_tasks.data.metrics == {"tasks": 2, "tasks_met": 1}
    fetched = client.download_artifacts(all_tasks.info.run_id, "report.html", str(tmp_path))
    assert Path(fetched).read_bytes() == Path("deploy/report.html").read_bytes()


@pytest.mark.parametrize(
    ("uri", "cure"),
    [
        ("mlruns", "sqlite:///mlflow.db"),
        ("file:mlruns", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("http://127.0.0.1:9", "mlflow server"),
        ("nosuch://store", "check the URI"),
        pytest.param("sqlite:///mlflow.db", "pip install mlflow", marks=pytest.mark.skipif(WHOLE, reason="it works")),
    ],
)
def test_a_refused_uri_is_named_with_its_cure(
    uri: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(EnvironmentMissing, match=rf"(?s){uri}.*{cure}"):
        ours.Store.open(uri)


def test_a_server_that_is_away_costs_seconds_not_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as RETRIES

    monkeypatch.delenv(RETRIES.name, raising=False)
    with ours._impatient():
        assert RETRIES.get() == 1
    assert RETRIES.get() > 1
