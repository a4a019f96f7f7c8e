"""The page of a method that borrows predictions: pictures on one scale, legend, and what borrowing changed."""

import base64
import re

import cv2
import numpy as np
import pytest

from segfocus import viz
from segfocus.checkpoint import Checkpoint
from segfocus.metrics.confusion import confusion_matrix, scores_from_confusion
from segfocus.recipe import DataConfig, EvaluationConfig, Recipe
from segfocus.report import Entry, Pictures, write_report
from segfocus.report.borrowing import borrowing, borrowing_words
from tests.inference.stubs import Borrower
from tests.report.scores import CLASSES, full_scores
from tests.test_report import Page

BORROWING = {
    "lengths": {"50 %": 0.75, "90 %": 5.5, "99 %": 12.0},
    "parts": [
        {"part": "wrong before", "pixels": 100, "same_class": 0.8, "would_be_right": 0.31, "confidence": 0.6},
        {"part": "right before", "pixels": 900, "same_class": 0.99, "would_be_right": None, "confidence": 0.2},
    ],
    "confidence": {"same_class": 0.7, "other_class": 0.4},
}


def entry(index: int, length: float, size=(256, 320)) -> Entry:
    rng = np.random.default_rng(index)
    target = np.kron(rng.integers(0, 3, (8, 10)), np.ones((32, 32), int)).astype(np.uint8)[: size[0], : size[1]]
    initial, prediction = target.copy(), target.copy()
    initial[40:70, 40:90] = (initial[40:70, 40:90] + 1) % 3
    prediction[60:110, 60:110] = (prediction[60:110, 60:110] + 1) % 3
    offsets = np.zeros((2, size[0] // 4, size[1] // 4), np.float32)
    offsets[0] = length
    confidence = np.linspace(0, 1, offsets[0].size, dtype=np.float32).reshape(offsets[0].shape)
    picture = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    return Entry(f"p{index}", picture, target, prediction, None, None, initial, "initial", offsets, confidence)


def scores() -> dict:
    found = {**full_scores(), "borrowing": BORROWING}
    found["baseline"] = {**found["baseline"], "kind": "initial", "title": "the network's own initial prediction"}
    return found


def decode(image) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(image.source.split(",")[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_all_pictures_share_one_scale():
    pictures = Pictures(CLASSES, worst=2)
    for index, length in enumerate((2.0, 5.5)):
        pictures.add(entry(index, length))
    assert pictures.offset_scale.longest == 7
    for card, length in zip(sorted(pictures.cards(), key=lambda card: card.name), (2.0, 5.5), strict=True):
        titles = [image.title for image in card.images]
        assert titles == ["picture", "truth", "initial", "prediction", "changes", "offsets", "confidence"]
        expected = viz.offset_colors(np.array([[[length]], [[0.0]]]), 7.0)[0, 0]
        assert (decode(card.images[5]) == expected).all()
        assert card.images[5].height == 256


def test_windows_show_their_own_offsets_with_arrows():
    pictures = Pictures(CLASSES, worst=2)
    item = entry(0, 3.0)
    item.offsets[:, :, :40] = 0  # columns 0 to 159
    pictures.add(item)
    for kind in ("broken", "fixed"):
        (crop, *_) = pictures.crops(kind)
        titles = [image.title for image in crop.images]
        assert titles[5:] == ["offsets", "confidence"]
        drawn, side = decode(crop.images[5]), crop.window.side
        factor = drawn.shape[0] // side
        flat = viz.offset_colors(item.offsets, pictures.offset_scale.longest, (256, 320))[crop.window.inside]
        flat = np.kron(flat, np.ones((factor, factor, 1), np.uint8))
        assert drawn.shape == flat.shape
        assert (drawn == flat).all(-1).mean() > 0.8, "arrows cover little"
        moving = (np.arange(320) >= 160)[crop.window.inside[1]]
        assert (drawn != flat).any() == moving.any(), "arrows where something is borrowed"


def test_memory_of_waiting_offsets_is_bounded():
    pictures = Pictures(CLASSES, worst=1)
    for index in range(5):
        pictures.add(entry(index, 1.0))
    waiting = [card.offsets for card in pictures._cards.items()]
    assert len(waiting) == 1
    assert all(card.offsets is None for card in pictures.cards()), "drawn when asked for"


def test_entries_without_offsets_leave_no_trace(tmp_path):
    pictures = Pictures(CLASSES)
    item = entry(0, 1.0)
    pictures.add(Entry(item.name, item.picture, item.target, item.prediction))
    assert pictures.offset_scale.longest is None
    page = Page(write_report(tmp_path, "t", {}, pictures).read_text(encoding="utf-8"))
    for word in ("offsets:", "confidence in the pixel", "borrow", "initial"):
        assert word not in page.words.partition("What the numbers mean")[0]


@pytest.fixture
def page(tmp_path, monkeypatch) -> Page:
    for name in ("bins_chart", "changes_chart", "reliability_chart"):
        monkeypatch.setattr(f"segfocus.report.charts.{name}", lambda *_: "<svg></svg>")
    monkeypatch.setattr("segfocus.report.compare.budget_chart", lambda *_: "<svg></svg>")
    pictures = Pictures(CLASSES, worst=1)
    pictures.add(entry(0, 5.5))
    return Page(write_report(tmp_path, "t", scores(), pictures).read_text(encoding="utf-8"))


def test_page_says_what_borrowing_changed(page):
    assert "compared with the network's own initial prediction" in page.words
    assert "What borrowing changed" in page.words
    assert "What changed" not in page.words
    assert "right in the initial prediction, wrong now" in page.words
    assert "Of the pixels that were wrong, 31 % point at a pixel with the right answer" in page.words
    assert "Half of the pixels look up to 0.75 px away, one in ten farther than 5.5 px" in page.words
    assert "Mean confidence in the seed pixel: 70 % where it truly is of the same class, 40 % where it is not" in (
        page.words
    )
    assert re.search(r"Wrong before 10\.0 80\.0 31\.0 60\.0", page.words)
    assert re.search(r"Right before 90\.0 99\.0 – 20\.0", page.words)


def test_page_has_the_legend_of_the_colours(page):
    wheels = [image for image in page.all("img") if image.get("class") == "wheel"]
    assert len(wheels) == 1
    assert wheels[0]["alt"] == "colours of offsets up to 7 px"
    assert wheels[0]["src"].startswith("data:image/webp")
    assert "rim 7 px" in page.words
    assert "confidence in the pixel borrowed from: 0 to 1" in page.words
    assert any(image.get("alt") == "offsets of p0" for image in page.all("img"))


def test_every_question_mark_has_its_answer(page):
    asked = {item["href"][1:] for item in page.all("a") if item.get("class") == "info"}
    given = {item["id"] for item in page.all("dt") if "id" in item}
    assert {"def-offset", "def-initial", "def-seed_right", "def-seed_same_class", "def-borrowing_confidence"} <= asked
    assert asked <= given


@pytest.mark.parametrize("left_out", ["lengths", "parts", "confidence"])
def test_any_part_may_be_missing(left_out):
    some = {key: value for key, value in BORROWING.items() if key != left_out}
    found = borrowing({"borrowing": some})
    assert (found is None) == (left_out == "parts")
    assert found is None or len(found["words"]) == 1
    assert (borrowing_words({"borrowing": some}) is None) == (left_out == "parts")
    assert borrowing({}) is None
    assert borrowing({"borrowing": None}) is None


def test_evaluation_tells_initial_and_final_prediction_apart():
    from segfocus.data import open_dataset
    from segfocus.training.evaluation import evaluate

    recipe = Recipe(
        data=DataConfig(name="synthetic", synthetic_pictures=8, synthetic_size=[48, 64]),
        evaluation=EvaluationConfig(boundary_distances=[1]),
    )
    dataset = open_dataset(recipe.data, recipe.data.val_split)
    classes = dataset.classes
    seen = []
    model = Checkpoint(Borrower(classes.num_classes), recipe, classes, {})
    found = evaluate(
        model, device="cpu", metrics=["intervals"], on_picture=lambda *given: seen.append((given[2], given[3]))
    )
    before = sum(confusion_matrix(target, item.initial_labels, classes.num_classes) for target, item in seen)
    after = sum(confusion_matrix(target, item.labels, classes.num_classes) for target, item in seen)
    gains = [scores_from_confusion(matrix)["miou"] for matrix in (before, after)]
    baseline = found["baseline"]
    assert baseline["kind"] == "initial"
    assert baseline["scores"]["miou"] == pytest.approx(gains[0])
    assert found["miou"] == pytest.approx(gains[1])
    assert baseline["difference"]["miou"]["value"] == pytest.approx(gains[1] - gains[0])
    fixed = sum(((item.initial_labels != t) & (item.labels == t) & (t != 255)).sum() for t, item in seen)
    assert baseline["changed"]["fixed"] == fixed
    assert "changed" not in found
    assert found["borrowing"]["lengths"]["99 %"] == pytest.approx(4.25)
    assert sum(part["pixels"] for part in found["borrowing"]["parts"]) == sum((t != 255).sum() for t, _ in seen)
    windowed = evaluate(model, evaluation=EvaluationConfig(window=[32, 32], boundary_distances=[1]), device="cpu")
    assert "baseline" in windowed
    assert "borrowing" not in windowed
