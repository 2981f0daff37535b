"""What CI reads of a run: report.json, junit.xml, and a Markdown summary."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import ExitCode, InputError
from mvp_deploy.base.files import write_text, writing_errors
from mvp_deploy.base.formats import Malformed, loads, parse, read_bytes
from mvp_deploy.pipeline.gates import disturbed
from mvp_deploy.pipeline.html import report_page
from mvp_deploy.report.task import accuracy

Report = Mapping[str, Any]
NAMES = ("report.json", "report.html", "junit.xml", "summary.md")


def write(report: Report, out: Path) -> None:
    """Write report.json, junit.xml, summary.md and report.html into ``out``; append to $GITHUB_STEP_SUMMARY."""
    from mvp_deploy.pipeline.reportfile import Report as ReportFile  # imports torch

    summary, text = markdown(report), json.dumps(report, indent=2, allow_nan=False) + "\n"
    parse(ReportFile, loads(text.encode()))
    texts = {
        "report.json": text,
        "junit.xml": junit(report),
        "summary.md": summary,
        "report.html": report_page(report, [row(task) for task in report["tasks"].items()]),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    if step_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with writing_errors(step_summary), open(step_summary, "a", encoding="utf-8") as file:
            file.write(summary)


def refuse_strangers(out: Path) -> None:
    """Refuse a folder whose reports are not of mvp-deploy: they would be overwritten."""
    there = [name for name in NAMES if (out / name).exists()]
    if there and not is_report(read_bytes(out / NAMES[0]) if (out / NAMES[0]).is_file() else b""):
        raise InputError(f"{out} holds a {there[0]} that is not of mvp-deploy: move it away, or choose another out.")


def is_report(text: bytes) -> bool:
    """Whether this is a report.json of ours."""
    try:
        return {"schema", "tasks"} <= loads(text).keys()
    except (Malformed, AttributeError):
        return False


def junit(report: Report) -> str:
    """A suite per task, a case per step and per gate. A step that broke is an error, a gate not met a failure."""
    root = ET.Element("testsuites", name="mvp-deploy")
    for name, task in report["tasks"].items():
        suite = ET.SubElement(root, "testsuite", name=name)
        for done in task["steps"]:
            case = _case(suite, name, done["step"], done["seconds"])
            if done["status"] == "failed":
                ET.SubElement(case, "error", message=_clean(task["error"]), type=ExitCode(task["code"]).name)
        if task["error"] and all(done["status"] != "failed" for done in task["steps"]):
            case = _case(suite, name, "start", 0.0)
            ET.SubElement(case, "error", message=_clean(task["error"]), type=ExitCode(task["code"]).name)
        for gate in task["gates"]:
            case = _case(suite, name, f"{gate['gate']}: {gate['subject']}", 0.0)
            if gate["code"]:
                ET.SubElement(case, "failure", message=_clean(told(gate)), type=gate["outcome"])
        cases = list(suite)
        suite.set("tests", str(len(cases)))
        suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
        suite.set("errors", str(sum(case.find("error") is not None for case in cases)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(report: Report) -> str:
    """The run in a table, then all that went wrong."""
    tasks = report["tasks"]
    met = sum(task["outcome"] == "met" for task in tasks.values())
    lines = [
        f"## mvp-deploy: {met} of {len(tasks)} tasks met their gates",
        "",
        "| task | outcome | file | accuracy | unpruned | speed-up | MB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        *("| " + " | ".join(cells) + " |" for cells in map(row, tasks.items())),
        "",
    ]
    for name, task in tasks.items():
        if task["error"]:
            lines.append(f"- **{name}**: {_inline(task['error'])}")
        lines += [f"- **{name}**: {_inline(told(gate))}" for gate in task["gates"] if gate["code"]]
        lines += [f"- {name}: {_inline(warning)}" for warning in task.get("warnings", ())]
    lines += [f"- **{name}** was in the baseline and is in the config no more" for name in report["gone"]]
    return "\n".join(lines) + "\n\n"


def row(item: tuple[str, Report]) -> list[str]:
    """A task as cells of a table, all of one file: its fastest pruned one, or where nothing was timed the smallest."""
    name, task = item
    models = [model for model in task.get("models", ()) if model["model"] == "pruned"]
    if not models:
        return [name, task["outcome"], "", "", "", "", ""]
    timed = [found for found in task["times"]["rows"] if found["model"] == "pruned" and found["speed_up"]]
    if timed:
        shown = max(timed, key=lambda found: float(found["speed_up"]["value"]))
        gain = shown["speed_up"]
        file, size = f"{shown['precision']} {shown['runtime']}, batch {shown['batch']}", shown["size"]
        speed_up = f"{gain['value']:.2f}x ({gain['low']:.2f}-{gain['high']:.2f})"
        speed_up += ", disturbed" if disturbed(task) else ""
    else:
        shown = min(models, key=lambda model: float(model["bytes"]))
        file, size, speed_up = f"{shown['precision']} {shown['target']}", shown["bytes"], ""
    return [
        name,
        task["outcome"],
        file,
        accuracy(shown, task["images"]["test"]),
        f"{task['metrics']['unpruned']['accuracy']:.1%}",
        speed_up,
        f"{size / 1e6:.2f}",
    ]


def failures(report: Report) -> list[str]:
    """Why the run failed, in lines; none where all tasks met their gates."""
    tasks = report["tasks"]
    reasons = [
        f"  {name}: {reason}"
        for name, task in tasks.items()
        for reason in [*filter(None, [task["error"]]), *(told(gate) for gate in task["gates"] if gate["code"])]
    ]
    bad = sum(bool(task["code"]) for task in tasks.values())
    return [f"{bad} of {len(tasks)} tasks failed:", *reasons] if bad else []


def told(gate: Report) -> str:
    """A gate's verdict as a sentence."""
    if gate["value"] is None:
        found = ""
    elif gate["low"] == gate["high"]:
        found = f", found {gate['value']:.4g}"
    else:
        found = f", found {gate['value']:.4g} ({gate['low']:.4g} to {gate['high']:.4g})"
    advice = f"; {gate['advice']}" if gate["advice"] else ""
    return f"{gate['gate']} of {gate['subject']} {gate['outcome']}: limit {gate['limit']:.4g}{found}{advice}"


def _case(suite: ET.Element, task: str, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=f"mvp-deploy.{task}", name=_clean(name), time=f"{seconds:.3f}")


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(character for character in text if character in "\t\n" or character >= " ")


def _inline(text: str) -> str:
    return " ".join(text.split())
