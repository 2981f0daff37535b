"""A run of several tasks as CI shows it: junit.xml, a Markdown summary, and the sentences and cells in them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from mvp_deploy.base.errors import ExitCode
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.report.devices import columns_of
from mvp_deploy.report.task import accuracy, gain

Report = Mapping[str, Any]
OVERVIEW = ("task", "outcome", "file", "accuracy", "unpruned", "speed-up", "MB")


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
        f"| {' | '.join(OVERVIEW)} |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        *("| " + " | ".join(cells) + " |" for cells in map(row, tasks.items())),
        "",
    ]
    for name, task in tasks.items():
        if task["error"]:
            lines.append(f"- **{name}**: {_inline(task['error'])}")
        lines += [f"- **{name}**: {_inline(told(gate))}" for gate in task["gates"] if gate["code"]]
        lines += [f"- {name}: {_inline(warning)}" for warning in task.get("warnings", ())]
        lines += [f"- {name}: {_inline(told(gate))}" for gate in task["gates"] if is_gap(gate)]
        lines += _devices(name, task)
    lines += [f"- **{name}** was in the baseline and is no longer in the config" for name in report["gone"]]
    return "\n".join(lines) + "\n\n"


def is_gap(gate: Report) -> bool:
    """Whether it says of a device that it was away, and might be."""
    return gate["gate"] == "device" and not gate["code"]


def _devices(name: str, task: Report) -> list[str]:
    """A table of the task's models with a column for each device."""
    if not task.get("devices"):
        return []
    found = columns_of(task)
    header, rows = found.table()
    lines = ["", f"{name} on devices:", "", f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    lines += ["| " + " | ".join(map(_inline, cells)) + " |" for cells in rows]
    return [*lines, "", *(f"- {_inline(line)}" for line in found.remarks())]


def row(item: tuple[str, Report]) -> list[str]:
    """A task as cells of a table, all of one file: its fastest pruned one, or if none was timed the smallest."""
    name, task = item
    models = [model for model in task.get("models", ()) if model["model"] == "pruned"]
    if not models:
        return [name, task["outcome"], "", "", "", "", ""]
    timed = [found for found in task["times"]["rows"] if found["model"] == "pruned" and found["speed_up"]]
    if timed:
        shown = max(timed, key=lambda found: float(found["speed_up"]["value"]))
        file, size = f"{shown['precision']} {shown['runtime']}, batch {shown['batch']}", shown["size"]
        speed_up = gain(shown["speed_up"])
        speed_up += ", disturbed" if disturbed(task["times"]["environment"]) else ""
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
    """Why the run failed, in lines; none if all tasks met their gates."""
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
    if gate["gate"] == "device":
        return f"{gate['subject']} not measured: {gate['advice']}"
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
