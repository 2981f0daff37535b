from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from filelock import FileLock

from mvp_deploy import bundle
from mvp_deploy.base.errors import ExitCode

STEPS = ["prune", "export", "benchmark", "bundle"]


def report() -> dict:
    return json.loads(Path("deploy/report.json").read_text(encoding="utf-8"))


def statuses(task: str) -> dict[str, str]:
    return {done["step"]: done["status"] for done in report()["tasks"][task]["steps"]}


def test_a_run_leaves_a_whole_bundle_with_its_measurements_for_every_task(finished: Path) -> None:
    for task in ("ones", "twos"):
        found = bundle.read(finished / "deploy/bundles" / task)
        assert {model.model for model in found.models} == {"pruned", "unpruned"}
        rows = json.loads((found.path / "measurements.json").read_text())["rows"]
        assert all(row["timing"]["p50"] > 0 for row in rows)


def test_a_second_run_does_nothing_and_says_the_same(run) -> None:
    before = report()
    assert run().exit_code == 0
    for task in ("ones", "twos"):
        assert statuses(task) == dict.fromkeys(STEPS, "unchanged")
        assert report()["tasks"][task]["times"] == before["tasks"][task]["times"]


def test_a_changed_setting_redoes_its_step_and_what_follows_alone(run) -> None:
    assert run("--set", "tasks.ones.benchmark.duration=0.3").exit_code == 0
    redone = {"prune": "unchanged", "export": "unchanged", "benchmark": "done", "bundle": "done"}
    assert statuses("ones") == redone
    assert statuses("twos") == dict.fromkeys(STEPS, "unchanged")


def test_what_was_damaged_since_is_made_again(run) -> None:
    Path("deploy/work/ones/times.json").write_text("{}", encoding="utf-8")
    Path("deploy/bundles/twos/labels.json").write_text("[]", encoding="utf-8")
    assert run().exit_code == 0
    assert statuses("ones")["benchmark"] == "done"
    assert statuses("twos") == dict.fromkeys(STEPS[:3], "unchanged") | {"bundle": "done"}
    assert bundle.verify("deploy/bundles/twos") == []


def test_dry_run_says_what_would_be_done_and_does_nothing(run) -> None:
    before = report()
    done = run("--dry-run", "--json", "--set", "tasks.ones.training.steps=3")
    plan = json.loads(done.stdout)
    assert plan["ones"] == {"prune": "to do", "export": "to do", "benchmark": "to do"}
    assert plan["twos"] == {"prune": "unchanged", "export": "unchanged", "benchmark": "unchanged"}
    assert report() == before


def test_dry_run_ends_as_the_run_would(run) -> None:
    for no_images in ("nowhere", "deploy.yaml"):
        assert run("--dry-run", "--set", f"tasks.ones.data={no_images}").exit_code == ExitCode.INPUT
    assert run("--dry-run", "--set", "tasks.ones.data=memory://nothing").exit_code == ExitCode.ENVIRONMENT
    done = run("--dry-run", "--on", "pi5")
    assert done.exit_code == ExitCode.INPUT
    assert "devices.yaml does not exist" in done.stderr


def test_only_runs_the_tasks_named(run) -> None:
    assert run("--only", "twos").exit_code == 0
    assert list(report()["tasks"]) == ["twos"]
    done = run("--only", "threes")
    assert done.exit_code == ExitCode.INPUT
    assert "'threes'" in done.output


def test_one_tasks_failure_stops_no_other_and_is_reported_everywhere(run) -> None:
    done = run("--set", "tasks.ones.data=nowhere")
    assert done.exit_code == ExitCode.INPUT
    tasks = report()["tasks"]
    assert (tasks["ones"]["outcome"], tasks["twos"]["outcome"]) == ("error", "met")
    for text in (
        done.stderr,
        *(Path("deploy", name).read_text(encoding="utf-8") for name in ("summary.md", "report.html", "junit.xml")),
    ):
        assert "there is no image folder" in text
        assert "nowhere" in text


def test_an_unexpected_error_in_a_step_is_that_tasks_failure(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mvp_deploy.pipeline.run import measure

    def broken(work, reporter) -> None:
        if work.name == "ones":
            raise KeyError("sky")
        measure(work, reporter)

    monkeypatch.setattr("mvp_deploy.pipeline.run.measure", broken)
    done = run("--set", "benchmark.duration=0.3")
    assert done.exit_code == ExitCode.ERROR
    assert statuses("ones")["benchmark"] == "failed"
    assert statuses("twos")["bundle"] == "done"
    assert "KeyError" in Path("deploy/work/ones/error.txt").read_text(encoding="utf-8")


def test_a_task_that_fails_its_gates_has_no_bundle(run) -> None:
    assert run("--set", "tasks.ones.gates.max_size_mb=0.0001").exit_code == ExitCode.LATENCY
    assert not Path("deploy/bundles/ones").exists()
    assert report()["tasks"]["ones"]["bundle"] is None
    assert Path("deploy/bundles/twos").exists()
    assert run().exit_code == 0
    assert bundle.verify("deploy/bundles/ones") == []


def test_two_runs_in_one_folder_are_kept_apart(run) -> None:
    with FileLock("deploy/.lock"):
        done = run()
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert "another run is at work" in done.output
    assert run().exit_code == 0


@pytest.mark.parametrize("change", ["bank=elsewhere", "backbone=resnet18"])
def test_no_bank_or_another_backbones_is_refused_before_anything_starts(run, change: str) -> None:
    done = run("--set", change)
    assert done.exit_code == ExitCode.INPUT
    assert change.partition("=")[2] in done.output


def test_junit_counts_every_step_and_gate(run) -> None:
    run("--set", "tasks.ones.gates.max_size_mb=0.0001", "--set", "tasks.twos.gates.min_accuracy=0")
    suites = {suite.get("name"): suite for suite in ET.parse("deploy/junit.xml").getroot()}
    ones, twos = suites["ones"], suites["twos"]
    assert (ones.get("tests"), ones.get("failures"), ones.get("errors")) == ("4", "1", "0")
    assert (twos.get("tests"), twos.get("failures"), twos.get("errors")) == ("5", "0", "0")
    assert "limit 0.0001" in ones.find("testcase/failure").get("message")


def test_the_summary_is_appended_for_github(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summary = tmp_path / "summary"
    summary.write_text("what others wrote\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run()
    text = summary.read_text()
    assert text.startswith("what others wrote\n## mvp-deploy: 2 of 2 tasks met their gates")
    assert text.count("| ones | met |") == 1


def test_times_of_a_busy_machine_are_marked_as_such(finished: Path) -> None:
    from mvp_deploy.report.ci import markdown
    from mvp_deploy.report.run import report_page

    found = json.loads((finished / "deploy/report.json").read_text())
    for task, others in (("ones", 0.9 * found["environment"]["cores"]), ("twos", 0.0)):
        found["tasks"][task]["times"]["environment"]["others"] = others
    assert markdown(found).count(", disturbed |") == 1
    assert report_page(found).count("so its times and speed-ups") == 1


def test_the_page_needs_no_network(finished: Path) -> None:
    page = (finished / "deploy/report.html").read_text()
    for attribute in ("<script ", "fetch(", "src=", 'href="http', "url(http", "@import"):
        assert attribute not in page
    assert page.count("<svg") == 6  # accuracy against latency, latencies and units kept, of two tasks


def test_a_second_run_s_page_says_what_changed_since_the_first(run) -> None:
    before = json.loads(Path("deploy/history.json").read_text(encoding="utf-8"))["runs"]
    assert run().exit_code == 0
    page = Path("deploy/report.html").read_text(encoding="utf-8")
    assert "Since the last run" in page
    assert page.count('href="bundles/ones/"') == 1
    assert len(json.loads(Path("deploy/history.json").read_text(encoding="utf-8"))["runs"]) == len(before) + 1
    Path("deploy/history.json").write_text("{", encoding="utf-8")
    assert run().exit_code == 0
    assert len(json.loads(Path("deploy/history.json").read_text(encoding="utf-8"))["runs"]) == 1
