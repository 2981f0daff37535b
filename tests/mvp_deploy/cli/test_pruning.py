"""`bank` and `prune` as a user calls them, killed at bad moments too."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fresh import start

from mvp_deploy import runs
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import ExitCode, InputError
from mvp_deploy.cli import main

ADD = ("--keep", "0.4", "--steps", "4", "--rounds", "2", "--round-steps", "2", "--batch-size", "16", "--device", "cpu")
PRUNE = ("--keep", "0.4", "--steps", "4", "--batch-size", "16", "--device", "cpu")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bank(cnn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "bank"
    begun = call("bank", "init", folder, "--backbone", "test_resnet", "--weights", cnn.weights, "--image-size", 32)
    assert begun.exit_code == 0, begun.output
    added = call("bank", "add", folder, "digits#3,4,5", "digits#1,2,3", *ADD, "--json", "--quiet")
    assert added.exit_code == 0, added.output
    assert [entry["task"] for entry in json.loads(added.stdout)["added"]] == ["digits#3,4,5", "digits#1,2,3"]
    return folder


def test_the_bank_is_listed_shown_and_verified(bank: Path) -> None:
    listed = call("bank", "list", bank)
    assert "digits#3,4,5" in listed.stdout
    assert "2 tasks" in listed.stdout
    assert f"bank build {bank}" in listed.stdout  # what it lacks
    tasks = json.loads(call("bank", "list", bank, "--json").stdout)["tasks"]
    assert {task["task"] for task in tasks} == {"digits#3,4,5", "digits#1,2,3"}
    assert tasks[0]["cost"]["steps"] > 8  # two rounds of two, the unpruned model's four, and trials
    shown = json.loads(call("bank", "show", bank, "digits#3,4,5", "--json").stdout)
    assert len(shown["details"]["rounds"]) == 2
    assert shown["kept"]["layer1.0.conv1"][1] == 32
    assert "layer1.0.conv1" in call("bank", "show", bank, "digits#3,4,5").stdout
    assert "test_resnet" in call("bank", "show", bank).stdout
    verified = call("bank", "verify", bank)
    assert verified.exit_code == 0
    assert "as it was written" in verified.stdout


def test_a_bank_of_rotated_streams_is_another_backbone_s(tmp_path: Path) -> None:
    start = ("bank", "init", "--backbone", "test_vit", "--image-size", 32)
    plain, turned = (
        json.loads(call(*start, tmp_path / name, "--json", *more).stdout)
        for name, more in (("plain", ()), ("turned", ("--rotate", "digits#3,4")))
    )
    assert turned["fingerprint"] != plain["fingerprint"]
    assert turned["backbone"]["weights"].endswith("streams rotated")
    assert call("bank", "verify", tmp_path / "turned").exit_code == 0


@pytest.mark.parametrize(("backbone", "linear"), [("test_efficientnet", True), ("test_resnet", False)])
def test_a_new_bank_says_that_its_streams_could_be_turned(backbone: str, linear: bool, tmp_path: Path) -> None:
    done = call("bank", "init", tmp_path / "bank", "--backbone", backbone, "--image-size", 32)
    assert done.exit_code == 0, done.output
    assert ("--rotate TASK" in done.output) == linear


def test_a_new_task_is_pruned(bank: Path, tmp_path: Path) -> None:
    voted = (*PRUNE, "--set", "rivals=false")
    done = call("prune", "digits#0,1,2", "--bank", bank, "--out", tmp_path / "run", *voted)
    assert done.exit_code == 0, done.output
    assert "unpruned" in done.stdout
    assert "digits#1,2,3" in done.stdout
    assert "unanimity" in done.stdout
    assert "its features' left-out log-likelihood in nats, at most 0" in done.stdout
    assert "similarity" not in done.output
    info = runs.load(tmp_path / "run").info
    assert info["recipe"]["name"] == "default"
    assert info["metrics"]["pruned"]["units"] <= 0.4
    paper = ("--recipe", "paper", "--macs", 0.5, "--neighbours", 1, "--set", "weighting=similarity")
    options = (*PRUNE[2:], *paper, "--json", "-q")
    again = call("prune", "digits#0,1,2", "--bank", bank, "--out", tmp_path / "run", *options)
    assert again.exit_code == 0, again.output
    changed = json.loads(again.stdout)
    assert changed["votes"]["measure"] == "LEEP, log-likelihood in nats, at most 0"
    assert changed["metrics"]["pruned"]["macs"] <= 0.5 * changed["metrics"]["unpruned"]["macs"]
    assert len(changed["votes"]["voters"]) == 1
    assert changed["recipe"]["weighting"] == "similarity"


def test_a_budget_that_the_ladder_lacks_is_told_with_the_command_that_adds_it(bank: Path, tmp_path: Path) -> None:
    asked = ("prune", "digits#0,1,2", "--bank", bank, "--out", tmp_path / "run", *PRUNE[2:])  # half of the MACs
    votes = (*asked, "--set", "rivals=false")
    done = call(*votes)
    assert done.exit_code == 0, done.output
    assert f"bank build {bank} --macs 0.5" in done.output
    assert "bank build" not in call(*votes, "--recipe", "paper").output


def test_shrink_prunes_by_the_bank_it_is_given(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def prune_task(task: object, given: Bank, *_: object, **__: object) -> None:
        asked.append((given.folder, len(list(given.entries([])))))
        raise InputError("far enough")

    monkeypatch.setattr("mvp_deploy.pipeline.shrink.runs.prune_task", prune_task)
    out = ("--macs", "0.5", "--train", "none", "--out", tmp_path / "small", "--device", "cpu")
    done = call("shrink", "digits#0,1,2", "--bank", bank, *out)
    assert "far enough" in done.stderr
    assert asked == [(bank, 2)]
    both = call("shrink", "digits#0,1,2", "--bank", bank, "--model", "resnet18", *out)
    assert both.exit_code == ExitCode.INPUT
    assert "--bank has its own backbone" in both.stderr


def test_a_damaged_task_of_the_bank_is_left_out_with_a_warning(bank: Path, tmp_path: Path) -> None:
    path = Bank.open(bank).path("digits#3,4,5")
    good = path.read_bytes()
    try:
        path.write_bytes(b"nonsense")
        voted = (*PRUNE, "--set", "rivals=false")
        done = call("prune", "digits#0,1,2", "--bank", bank, "--out", tmp_path / "run", *voted)
    finally:
        path.write_bytes(good)
    assert done.exit_code == 0, done.output
    assert f"left out: {path}" in done.stderr
    assert [voter["task"] for voter in runs.load(tmp_path / "run").info["votes"]["voters"]] == ["digits#1,2,3"]


def test_one_task_s_failure_neither_stops_nor_hides(bank: Path) -> None:
    result = call("bank", "add", bank, "digits#3,9x", "digits#7,8", *ADD, "--json")
    assert result.exit_code == ExitCode.INPUT
    told = json.loads(result.stdout)
    assert [entry["task"] for entry in told["added"]] == ["digits#7,8"]
    assert "9x" in told["failed"][0]["error"]
    assert "1 of 2 tasks were not added: digits#3,9x" in result.stderr
    Bank.open(bank).path("digits#7,8").unlink()


def test_a_stored_task_made_the_same_way_is_kept_and_another_asks_to_replace_it(bank: Path) -> None:
    stored = Bank.open(bank).path("digits#1,2,3").read_bytes()
    left = bank / ".work" / Bank.open(bank).path("digits#1,2,3").stem / ("0" * 16)
    left.mkdir(parents=True)  # of a call killed after it had stored the task
    again = call("bank", "add", bank, "digits#1,2,3", *ADD, "--json")
    assert again.exit_code == 0, again.output
    assert [entry["task"] for entry in json.loads(again.stdout)["added"]] == ["digits#1,2,3"]
    assert not left.exists()
    otherwise = call("bank", "add", bank, "digits#1,2,3", *ADD, "--keep", "0.5")
    assert otherwise.exit_code == ExitCode.INPUT
    assert "--replace" in otherwise.stderr
    assert Bank.open(bank).path("digits#1,2,3").read_bytes() == stored


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bank", "list", "nowhere"), "is not a bank"),
        (("bank", "add", "BANK", "digits#0,1", "--keep", "0.3", "--macs", "0.3"), "exclude each other"),
        (("bank", "add", "BANK", "digits#0,1", "--keep", "2"), "above 0 and at most 1"),
        (("bank", "add", "BANK", "digits#0,1", "digits#2,3", "--name", "two"), "names one task, and 2 were given"),
        (("bank", "add", "BANK", "digits#0,1", "--name", "../up"), "is not a name"),
        (("bank", "show", "BANK", "digits#0,1"), "has no task"),
        (("prune", "digits#0,1", "--bank", "BANK", "--out", "OUT", "--recipe", "soup"), "'soup' is not one of"),
        (("prune", "digits#0,1", "--bank", "BANK", "--out", "OUT", "--set", "own=9"), "own is 9.0: it must"),
        (("prune", "digits#0,ten", "--bank", "BANK", "--out", "OUT"), "ten"),
        (("prune", "digits#0,1", "--bank", "BANK", "--out", "OUT", "--params", "0.0001"), "cannot shrink"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(bank: Path, tmp_path: Path, arguments: tuple, sentence: str) -> None:
    places = {"BANK": bank, "OUT": tmp_path / "out"}
    result = call(*(places.get(word, word) for word in arguments))
    assert result.exit_code == ExitCode.INPUT
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_damaged_bank_is_reported_and_fails(bank: Path) -> None:
    path = Bank.open(bank).path("digits#1,2,3")
    good = path.read_bytes()
    try:
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        result = call("bank", "verify", bank)
        assert result.exit_code == ExitCode.ERROR
        assert str(path) in result.stderr
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("command", [("bank",), ("bank", "init"), ("bank", "add"), ("bank", "list"), ("bank", "show"),
                                     ("bank", "verify"), ("prune",)])  # fmt: skip
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert command == ("bank",) or f"mvp-deploy {' '.join(command)}" in result.output.split("Example:")[1]


def killed(moment: str, *arguments: object) -> None:
    """Run the command in a process of its own and kill -9 it as soon as it says ``moment`` (a regular expression)."""
    process, stderr = start(*arguments)
    seen = ""
    while not re.search(moment, seen, re.MULTILINE):
        line = stderr.readline()
        assert line, f"it ended before it said {moment!r}: {seen}"
        seen += line
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["^unpruned model: accuracy", "^round 1 of 2: 1/2", "^round 2: "])
def test_an_addition_killed_is_finished_by_the_next(bank: Path, moment: str) -> None:
    killed(moment, "bank", "add", bank, "digits#6,8", *ADD)
    folder = Bank.open(bank)
    assert folder.verify() == []
    assert not folder.path("digits#6,8").exists()
    assert call("bank", "list", bank).exit_code == 0
    finished = call("bank", "add", bank, "digits#6,8", *ADD)
    assert finished.exit_code == 0, finished.output
    assert "reused" in finished.stderr  # it went on, it did not begin again
    assert folder.verify() == []
    assert folder.entry("digits#6,8").metrics["accuracy"] > 0
    assert not list((bank / "tasks").glob(".*"))
    folder.path("digits#6,8").unlink()


@pytest.mark.parametrize(
    "moment", ["^unpruned model: accuracy", "before fine-tuning$", "^pruned model: .* (after|untuned)"]
)
def test_a_run_killed_is_finished_by_the_next(bank: Path, tmp_path: Path, moment: str) -> None:
    out = tmp_path / "run"
    killed(moment, "prune", "digits#0,2", "--bank", bank, "--out", out, *PRUNE)
    finished = call("prune", "digits#0,2", "--bank", bank, "--out", out, *PRUNE)
    assert finished.exit_code == 0, finished.output
    assert "reused" in finished.stderr
    assert runs.load(out).pruned().classes == ("0", "2")
    assert sorted(path.name for path in out.iterdir()) == ["pruned.safetensors", "run.json", "unpruned.safetensors"]


def test_without_a_bank_a_backbone_is_pruned_by_the_task_s_own_images(cnn, tmp_path: Path) -> None:
    start = ("--backbone", "test_resnet", "--weights", cnn.weights, "--image-size", 32)
    done = call("prune", "digits#0,1,2", *start, "--out", tmp_path / "run", "--macs", 0.5, "--steps", 0)
    assert done.exit_code == 0, done.output
    assert "training and" in done.stderr.splitlines()[0]  # at once, of work that takes minutes
    assert [line[:16] for line in done.stderr.splitlines() if "ways to cut" in line] == [
        f"ways to cut: {done}/4" for done in range(5)
    ]
    info = runs.load(tmp_path / "run").info
    assert info["votes"]["voters"] == []
    assert info["metrics"]["pruned"]["steps"] == info["metrics"]["unpruned"]["steps"] == 0
    assert info["metrics"]["pruned"]["macs"] <= 0.5 * info["metrics"]["unpruned"]["macs"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [((), "Name the --bank"), (("--bank", "BANK", "--backbone", "resnet18"), "has its own backbone")],
)
def test_a_bank_or_a_backbone_is_named(bank: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    named = [str(bank) if argument == "BANK" else argument for argument in arguments]
    refused = call("prune", "digits#0,1", *named, "--out", tmp_path / "run")
    assert refused.exit_code == ExitCode.INPUT
    assert sentence in refused.stderr
