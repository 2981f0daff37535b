"""Work on a real Ray cluster of one machine, which is said to have a GPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mvp_deploy import bundle
from mvp_deploy.base.cluster import Cluster, spread
from mvp_deploy.base.errors import ExitCode, InputError, MvpError, ParityError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.cli import main

ray = pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster as Machines

    root = str(Path(__file__).parents[3])  # workers import what the test imports
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, str(Path(__file__).parent), before]))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False})
    yield machines.address
    ray.shutdown()
    machines.shutdown()
    os.environ["PYTHONPATH"] = before or ""


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.say, self.warn = self.said.append, self.warned.append

    progress: Any = None  # of workers only lines arrive


def greet(name: str, reporter: Reporter) -> str:
    with reporter.progress("work") as step:
        step(1, 2)
    reporter.warn(f"beware, {name}")
    if name == "bad":
        raise ParityError("it is bad")
    return f"hello {name}"


def die_once(mark: Path, reporter: Reporter) -> str:
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return "done at the second attempt"


def die(reporter: Reporter) -> None:
    os._exit(1)


def meet(folder: Path, name: str, others: list[str], reporter: Reporter) -> list[str]:
    """Wait for the others, which never come unless they run at the same time; gives the GPU's number."""
    (folder / name).touch()
    end = time.monotonic() + 60
    while not all((folder / other).exists() for other in others):
        if time.monotonic() > end:
            raise InputError(f"{name} is alone")
        time.sleep(0.02)
    return [str(number) for number in ray.get_gpu_ids()]


def test_results_errors_and_remarks_come_back_under_their_names(address: str) -> None:
    listener = Listener()
    found = dict(spread(Cluster(address), {name: partial(greet, name) for name in ("good", "bad")}, listener))
    assert found["good"] == "hello good"
    assert isinstance(found["bad"], MvpError)
    assert (str(found["bad"]), found["bad"].code) == ("it is bad", ExitCode.PARITY)
    assert set(listener.said) == {"good: work: 1/2", "bad: work: 1/2"}
    assert set(listener.warned) == {"good: beware, good", "bad: beware, bad"}


def test_a_lost_worker_is_replaced_and_one_lost_again_and_again_is_reported(address: str, tmp_path: Path) -> None:
    pieces = {"once": partial(die_once, tmp_path / "mark"), "always": die}
    found = dict(spread(Cluster(address), pieces, Listener()))
    assert found["once"] == "done at the second attempt"
    assert isinstance(found["always"], MvpError)
    assert found["always"].code == ExitCode.ERROR


def test_two_pieces_share_a_gpu(address: str, tmp_path: Path) -> None:
    names = ["one", "two"]
    pieces = {name: partial(meet, tmp_path, name, names) for name in names}
    found = dict(spread(Cluster(address, cpus=0.5, gpus=0.5), pieces, Listener()))
    assert found == {"one": ["0"], "two": ["0"]}


@pytest.mark.parametrize("where", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_without_a_cluster_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(MvpError, match="ray start --head") as error:
        list(spread(Cluster(where), {"a": partial(greet, "a")}, Listener()))
    assert error.value.code == ExitCode.ENVIRONMENT


def test_bank_add_and_run_give_on_a_cluster_what_they_give_here(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = CliRunner().invoke
    for bank in ("here", "there"):
        call(main, ["bank", "init", bank, "--backbone", "test_resnet", "--image-size", "32"])
    add = ["digits#0,1", "digits#8,9", "--keep", "0.5", "--steps", "2", "--rounds", "1", "--round-steps", "1"]
    add += ["--batch-size", "16", "--device", "cpu", "--json"]
    assert call(main, ["bank", "add", "here", *add]).exit_code == 0
    done = call(main, ["bank", "add", "there", *add, "--ray", address])
    assert done.exit_code == 0, done.output
    assert {added["task"] for added in json.loads(done.stdout)["added"]} == {"digits#0,1", "digits#8,9"}
    here, there = (
        [json.loads(call(main, ["bank", "show", bank, task, "--json"]).stdout)["kept"] for task in add[:2]]
        for bank in ("here", "there")
    )
    assert here == there

    Path("deploy.yaml").write_text(
        "{bank: there, device: cpu, budget: {fraction: 0.5, of: units}, training: {steps: 2, batch_size: 16}, "
        "benchmark: {batches: []}, tasks: {twos: {data: 'digits#2,3'}, fours: {data: 'digits#4,5'}}}",
        encoding="utf-8",
    )
    done = call(main, ["run", "--ray", address])
    assert done.exit_code == 0, done.output
    assert all(bundle.verify(f"deploy/bundles/{task}") == [] for task in ("twos", "fours"))
    assert "twos: pruned model: " in done.stderr
    again = call(main, ["run", "--json"])  # what the cluster made is not made again here
    steps = json.loads(again.stdout)["tasks"]["twos"]["steps"]
    assert {step["status"] for step in steps} == {"unchanged"}
