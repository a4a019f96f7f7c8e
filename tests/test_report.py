"""The page: what it says, that it is safe and self-contained, and that memory does not grow."""

import base64
import functools
import html.parser
import re
import tracemalloc

import cv2
import numpy as np
import pytest

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.scores import Counts
from segfocus.report import Entry, Pictures, build_report, write_report
from segfocus.report.definitions import DEFINITIONS
from tests.report.scores import CLASSES as THREE
from tests.report.scores import full_scores

CLASSES = Classes.of(["ground", "<b>wall</b>", "pole"])


def entry(index: int, wrong: int, size=(12, 16), name=None) -> Entry:
    """A picture with exactly `wrong` wrong pixels."""
    rng = np.random.default_rng(index)
    target = rng.integers(0, 3, size).astype(np.uint8)
    target[0, 0] = 255
    prediction = target.copy()
    prediction.flat[1 : wrong + 1] = (prediction.flat[1 : wrong + 1] + 1) % 3
    prediction[0, 0] = 2
    return Entry(
        name or f"val/{index:02d}",
        rng.integers(0, 256, (*size, 3)).astype(np.uint8),
        target,
        prediction,
        rng.random((3, 4)).astype(np.float32),
        rng.random((3, 4)) > 0.5,
    )


def scores_of(entries) -> dict:
    counts = Counts(3)
    for item in entries:
        counts.update(item.target, item.prediction)
    return counts.summary(CLASSES)


class Page(html.parser.HTMLParser):
    """Tags with attributes, and the visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self._parts, self._hidden = [], "", [], 0
        self.source = text
        self.feed(text)
        self.words = " ".join(" ".join(self._parts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data):
        if not self._hidden:
            self.text += data
            self._parts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_shows_the_worst_pictures_worst_first(tmp_path):
    wrongs = [5, 40, 0, 12, 30, 7]
    entries = [entry(index, wrong) for index, wrong in enumerate(wrongs)]
    path = build_report(tmp_path / "out", "where", scores_of(entries), iter(entries), CLASSES, worst=3)
    assert path == tmp_path / "out" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert re.findall(r"\d\. (val/\d\d)", page.text) == ["val/01", "val/04", "val/03"]
    assert "20.9 % of its pixels wrong" in page.text  # 40 of 191 labelled pixels
    assert len([image for image in page.all("img") if image.get("src")]) == 3 * 5


def test_page_states_the_scores(tmp_path):
    entries = [entry(index, 20) for index in range(3)]
    scores = scores_of(entries)
    text = Page(build_report(tmp_path, "t", scores, entries, CLASSES).read_text(encoding="utf-8")).words
    assert f"mIoU ? {100 * scores['miou']:.1f} %" in text
    for distance, value in scores["boundary_iou"].items():
        assert f"Boundary IoU, {distance} px ? {100 * value:.1f}" in text
    for name, value in scores["per_class"].items():
        assert re.search(rf"{name} {100 * value:.1f}", text)


def test_share_of_pixels_and_confusions_are_those_of_all_pictures(tmp_path):
    entries = [entry(index, 20) for index in range(4)]
    pictures = Pictures(CLASSES, worst=1)
    for item in entries:
        pictures.add(item)
    truth = np.concatenate([item.target.ravel() for item in entries])
    guess = np.concatenate([item.prediction.ravel() for item in entries])
    for row in range(3):
        for column in range(3):
            assert pictures.confusion[row, column] == ((truth == row) & (guess == column)).sum()
    page = Page(build_report(tmp_path, "t", scores_of(entries), entries, CLASSES).read_text(encoding="utf-8"))
    share = 100 * (truth == 2).sum() / (truth != 255).sum()
    assert f"{share:.1f}" in page.text


def test_everything_from_outside_is_escaped(tmp_path):
    attack = "<script>alert(1)</script>\"'&"
    entries = [entry(0, 5, name=attack)]
    made = {attack: attack}
    text = build_report(tmp_path, attack, scores_of(entries), entries, CLASSES, made).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("b") or all("wall" not in str(item) for item in page.all("b"))
    assert "alert(1)" in page.text
    assert "<b>wall" not in text


def test_page_needs_no_network(tmp_path):
    entries = [entry(0, 5)]
    text = build_report(tmp_path, "t", scores_of(entries), entries, CLASSES).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("link")
    assert not re.search(r"https?://|url\(", text)
    assert all(image["src"].startswith("data:image/") for image in page.all("img") if "src" in image)


def test_embedded_pictures_decode_and_are_small(tmp_path):
    entries = [entry(0, 5, size=(300, 200))]
    path = build_report(tmp_path, "t", scores_of(entries), entries, CLASSES, image_size=100)
    images = Page(path.read_text(encoding="utf-8")).all("img")
    sources = [image["src"] for image in images if "src" in image and image["class"] != "crisp"]
    assert len(sources) == 5
    for source in sources:
        data = base64.b64decode(source.split(",")[1])
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (100, 67, 3)


def test_absent_class_is_a_dash_and_void_pictures_are_passed_over(tmp_path):
    target = np.zeros((8, 8), np.uint8)
    picture = np.zeros((8, 8, 3), np.uint8)
    entries = [
        Entry("plain", picture, target, target),
        Entry("void", picture, np.full((8, 8), 255, np.uint8), target),
    ]
    page = Page(build_report(tmp_path, "t", scores_of(entries), entries, CLASSES).read_text(encoding="utf-8"))
    assert re.search(r"pole\s*–", page.text)
    assert "1. plain" in page.text
    assert "void" not in [image.get("alt") for image in page.all("img")]
    assert "importance: low to high" not in page.text


def test_page_without_pictures_or_scores_still_reads(tmp_path):
    path = build_report(tmp_path / "page.html", "empty", {}, [], CLASSES)
    page = Page(path.read_text(encoding="utf-8"))
    assert path.name == "page.html"
    assert "The worst pictures" not in page.text
    assert "What the numbers mean" in page.text


def test_wrong_sizes_are_refused_and_nothing_is_written(tmp_path):
    bad = Entry("a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8))
    with pytest.raises(SegfocusError, match=r"a: expected picture and labels of one size"):
        build_report(tmp_path, "t", {}, [bad], CLASSES)
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_number_of_pictures():
    def peak(count: int) -> int:
        pictures = Pictures(CLASSES, worst=2, image_size=32)
        tracemalloc.start()
        for index in range(count):
            pictures.add(entry(index, index + 1, size=(128, 128)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(2)  # imports and caches
    assert peak(40) < 1.3 * peak(8)


@functools.cache
def some_pictures() -> Pictures:
    pictures = Pictures(THREE)
    for index in range(3):
        pictures.add(entry(index, 30, name=f"<script>{index}</script>"))
    return pictures


@pytest.fixture
def plain_charts(monkeypatch):
    """Drawing charts takes the most time, and has tests of its own."""
    for name in ("bins_chart", "changes_chart", "reliability_chart", "recall_chart"):
        monkeypatch.setattr(f"segfocus.report.charts.{name}", lambda *_: "<svg></svg>")
    monkeypatch.setattr("segfocus.report.compare.budget_chart", lambda *_: "<svg></svg>")


def full_page(tmp_path, scores=None, title="t", made=None) -> Page:
    scores = full_scores() if scores is None else scores
    path = write_report(tmp_path, title, scores, some_pictures(), made)
    return Page(path.read_text(encoding="utf-8"))


SECTIONS = {
    "regions": "Where the errors are",
    "headroom": "Headroom in numbers",
    "measured": "What was really gained",
    "thin": "clDice",
    "importance": "How well it knows where it is wrong",
    "instance": "Every object counts alike",
    "calibration": "Are its probabilities honest?",
    "baseline": "What changed",
    "per_category": "Categories",
    "failures": "could not be measured",
    "left_out": "not measured:",
    "trimap": "Trimap mIoU",
    "boundary_f": "Boundary F, 3 px",
    "mba": "Mean boundary accuracy",
}


@pytest.mark.usefixtures("plain_charts")
@pytest.mark.parametrize("key", SECTIONS)
def test_a_section_is_there_exactly_when_its_scores_are(tmp_path, key):
    scores = full_scores()
    assert SECTIONS[key] in full_page(tmp_path, scores).words
    del scores[key]
    without = full_page(tmp_path, scores)
    # what is explained at the end may be asked for by another section too
    assert SECTIONS[key] not in without.words.partition("What the numbers mean")[0]


@pytest.mark.usefixtures("plain_charts")
@pytest.mark.parametrize("key", sorted(full_scores()))
def test_any_single_score_may_be_missing_or_none(tmp_path, key):
    scores = full_scores()
    scores[key] = None
    page = full_page(tmp_path, scores)
    assert "nan" not in page.words.replace("name", "")
    del scores[key]
    assert full_page(tmp_path, scores).words


def test_scores_come_with_intervals_and_changes(tmp_path):
    text = full_page(tmp_path).words
    assert "mIoU ? 60.0 % 58.0 – 62.5 ? +2.0 (+1.1 to +3.4) ?" in text
    assert "Boundary IoU, 3 px ? 40.0 % 38.0 – 43.0 +4.0" in text
    assert "Boundary IoU, 2 % of the diagonal ? 50.0" in text
    assert "iIoU, objects ? 33.0 %" in text
    assert "Brier score ? 0.123 (not %)" in text
    assert "1 200 px fixed ? , 300 px broken ? , 50 px wrong in both ?" in text


def test_changes_are_coloured_only_where_they_are_clear(tmp_path):
    page = full_page(tmp_path)
    tones = [item["class"] for name, item in page.tags if name == "span" and item.get("class", "").startswith("change")]
    assert tones == ["change good", "change soft", "change soft"]  # mIoU; Boundary IoU; pixel accuracy


def test_every_definition_asked_for_is_there_and_no_other(tmp_path):
    page = full_page(tmp_path)
    asked = {item["href"] for item in page.all("a") if item.get("class") == "info"}
    given = {"#" + item["id"] for item in page.all("dt") if "id" in item}
    assert asked <= given
    assert {key.removeprefix("#def-") for key in given} <= set(DEFINITIONS)
    always = {"#def-void", "#def-iou", "#def-miou", "#def-importance"}
    assert given - asked <= always
    assert len(asked) > 25
    assert all(
        item.get("aria-label", "").startswith("What is ") for item in page.all("a") if item.get("class") == "info"
    )


def test_definitions_are_complete_sentences():
    for key, item in DEFINITIONS.items():
        assert item.name, key
        assert item.text.endswith("."), key
        assert "<" not in item.text, key


def test_ids_are_unique_and_links_lead_somewhere(tmp_path):
    page = full_page(tmp_path)
    ids = [item["id"] for _, item in page.tags if "id" in item]
    assert len(ids) == len(set(ids))
    targets = {item["href"][1:] for _, item in page.tags if item.get("href", "").startswith("#")}
    assert targets <= set(ids)
    labels = {name for _, item in page.tags for name in item.get("aria-labelledby", "").split()}
    assert labels <= set(ids)


def test_full_page_is_safe_and_needs_no_network(tmp_path):
    attack = "<script>alert(1)</script>\"'&"
    scores = full_scores()
    scores["per_class"][attack] = 0.5
    scores["left_out"] = {attack: attack}
    page = full_page(tmp_path, scores, title=attack, made={attack: attack})
    assert len(page.all("script")) == 1
    assert {name for name, _ in page.tags} & {"u", "b", "i"} <= {"b", "i"}  # the page's own
    assert not re.search(r"<b>wall|<i>smooth|<u>old|<img src=x|<script>\d", page.source)
    assert not re.search(r"https?://|url\(|@import", page.source)
    assert not any(name in ("link", "iframe", "object", "base", "form") for name, _ in page.tags)
    assert all(not name.startswith("on") for _, item in page.tags for name in item)
    policy = next(item["content"] for item in page.all("meta") if item.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_charts_take_their_colours_from_the_page(tmp_path):
    page = full_page(tmp_path)
    assert len(page.all("svg")) == 3 + 3 + 4 + 2 + 2  # regions, changes, headroom, calibration, importance
    used = set(re.findall(r"var\(--(\w+)\)", "".join(re.findall(r"<svg.*?</svg>", page.source, re.S))))
    for role in used:
        assert len(re.findall(rf"--{role}: #", page.source)) == 2, f"--{role} in light and dark"


def test_tables_have_as_many_cells_as_headings(tmp_path):
    page = full_page(tmp_path)
    for table in re.findall(r"<table data-sortable>.*?</table>", page.source, re.S):
        head, *rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
        for row in rows:
            assert len(re.findall(r"<t[hd] ", row)) == len(re.findall(r"<th ", head))


def test_failures_are_listed_and_many_are_folded(tmp_path):
    scores = full_scores()
    scores["failures"] = [f"val/{index}.png: broken" for index in range(25)]
    text = full_page(tmp_path, scores).words
    assert "25 files could not be measured" in text
    assert "15 more" in text
    assert "val/24.png: broken" in text


def test_many_classes_leave_out_the_matrix(tmp_path):
    many = Classes.of([f"class {index}" for index in range(40)])
    target = np.arange(1600, dtype=np.uint8).reshape(40, 40) % 40
    entries = [Entry("a", None, target, np.roll(target, 3))]
    assert "Confusion matrix" not in Page(build_report(tmp_path, "t", {}, entries, many).read_text()).words
    assert "Confusion matrix" in full_page(tmp_path).words


def test_many_absent_classes_are_named_and_have_no_rows(tmp_path):
    many = Classes.of([f"class <{index}>" for index in range(12)])
    target = np.arange(1600, dtype=np.uint8).reshape(40, 40) % 4
    entries = [Entry("a", None, target, np.roll(target, 3))]
    page = Page(build_report(tmp_path, "t", {}, entries, many).read_text(encoding="utf-8"))
    assert "8 classes are neither in the truth nor in a prediction" in page.words
    assert page.words.count("class <11>") == 1
    assert page.words.count("class <3>") > 2


@pytest.mark.real_data
def test_a_report_of_real_pictures_fits_into_three_megabytes(tmp_path, shared_data):
    from segfocus.data import camvid

    def entries():
        for path in sorted((shared_data / "camvid/images/val").glob("*.jpg"))[::8]:
            target = cv2.imread(str(shared_data / f"camvid/masks/val/{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            guess = cv2.imread(str(shared_data / f"camvid_espnet/labels/val/{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            target[target == 11] = 255
            yield Entry(path.stem, picture, target, guess, baseline=cv2.medianBlur(guess, 5))

    path = build_report(tmp_path, "t", full_scores(), entries(), camvid.classes())
    assert path.stat().st_size < 3e6
