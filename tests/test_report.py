"""The page: what it says, that it is safe and self-contained, and that memory does not grow."""

import base64
import html.parser
import re
import tracemalloc

import cv2
import numpy as np
import pytest

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.scores import Counts
from segfocus.report import Entry, Pictures, build_report

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
        self.tags, self.text, self._hidden = [], "", 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data):
        if not self._hidden:
            self.text += data

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
    page = Page(build_report(tmp_path, "t", scores, entries, CLASSES).read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert f"mIoU{100 * scores['miou']:.1f} %" in text
    for distance, value in scores["boundary_iou"].items():
        assert f"Boundary IoU{100 * value:.1f} %mean IoU within {distance} px" in text
    for name, value in scores["per_class"].items():
        assert re.search(rf"{name}\W+{100 * value:.1f}", text)


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
    assert f"{share:.2f}" in page.text


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
    sources = [image["src"] for image in Page(path.read_text(encoding="utf-8")).all("img") if "src" in image]
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
