from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from mvp_deploy.report import plots
from mvp_deploy.report.ci import row
from mvp_deploy.report.page import Figure, Section, Table, page
from mvp_deploy.report.task import task_page

SVGS = {
    "confusion": lambda: plots.confusion(["a", "b"], np.array([[3, 1], [0, 4]])),
    "reliability": lambda: plots.reliability(["unpruned", "pruned"], [[(0.9, 0.8)], [(0.5, 0.6), (0.9, 1.0)]]),
    "scatter": lambda: plots.accuracy_against_latency(["unpruned", "pruned <b>"], [2.0, 0.5], [0.98, 0.95]),
    "windows": lambda: plots.latencies(["unpruned", "pruned"], [[2.0, 2.1], [0.5, 0.6]], [2.4, 0.7]),
    "kept": lambda: plots.kept([{"kept": 3, "size": 10, "unanimity": 0.8}, {"kept": 4, "size": 4, "unanimity": None}]),
}
MEDIAN = {"value": 2.0, "low": 1.9, "high": 2.1}
TIMING = {
    "median": MEDIAN, "p50": 2.0, "p90": 2.1, "p99": 2.5, "windows": [[2.0, 2.1, 1.9], [2.0, 2.2]], "stable": True,
}  # fmt: skip
RUN = {
    "task": "digits#3,5<script>",
    "images": {"train": 100, "test": 25},
    "metrics": {
        "pruned": {"accuracy": 0.95, "params": 100_000, "macs": 1_000_000},
        "unpruned": {"accuracy": 0.98, "params": 1_000_000, "macs": 5_000_000},
    },
    "votes": {
        "voters": [{"task": "digits#0,1", "similarity": -0.5, "weight": 1.0}],
        "measure": "LEEP, log-likelihood in nats",
        "own": 0.5,
    },
    "groups": [{"name": "conv1", "kept": 8, "size": 32, "unanimity": 0.75}],
    "recipe": {"name": "default"},
    "seed": 0,
    "backbone": {"name": "resnet18"},
}
MEASUREMENTS = {
    "environment": {
        "cpu": "EPYC", "cores": 2, "others": 0.1, "system": "Linux", "python": "3.11", "versions": {"onnx": "1.3"},
    },
    "rows": [
        {
            "model": name, "precision": "fp32", "runtime": "onnxruntime CPU",
            "batch": 1, "accuracy": accuracy, "tested": tested, "size": 4_000_000, "timing": TIMING,
            "details": {"runtime": "onnxruntime 1.3", "threads": "2"}, "speed_up": ratio,
        }
        for name, accuracy, tested, ratio in (
            ("unpruned", 0.98, 25, None), ("pruned", 0.95, 10, {"value": 4.0, "low": 3.9, "high": 4.1}),
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SVGS)
def test_plots_are_well_formed_and_take_the_pages_colours(name: str) -> None:
    svg = SVGS[name]()
    ElementTree.fromstring(svg)
    assert "currentColor" in svg
    assert "var(--" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg), "a colour that does not follow light and dark"
    assert svg == SVGS[name](), "equal data give equal bytes"


def test_names_reach_a_plot_as_text() -> None:
    assert "pruned &lt;b&gt;" in SVGS["scatter"]()


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_a_page_needs_no_other_file() -> None:
    html = task_page(RUN, MEASUREMENTS)
    for tag, attributes in Tags(html).found:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "@import" not in html
    assert "url(http" not in html
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


def test_a_task_page_tells_the_result_and_escapes_what_users_named() -> None:
    html = task_page(RUN, MEASUREMENTS)
    for text in (
        "10% of the parameters",
        "95.0%",
        "98.0%",
        "is 4.0 times faster at batch 1",
        "4.00x (3.90-4.10)",
        "EPYC",
    ):
        assert text in html
    assert "digits#3,5&lt;script&gt;" in html
    assert html.count("<svg") == 3


def test_numbers_stand_right_and_what_is_wrong_stands_out() -> None:
    table = Table(("gate", "outcome", "found"), [("max_drop", "failed", "0.1"), ("latency", "met", "")])
    html = page("t", "l", [Section("s", "", table)])
    assert '<td data-name="outcome" class="bad">failed</td><td data-name="found" class="n">0.1</td>' in html
    assert '<td data-name="outcome">met</td><td data-name="found" class="n"></td>' in html


def test_accuracy_never_passes_a_hundred_percent() -> None:
    svg = plots.accuracy_against_latency(["a", "b"], [2.0, 1.0], [1.0, 0.6])
    ticks = [float(text) for text in re.findall(r">(\d+)</text>", svg)]
    assert max(ticks) == 100


def test_long_names_of_models_leave_room_for_the_points(recwarn: pytest.WarningsRecorder) -> None:
    plots.accuracy_against_latency(
        ["tf_efficientnet_lite0 at 80 px cut to 70% of its macs, int8, tuned"] * 3, [1, 2, 3], [0.9] * 3
    )
    assert not [each.message for each in recwarn]  # matplotlib warns where the axes collapse


def test_a_cell_names_its_column_for_narrow_screens() -> None:
    html = page("t", "l", [Section("s", "", Table(("a", "b"), [("1", "2")], 0), [Figure("<svg/>", "c")])])
    assert re.search(r'class="scroll"[^>]*>\s*<table', html)
    assert '<tr class="mark"><td data-name="a" class="n">1</td><td data-name="b" class="n">2</td></tr>' in html


def test_every_accuracy_says_on_how_many_images_and_every_nearness_what_it_is() -> None:
    html = task_page(RUN, MEASUREMENTS)
    assert "fp32 (95.0% of 10) is 4.0 times faster" in html
    assert "95.0% of 10" in html
    assert "98.0% of" not in html  # of all that are held out
    assert "LEEP, log-likelihood in nats" in html
    assert ">similarity<" not in html


def test_a_task_whose_times_were_disturbed_has_a_page_without_them() -> None:
    html = task_page(RUN, None)
    assert "its latency was not measured" in html
    assert "Who voted" in html


def test_an_overviews_row_is_of_one_file() -> None:
    """The slower fp32 file is more accurate and larger: nothing of it may stand beside the int8 file's speed."""
    files = (("fp32", 0.99, 9_000_000, 1.5), ("int8", 0.90, 2_000_000, 3.0))
    task = {
        "outcome": "met",
        "images": {"test": 100},
        "metrics": {"unpruned": {"accuracy": 0.98}},
        "models": [
            {"model": "pruned", "target": "onnx", "precision": name, "accuracy": accuracy, "bytes": size, "tested": 100}
            for name, accuracy, size, _ in files
        ],
        "times": {
            "environment": {"cores": 2, "others": 0.0},
            "rows": [
                {
                    "model": "pruned", "precision": name, "runtime": "onnxruntime CPU", "batch": 1, "size": size,
                    "accuracy": accuracy, "tested": 100, "speed_up": {"value": gain, "low": gain, "high": gain},
                }
                for name, accuracy, size, gain in files
            ],
        },
    }  # fmt: skip
    shown = ["dogs", "met", "int8 onnxruntime CPU, batch 1", "90.0%", "98.0%", "3.00x (3.00-3.00)", "2.00"]
    assert row(("dogs", task)) == shown
    task["times"]["rows"] = []  # type: ignore[index]
    assert row(("dogs", task)) == ["dogs", "met", "int8 onnx", "90.0%", "98.0%", "", "2.00"]
