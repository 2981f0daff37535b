"""The reports of a run on disk: report.json, report.html, junit.xml and summary.md; history.json has earlier runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.files import write_text, writing_errors
from mvp_deploy.base.formats import Malformed, loads, parse, read_bytes, read_json
from mvp_deploy.report.ci import junit, markdown
from mvp_deploy.report.history import History
from mvp_deploy.report.run import report_page

Report = Mapping[str, Any]
NAMES = ("report.json", "report.html", "junit.xml", "summary.md", "history.json")


def write(report: Report, out: Path) -> None:
    """Write the files of ``NAMES`` into ``out``; append the summary to $GITHUB_STEP_SUMMARY."""
    from mvp_deploy.pipeline.reportfile import Report as ReportFile  # imports torch

    summary, text = markdown(report), json.dumps(report, indent=2, allow_nan=False) + "\n"
    parse(ReportFile, loads(text.encode()))
    history = _history(out).with_run(report)
    texts = {
        "report.json": text,
        "junit.xml": junit(report),
        "summary.md": summary,
        "report.html": report_page(report, history),
        "history.json": json.dumps(asdict(history), allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_text(out / name, text)
    if step_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with writing_errors(step_summary), open(step_summary, "a", encoding="utf-8") as file:
            file.write(summary)


def _history(out: Path) -> History:
    """Earlier runs; none where the file is not there or damaged, since no run should fail for it at its end."""
    try:
        return read_json(out / "history.json", History, cure="")
    except MvpError:
        return History()


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
