"""The page of the leaderboard: tables, charts and pictures that say what the numbers say, safely."""

import copy
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from segfocus.refinement.charts import Mark, gains_chart, scatter_chart
from segfocus.refinement.leaderboard import boundary_table, cost_table, in_short, marks, quality_table, tiles
from segfocus.refinement.page import best_refiner, shown, write_page
from segfocus.refinement.parts import Part
from segfocus.report.svg import COLORS
from tests.refinement.small import compared, make_folders, row_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    folders = make_folders(root)
    with pytest.MonkeyPatch.context() as patched:
        results = compared(folders, root / "out", ["global_threshold", "patch_oracle"], patched, page=True, patch=16)
    return Part.open(folders, None, False), root / "out", results


@pytest.fixture
def results(made):
    """A copy, with ThreshNet and its control beside what was measured."""
    found = copy.deepcopy(made[2])
    one = row_of(found, "global_threshold")
    for name, title, gain in (("threshnet", "ThreshNet", 0.06), ("threshnet_regular", "<L_reg> only", -0.02)):
        change = {"value": gain, "interval": [gain - 0.01, gain + 0.01]}
        found["rows"].append({**one, "name": name, "title": title, "difference": change, "fitting": "trained"})
    found["thresholds_add"] = {"value": 0.08, "interval": [0.05, 0.1]}
    return found


class _Reader(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)


def read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    return reader


def test_the_page_needs_nothing_but_itself(made):
    text = (made[1] / "report.html").read_text()
    page = read(text)
    assert not [link for link in page.links if not link.startswith(("#", "data:image/"))]
    assert not {link[1:] for link in page.links if link.startswith("#")} - set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://(?!www\.w3\.org)", text)


def test_names_are_escaped_and_every_row_is_named(results, made, tmp_path):
    part, out, _ = made
    best = best_refiner(results["rows"])
    assert best is not None
    for row in results["rows"]:
        if row["checkpoint"]:
            row["checkpoint"] = str(out / row["checkpoint"])
    path = write_page(tmp_path / "report.html", results, part, part.classes, "cpu")
    text = path.read_text()
    assert "&lt;L_reg&gt; only" in text
    assert "<L_reg>" not in text
    for row in results["rows"]:
        assert row["title"].split(":")[0].replace("<", "&lt;").replace(">", "&gt;") in text


def test_pictures_show_before_and_after(made):
    text = (made[1] / "report.html").read_text()
    for title in (
        "picture",
        "truth",
        "probability before",
        "probability after",
        "mask before",
        "mask after",
        "changes",
    ):
        assert f"<figcaption>{title}</figcaption>" in text


def test_a_picture_that_has_gone_leaves_the_numbers(made, results, tmp_path):
    part, _, _ = made
    row_of(results, "global_threshold")["checkpoint"] = "gone.safetensors"
    for row in results["rows"]:
        row["checkpoint"] = row["checkpoint"] and "gone.safetensors"
    text = write_page(tmp_path / "report.html", results, part, part.classes, "cpu").read_text()
    assert "No pictures: checkpoint: expected a .safetensors file" in text
    assert "The leaderboard" in text


def test_pictures_with_most_gained_come_first_then_most_lost():
    #             right, fixed, broken, still wrong
    pictures = {"a": [90, 10, 0, 0], "b": [90, 0, 9, 1], "c": [99, 0, 1, 0], "d": [95, 5, 0, 0], "e": [100, 0, 0, 0]}
    assert shown(pictures) == ["a", "d", "b", "c"]
    assert shown({"e": [100, 0, 0, 0]}) == []
    assert shown({"void": [0, 0, 0, 0]}) == []


def test_words_tell_what_the_thresholds_add(results):
    said = in_short(results)
    assert any("What the thresholds add: ThreshNet +6.0 points" in text for text in said)
    assert any("between them +8.0 points (+5.0 to +10.0): the thresholds help" in text for text in said)
    assert any(text.startswith("Clearly worse than the base: <L_reg> only") for text in said)
    results["thresholds_add"] = {"value": 0.001, "interval": [-0.01, 0.02]}
    assert any("is not clear from these pictures" in text for text in in_short(results))


def test_tables_hold_the_numbers(results):
    table = quality_table(results)
    one = next(row for row in table.rows if "One threshold" in row[0].text)
    place = [column.title for column in table.columns].index("Harm")
    harm = row_of(results, "global_threshold")["harm_rate"]
    assert one[place].text == f"{100 * harm:.2f}"
    base = next(row for row in table.rows if "Base" in row[0].text)
    assert base[place].text == "–"
    assert len(boundary_table(results).rows) == len(results["rows"])
    costs = cost_table(results)
    assert len(costs.rows) == len(results["rows"]) - 1
    assert "uses the truth" in [cell.text for row in costs.rows for cell in row]


def test_tiles_name_base_best_and_oracle(results):
    names = [tile["name"] for tile in tiles(results)]
    assert names[0] == "Base"
    assert names[1].startswith("Best: ")
    assert names[2] == "Oracle"
    results["rows"] = [row for row in results["rows"] if row["name"] == "base"]
    assert [tile["name"] for tile in tiles(results)] == ["Base"]


def some_marks() -> list[Mark]:
    return [
        Mark("1", "Network & <co>", 0.05, [0.03, 0.07], 1200.0),
        Mark("2", "Rule", 0.01, None, 3.5, "soft"),
        Mark("3", "Worse", -0.02, [-0.05, 0.01], 0.0, "soft"),
        Mark("4", "Unknown", None, None, None),
    ]


@pytest.mark.parametrize("marks_", [some_marks(), [], [Mark("1", "Same", 0.0, [0.0, 0.0], 5.0)]])
@pytest.mark.parametrize("kind", ["gains", "time", "harm"])
def test_charts_are_clean_svg(kind, marks_):
    if kind == "gains":
        text = gains_chart("c", "title", marks_)
    else:
        text = scatter_chart("c", "title", marks_, "across", percent=kind == "harm", decades=kind == "time")
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    assert root[1].text
    assert not re.search(r"https?:|url\(|#[0-9a-f]{6}|<style|nan", text)
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(COLORS)


def test_charts_show_what_there_is():
    words = [item.text for item in ElementTree.fromstring(gains_chart("c", "t", some_marks())).iter("text")]
    assert {"1. Network & <co>", "+5.0", "−2.0"} <= set(words)
    assert not [text for text in words if text and "Unknown" in text]
    words = [
        item.text
        for item in ElementTree.fromstring(scatter_chart("c", "t", some_marks(), "ms", decades=True)).iter("text")
    ]
    assert {"1", "2", "ms", "10", "1\u202f000"} <= set(words)
    assert "3" not in words  # took no time at all: on no logarithmic scale


def test_the_base_has_no_mark(results):
    found = marks(results["rows"])
    assert len(found) == len(results["rows"])
    assert [mark.name for mark in found if not mark.label] == [""]
    assert sum(mark.color == "warn" for mark in found) == 1
