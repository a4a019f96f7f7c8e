"""The page of a refiner: probabilities before and after, thresholds of patches, and what refining changed."""

import base64
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.patch_thresholds import PatchThresholds
from segfocus.ops.patches import best_thresholds
from segfocus.report import Entry, Pictures, write_report
from segfocus.report.thresholds import class_shown, draw_maps, threshold_words, thresholds
from tests.report.scores import CLASSES, full_scores
from tests.test_report import Page

CRACKS = Classes.of(["background", "crack"])
TITLES = ["probability before", "probability after", "best thresholds", "implied thresholds"]


def entry(classes: int = 2, size=(256, 320), patch: int | None = 64) -> Entry:
    """A map that needs a low threshold on the left and a high one on the right, and a refiner that mends the left but
    for a corner."""
    rng = np.random.default_rng(0)
    target = np.zeros(size, np.uint8)
    target[60:200:20, 10:310] = target[61:201:20, 10:310] = 1
    target[-4:] = 255
    foreground = np.where(target == 1, 0.35, 0.15) + np.linspace(0, 0.5, size[1]) + 0.02 * rng.random(size)
    p = foreground.clip(0, 1).astype(np.float32)
    rest = np.stack([(1 - p) / (classes - 1)] * (classes - 1))
    base = np.concatenate([rest[:1], p[None], rest[1:]])
    refined = base.copy()
    refined[1, :, :160] = np.where(target[:, :160] == 1, 0.9, 0.05)
    refined[1, :20, 100:130] = 0.8
    refined[0, :20, 100:130] = 0.2
    refined[0, :, :160] = 1 - refined[1, :, :160]
    refined[2:, :, :160] = 0
    before, after = (maps.argmax(0).astype(np.uint8) for maps in (base, refined))
    picture = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    return Entry(
        "p", picture, target, after, baseline=before, baseline_name="base", base_probabilities=base,
        probabilities=refined, patch=patch,
    )  # fmt: skip


def decode(image) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(image.source.split(",")[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def assert_nearly(image, expected: np.ndarray) -> None:
    """WebP loses a little."""
    found = decode(image)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 8


def test_a_card_shows_the_map_before_and_after_and_both_thresholds():
    item = entry()
    pictures = Pictures(CRACKS, worst=1)
    pictures.add(item)
    (card,) = pictures.cards()
    assert [image.title for image in card.images] == ["picture", "truth", "base", "prediction", "changes", *TITLES]
    assert_nearly(card.images[5], viz.heat_map(item.base_probabilities[1]))
    assert_nearly(card.images[6], viz.heat_map(item.probabilities[1]))
    for image, labels in zip(card.images[7:], (item.target, item.prediction), strict=True):
        mask = np.where(item.target == 255, 255, labels == 1).astype(np.uint8)
        found = best_thresholds(item.base_probabilities[1], mask, 64, ties="middle")
        assert found.min() < 0.5
        assert_nearly(image, viz.threshold_heat_map(found, 64, (256, 320), item.picture))
    assert np.abs(decode(card.images[7]).astype(int) - decode(card.images[8])).max() > 50


def test_windows_show_their_part():
    item = entry()
    pictures = Pictures(CRACKS, worst=2)
    pictures.add(item)
    (crop, *_) = pictures.crops("fixed")
    assert [image.title for image in crop.images][5:] == TITLES
    factor = crop.images[5].width // crop.window.side
    part = np.kron(viz.heat_map(item.base_probabilities[1])[crop.window.inside], np.ones((factor, factor, 1), np.uint8))
    assert_nearly(crop.images[5], part)


@pytest.mark.parametrize("left_out", ["patch", "probabilities", "base_probabilities"])
def test_what_is_missing_is_left_out(left_out):
    expected = {"patch": TITLES[:2], "probabilities": [TITLES[0], *TITLES[2:]], "base_probabilities": []}
    drawn = draw_maps(replace(entry(), **{left_out: None}), CRACKS, 640)
    assert [image.title for image in drawn] == expected[left_out]
    assert {image.note for image in drawn} <= {""}


def test_of_several_classes_the_one_that_changed_most_is_shown_by_name():
    item = entry(3)
    assert set(np.unique(item.prediction)) == {0, 1}
    item.baseline[200:250, 170:] = 2
    item.prediction[200:250, 170:] = 0
    assert class_shown(item) == 0, "of equals the first"
    item.prediction[200:203, 170:] = 1
    changed = {
        index: (((item.baseline == index) != (item.prediction == index)) & (item.target != 255)).sum()
        for index in range(3)
    }
    assert class_shown(item) == max(changed, key=changed.get)
    assert class_shown(replace(item, baseline=item.prediction, prediction=item.target)) == 0, "nothing wrong: the most"
    assert class_shown(item, (slice(200, 203), slice(170, 320))) == 1
    images = draw_maps(item, CLASSES, 640)
    assert {image.note for image in images} == {f"of {CLASSES.names[class_shown(item)]}"}


@pytest.mark.parametrize("field", ["probabilities", "base_probabilities"])
def test_maps_of_another_size_are_refused(field):
    item = entry()
    with pytest.raises(SegfocusError, match=rf"p: expected {field} and labels of one size, got \(256, 319\)"):
        Pictures(CRACKS).add(replace(item, **{field: item.probabilities[..., 1:]}))


def counted() -> dict:
    item, counts = entry(), PatchThresholds(2, 64)
    counts.add(item.target, item.base_probabilities, item.prediction)
    return counts.summary()


def scores() -> dict:
    found = {**full_scores(), "thresholds": counted()}
    found["baseline"] = {**found["baseline"], "kind": "base", "title": "the base's prediction"}
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    with pytest.MonkeyPatch.context() as patching:
        for name in ("bins_chart", "changes_chart", "reliability_chart"):
            patching.setattr(f"segfocus.report.charts.{name}", lambda *_: "<svg></svg>")
        patching.setattr("segfocus.report.compare.budget_chart", lambda *_: "<svg></svg>")
        pictures = Pictures(CRACKS, worst=1)
        pictures.add(entry())
        out = tmp_path_factory.mktemp("page")
        return Page(write_report(out, "t", scores(), pictures).read_text(encoding="utf-8"))


def test_page_says_what_refining_changed(page):
    assert "What refining changed" in page.words
    assert "What changed" not in page.words
    assert "right in the base's prediction, wrong now" in page.words
    assert "Thresholds of patches" in page.words
    found = counted()
    assert f"{found['patches']} patches of 64 px" in page.words
    assert f"another threshold than 0.5 in {100 * found['best_off']:.0f} % of them" in page.words
    assert f"goes the same way in {100 * found['followed']:.0f} %" in page.words
    assert f"one threshold a patch would change {100 * found['explained']:.0f} % alike" in page.words
    assert "In short" not in page.words
    assert threshold_words(scores())[0] in page.words


def test_page_has_the_legend_of_thresholds_and_probabilities(page):
    assert "probability: 0 to 1" in page.words
    assert "threshold of a patch: 0 (takes more), 0.5, 1 (takes less)" in page.words
    assert any(item.get("class") == "swatch diverging" for item in page.all("i"))
    assert {f"{title} of p" for title in TITLES} <= {image.get("alt") for image in page.all("img")}


def test_every_question_mark_has_its_answer(page):
    asked = {item["href"][1:] for item in page.all("a") if item.get("class") == "info"}
    given = {item["id"] for item in page.all("dt") if "id" in item}
    assert {"def-base", "def-probability", "def-best_threshold", "def-implied_threshold"} <= asked
    assert asked <= given


def test_chart_draws_every_threshold_but_the_middle_one(page):
    found = counted()
    chart = thresholds({"thresholds": found})["chart"]
    assert chart.count("<title") == 1
    for step, one, other in zip(found["thresholds"], found["best"], found["implied"], strict=True):
        words = f"{step:g}: best {100 * one / found['patches']:.1f} %, implied {100 * other / found['patches']:.1f} %"
        assert words in chart
    bars = [path for path in re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--(?:good|bar)\)', chart) if "z" in path]
    heights = []
    for path in bars:
        rows = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
        heights.append(max(rows) - min(rows))
    drawn = [value for part in (found["best"], found["implied"]) for place, value in enumerate(part) if place != 9]
    assert sum(height > 0.05 for height in heights) >= sum(value > 0 for value in drawn)
    assert "at 0.5" in chart


def test_nothing_counted_leaves_no_trace(tmp_path):
    assert thresholds({}) is None
    assert thresholds({"thresholds": PatchThresholds(2, 64).summary()}) is None
    assert threshold_words({"thresholds": PatchThresholds(2, 64).summary()}) is None
    pictures = Pictures(CRACKS)
    pictures.add(replace(entry(), base_probabilities=None, probabilities=None, baseline=None))
    page = Page(write_report(tmp_path, "t", {}, pictures).read_text(encoding="utf-8"))
    assert "hreshold" not in page.words.partition("What the numbers mean")[0]


def test_evaluation_counts_the_thresholds_of_a_refiner(tmp_path):
    """From maps on disk to the scores and the pictures of the page."""
    from segfocus.checkpoint import Checkpoint
    from segfocus.data import open_dataset
    from segfocus.methods.threshnet import ThreshNet
    from segfocus.recipe import DataConfig, EvaluationConfig, Recipe
    from segfocus.training.evaluation import evaluate
    from tests.data.map_folders import write_map_folders

    maps, masks, images = write_map_folders(tmp_path, count=2, size=(64, 96))
    data = DataConfig(name="maps", maps=str(maps), masks=str(masks), images=str(images))
    recipe = Recipe(data=data, evaluation=EvaluationConfig(boundary_distances=[1], window=None, scales=[1.0]))
    classes = open_dataset(data, data.val_split).classes
    seen, network = [], ThreshNet(width=2, patch=16)
    found = evaluate(
        Checkpoint(network, recipe, classes, {}), device="cpu", on_picture=lambda *given: seen.append(given)
    )
    expected = PatchThresholds(2, 16)
    for _, _, target, prediction in seen:
        expected.add(target, prediction.base_probabilities, prediction.labels)
    assert len(seen) > 0
    assert found["thresholds"] == expected.summary()
    assert found["thresholds"]["patches"] > 0
    assert found["baseline"]["kind"] == "base"
