"""A run's results in MLflow: a run for the pipeline, and below it one for each task. Needs the extra ``mlflow``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mvp_deploy.base.errors import EnvironmentMissing, ExitCode, first_line
from mvp_deploy.benchmark.looks import disturbed

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
EXPERIMENT = "mvp-deploy"  # MLFLOW_EXPERIMENT_NAME names another
REPORTS = ("report.json", "report.html", "junit.xml", "summary.md")


@dataclass(frozen=True)
class Store:
    """An open tracking server or store."""

    client: Any
    experiment: str  # its id

    @classmethod
    def open(cls, uri: str) -> Store:
        """Connect, before the work is done. Raises EnvironmentMissing without MLflow or if that fails."""
        try:
            from mlflow.environment_variables import MLFLOW_EXPERIMENT_NAME
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise EnvironmentMissing("--mlflow needs the package mlflow: pip install 'mvp-deploy[mlflow]'.") from error
        name = MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT
        try:
            with _impatient():
                client = MlflowClient(tracking_uri=uri)
                found = client.get_experiment_by_name(name)
                return cls(client, found.experiment_id if found else client.create_experiment(name))
        except Exception as error:  # of the store behind the URI
            raise EnvironmentMissing(_refusal(uri, error)) from error

    def log(self, report: Mapping[str, Any], out: Path) -> None:
        """Log a report.json and the files beside it in ``out``. Raises EnvironmentMissing if that fails."""
        try:
            self._log(report, out)
        except Exception as error:  # of the store behind the URI
            raise EnvironmentMissing(f"MLflow did not take the results ({error}).") from error

    def _log(self, report: Mapping[str, Any], out: Path) -> None:
        outcomes = [task["outcome"] == "met" for task in report["tasks"].values()]
        whole = self._begin("mvp-deploy run", {"exit_code": str(report["code"])})
        self._write(whole, {}, {"tasks": len(outcomes), "tasks_met": sum(outcomes)})
        for name in REPORTS:
            self.client.log_artifact(whole, str(out / name))
        for name, task in report["tasks"].items():
            told = {"mlflow.parentRunId": whole, "outcome": task["outcome"], "exit_code": str(task["code"])}
            run = self._begin(name, told | {"data": task.get("data", "")} | tags(task))
            self._write(run, _params(task), metrics(task))
            self._end(run, failed=bool(task["error"]))
        self._end(whole, failed=report["code"] == ExitCode.ERROR)

    def _begin(self, name: str, tags: Mapping[str, str]) -> str:
        return str(self.client.create_run(self.experiment, run_name=name, tags=dict(tags)).info.run_id)

    def _write(self, run: str, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric, Param

        now = int(1000 * time.time())
        self.client.log_batch(
            run,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
        )

    def _end(self, run: str, *, failed: bool) -> None:
        self.client.set_terminated(run, "FAILED" if failed else "FINISHED")


@contextmanager
def _impatient() -> Iterator[None]:
    """One retry, unless the user has set how many: by itself MLflow waits four minutes for a server that is away."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as RETRIES

    if RETRIES.is_set():
        yield
        return
    RETRIES.set(1)
    try:
        yield
    finally:
        RETRIES.unset()


def _refusal(uri: str, error: Exception) -> str:
    """Why MLflow refuses a URI, and what to do about it."""
    from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE

    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("", "file") and not MLFLOW_ALLOW_FILE_STORE.get():
        cure = "use sqlite:///mlflow.db, or set MLFLOW_ALLOW_FILE_STORE=true"
        return f"MLflow no longer keeps results in folders ({uri}): {cure}."
    if scheme in DATABASES and not _whole():
        return f"MLflow's client alone cannot use a database ({uri}): pip install mlflow."
    cure = "check the address, and that `mlflow server` runs there" if scheme in ("http", "https") else "check the URI"
    return f"MLflow cannot be used at {uri} ({first_line(error)}): {cure}."


def _whole() -> bool:
    """Whether MLflow itself is installed, and not only its client, mlflow-skinny."""
    try:
        return bool(version("mlflow"))
    except PackageNotFoundError:
        return False


def _params(task: Mapping[str, Any]) -> dict[str, Any]:
    if "metrics" not in task:
        return {}  # it never came so far
    sections = {"budget": task["budget"], "recipe": task["recipe"]}
    return {f"{part}.{key}": value for part, values in sections.items() for key, value in values.items()} | {
        "seed": task["seed"]
    }


def tags(task: Mapping[str, Any]) -> dict[str, str]:
    """What is said of its times, where they are not kept."""
    return {"times": "disturbed"} if "times" in task and disturbed(task["times"]["environment"]) else {}


def metrics(task: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy (0..1), parameters, bytes, median milliseconds and speed-up, each of what it is in its name."""
    found: dict[str, float] = {}
    for name, metrics in task.get("metrics", {}).items():
        found |= {f"{name}.{key}": metrics[key] for key in ("accuracy", "params", "macs")}
    for model in task.get("models", ()):
        name = f"{model['model']}.{model['precision']}.{model['target']}"
        found |= {f"{name}.{key}": model[key] for key in ("accuracy", "parity", "bytes")}
    for row in [] if tags(task) else task.get("times", {"rows": ()})["rows"]:
        name = f"{row['model']}.{row['precision']}.{row['runtime'].replace(' ', '_')}.batch{row['batch']}"
        if row["timing"]:
            found[f"{name}.median_ms"] = row["timing"]["median"]["value"]
        if row["speed_up"]:
            found[f"{name}.speed_up"] = row["speed_up"]["value"]
    return found
