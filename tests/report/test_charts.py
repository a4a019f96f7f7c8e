"""Charts: safe inline SVG that takes its colours from the page and says its numbers in words."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from segfocus.report.charts import (
    WIDTH,
    Series,
    bins_chart,
    budget_chart,
    changes_chart,
    recall_chart,
    reliability_chart,
)
from segfocus.report.compare import headroom_charts
from segfocus.report.svg import COLORS
from tests.report.scores import full_scores

BINS = ["1", "2", "3-4", ">4"]


def some_charts(name="c"):
    pair = (Series("share", [0.1, 0.2, 0.3, 0.4], "soft", "soft"), Series("errors", [0.4, None, 0.003, 0.1], "bad"))
    below = [Series("right", [0.5, 0.9, None, 1.0], "bar"), Series("mIoU", [0.1, 0.2, 0.3, 0.0], "soft")]
    bins = [{"confidence": 0.3, "accuracy": 0.25, "share": 0.1}, {"confidence": None, "accuracy": None, "share": 0.0}]
    return {
        "bins": bins_chart(name, "title", BINS, "px", pair, below),
        "empty": bins_chart(name, "title", BINS, "px", (Series("a", [None] * 4, "bar"),) * 2, []),
        "reliability": reliability_chart(name, "title", bins),
        "nothing": reliability_chart(name, "title", []),
        "changes": changes_chart(name, "title", BINS, "px", [1200, 0, 5, None], [0, 2_500_000, 12_000, 7]),
        "unchanged": changes_chart(name, "title", BINS, "px", [0] * 4, [0] * 4),
        "budget": budget_chart(name, "title", BINS, "px", [Series("<truth> $x$", [0.7, 0.8, 0.9, 1.0], "bar")], 0.6),
        "recall": recall_chart(name, "title", [0.05, 0.1, 0.25, 1.0], [*pair, *below]),
        "perfect": budget_chart(name, "title", BINS, "px", [Series("", [1.0] * 4, "bar", joined=False)], 1.0),
    }


@pytest.mark.parametrize("kind", some_charts())
def test_charts_are_clean_svg(kind):
    text = some_charts()[kind]
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == ["title", "desc"]
    assert root[1].text
    assert not set(root.attrib) - {"viewBox", "class", "role", "aria-labelledby"}
    assert {item.tag for item in root.iter()} <= {"svg", "title", "desc", "g", "path", "text", "use", "defs"}
    assert not re.search(r"https?:|url\(|xlink|font-family|#[0-9a-f]{6}|clip-path|<style|nan", text)
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(COLORS)
    assert len(text) < 20_000


def test_numbers_stand_in_the_picture_and_in_words():
    charts = some_charts()
    shown = [item.text for item in ElementTree.fromstring(charts["bins"]).iter("text")]
    for label in [*BINS, "10", "40", "<1", "50", "100", "share", "errors", "right", "mIoU"]:
        assert label in shown
    words = ElementTree.fromstring(charts["bins"])[1].text
    assert words.startswith("1: share 10.0 %, errors 40.0 %, right 50.0 %, mIoU 10.0 %; 2: share 20.0 %, errors – %")
    shown = [item.text for item in ElementTree.fromstring(charts["changes"]).iter("text")]
    assert {"1.2k", "2.5M", "12k", "7"} <= set(shown)


def test_bars_are_as_long_as_their_numbers():
    text = some_charts()["changes"]
    heights = {}
    for item in ElementTree.fromstring(text).iter("path"):
        if "fill: var(--good)" in item.get("style", "") or "fill: var(--bad)" in item.get("style", ""):
            points = [float(value) for value in re.findall(r"-?\d+(?:\.\d+)?", item.get("d"))]
            if len(points) == 8:
                heights.setdefault("good" if "good" in item.get("style") else "bad", []).append(
                    max(points[1::2]) - min(points[1::2])
                )
    up, down = sorted(heights["good"]), sorted(heights["bad"])
    assert down[-1] / down[-2] == pytest.approx(2_500_000 / 12_000, rel=0.2)  # drawn to a hundredth of a pixel
    assert up[-1] < 0.1


def drawn(scores, idea):
    """Texts of an idea's chart -> where they stand (those of legends: where they begin) in CSS pixels."""
    chart = next(item["chart"] for item in headroom_charts(scores) if item["define"] == f"headroom_{idea}")
    root = ElementTree.fromstring(chart)
    return {
        item.text: float(item.get("x") or re.findall(r"[\d.]+", item.get("transform"))[0]) for item in root.iter("text")
    }


def test_legends_of_three_ways_fit_into_the_chart():
    scores = full_scores()
    rows = scores["headroom"]["rows"]
    rows += [{**row, "variant": "importance"} for row in rows if row["variant"] == "entropy"]
    places = drawn(scores, "fornet")
    last = "by importance"
    assert places[last] + 7.5 * len(last) < WIDTH
    assert places["by truth"] < places["by entropy"] < places[last]


def test_labels_of_budgets_are_short():
    texts = drawn(full_scores(), "threshnet")
    assert {"picture", "64 px"} <= set(texts)
    assert "whole picture" not in texts


def test_names_are_text_and_no_formula():
    text = some_charts()["budget"]
    assert "&lt;truth&gt; $x$" in text
    assert "<truth>" not in text


def test_equal_numbers_give_equal_bytes_and_ids_carry_the_name():
    assert some_charts() == some_charts()
    for text in some_charts("other").values():
        assert all(name.startswith("other-") for name in re.findall(r'\bid="([^"]+)"', text))
        assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'\bid="([^"]+)"', text))


def test_importing_the_report_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys, segfocus.report, segfocus.report.charts\n"
        "assert not {'torch', 'matplotlib', 'jinja2', 'scipy', 'skimage'} & set(sys.modules), sorted(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
