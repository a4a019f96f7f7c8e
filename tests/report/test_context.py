"""The page of a method that looks at regions: what is drawn, what it is called, and where one looks from."""

import base64

import cv2
import numpy as np
import pytest

from segfocus import viz
from segfocus.checkpoint import Checkpoint
from segfocus.metrics.confusion import confusion_matrix, scores_from_confusion
from segfocus.recipe import DataConfig, EvaluationConfig, Recipe
from segfocus.report import Entry, Pictures, write_report
from segfocus.report.before import before
from segfocus.report.context import middle_of_the_largest_mistake
from tests.inference.stubs import Borrower, ByBrightness, Regional
from tests.report.scores import CLASSES, full_scores
from tests.test_report import Page

SIZE = (252, 324)
"""no multiple of 8 px"""
GRID = (32, 41)


def entry(index=0, **other) -> Entry:
    rng = np.random.default_rng(index)
    target = np.kron(rng.integers(0, 3, (8, 11)), np.ones((32, 32), int)).astype(np.uint8)[: SIZE[0], : SIZE[1]]
    coarse, prediction = target.copy(), target.copy()
    coarse[40:70, 40:90] = (coarse[40:70, 40:90] + 1) % 3
    prediction[60:110, 60:110] = (prediction[60:110, 60:110] + 1) % 3
    given = {
        "picture": rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8),
        "baseline": coarse,
        "baseline_name": "coarse",
        "regions": viz.enlarge(np.arange(20).reshape(4, 5), GRID).astype(np.int32),
        "representatives": rng.random(GRID) < 0.1,
        "boundary": rng.random(GRID).astype(np.float32),
        "look_from": lambda row, column: np.full(GRID, float(row + column), np.float32),
    }
    return Entry(f"p{index}", target=target, prediction=prediction, **{**given, **other})


def decode(image) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(image.source.split(",")[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def card_of(item: Entry):
    pictures = Pictures(CLASSES, worst=1)
    pictures.add(item)
    return pictures.cards()[0], pictures


def test_worst_pictures_show_regions_boundary_and_attention():
    card, _ = card_of(entry())
    titles = [image.title for image in card.images]
    assert titles == ["picture", "truth", "coarse", "prediction", "changes", "regions", "boundary", "attention"]
    assert {(image.height, image.width) for image in card.images} == {SIZE}


def test_regions_have_their_colours_and_dots():
    item = entry(picture=None)  # nothing below the colours: they are kept exactly
    card, _ = card_of(item)
    shown = decode(next(image for image in card.images if image.title == "regions"))
    expected = viz.region_colors(item.regions, size=SIZE)
    np.testing.assert_array_equal(shown, viz.representative_dots(expected, item.representatives))
    assert (shown != expected).any()


def test_boundary_and_attention_are_drawn_over_the_picture():
    item = entry()
    card, _ = card_of(item)
    shown = {image.title: decode(image).astype(int) for image in card.images}
    row, column = middle_of_the_largest_mistake(item.target, item.prediction)
    expected = {
        "boundary": viz.heat_map(item.boundary, picture=item.picture),
        "attention": viz.attention_map(item.look_from(row, column), row, column, item.picture),
    }
    for title, drawn in expected.items():
        assert np.abs(shown[title] - drawn).mean() < 12, title  # WebP is lossy, and the picture noise


def test_windows_show_their_part_of_the_regions_in_the_same_colours():
    item = entry(picture=None, representatives=np.zeros(GRID, bool))
    _, pictures = card_of(item)
    whole = viz.region_colors(item.regions, size=SIZE, thickness=0)
    crops = [crop for kind in ("broken", "fixed") for crop in pictures.crops(kind)]
    assert len(crops) == 2
    for crop in crops:
        assert [image.title for image in crop.images][-2:] == ["regions", "boundary"]
        shown = decode(crop.images[-2])
        factor = shown.shape[0] // crop.window.side
        expected = np.kron(whole[crop.window.inside], np.ones((factor, factor, 1), np.uint8))
        lines = (shown == (24, 26, 30)).all(-1)
        np.testing.assert_array_equal(shown[~lines], expected[~lines])
        assert lines.mean() < 0.05


def test_windows_show_the_representatives_in_the_middle_of_their_cells():
    alone = np.zeros(GRID, bool)
    alone[9, 9] = True  # pixels 72 to 79, inside the broken square
    item = entry(picture=None, representatives=alone)
    _, pictures = card_of(item)
    (crop,) = pictures.crops("broken")
    shown = decode(crop.images[-2])
    factor = shown.shape[0] // crop.window.side
    middle = np.argwhere((shown == 255).all(-1)).mean(0)
    np.testing.assert_allclose(middle, (np.array([75.5, 75.5]) - [crop.window.top, crop.window.left] + 0.5) * factor,
                               atol=1)  # fmt: skip


@pytest.mark.parametrize("left_out", ["regions", "representatives", "boundary", "look_from"])
def test_any_part_may_be_missing(left_out, tmp_path):
    card, pictures = card_of(entry(**{left_out: None}))
    titles = {image.title for image in card.images}
    for field, title in (("regions", "regions"), ("boundary", "boundary"), ("look_from", "attention")):
        assert (title in titles) == (field != left_out)
    page = Page(write_report(tmp_path, "t", {}, pictures).read_text(encoding="utf-8"))
    legend = page.words.partition("What the numbers mean")[0]
    assert ("colours only tell neighbours apart" in legend) == (left_out != "regions")
    assert ("boundary: probability" in legend) == (left_out != "boundary")
    assert ("attention from the ringed pixel" in legend) == (left_out != "look_from")


def test_an_attention_that_answers_nothing_is_left_out():
    card, _ = card_of(entry(look_from=lambda row, column: None))
    assert "attention" not in {image.title for image in card.images}


def test_attention_is_asked_for_the_worst_pictures_only():
    asked = []

    def look_from(row, column):
        asked.append((row, column))
        return np.ones(GRID, np.float32)

    pictures = Pictures(CLASSES, worst=1)
    first = entry(0, look_from=look_from)
    pictures.add(first)
    pictures.add(first)  # no worse: not drawn
    assert asked == [middle_of_the_largest_mistake(first.target, first.prediction)]


def mistakes(*boxes, size=(40, 50)):
    target = np.zeros(size, np.uint8)
    prediction = target.copy()
    for top, left, height, width in boxes:
        prediction[top : top + height, left : left + width] = 1
    return target, prediction


def test_one_looks_from_the_middle_of_the_largest_mistake():
    target, prediction = mistakes((3, 4, 5, 5), (20, 10, 9, 9))
    assert middle_of_the_largest_mistake(target, prediction) == (24, 14)
    target[15:] = 255  # void: not counted
    assert middle_of_the_largest_mistake(target, prediction) == (5, 6)


def test_the_middle_of_a_bent_mistake_lies_inside_it():
    target, prediction = mistakes((5, 5, 30, 4), (31, 5, 4, 40))  # an L, whose mean lies outside
    row, column = middle_of_the_largest_mistake(target, prediction)
    assert prediction[row, column] == 1


def test_a_mistake_at_the_frame_is_looked_at_from_its_middle_too():
    target, prediction = mistakes((0, 0, 9, 9))
    assert middle_of_the_largest_mistake(target, prediction) == (4, 4)


@pytest.mark.parametrize("size", [(40, 50), (1, 1)])
def test_without_a_mistake_one_looks_from_the_middle(size):
    assert middle_of_the_largest_mistake(*mistakes(size=size)) == (size[0] // 2, size[1] // 2)


def scores(kind: str) -> dict:
    found = full_scores()
    found["baseline"] = {**found["baseline"], "kind": kind, "title": f"the network's own {kind} prediction"}
    return found


def test_page_says_what_the_context_changed(tmp_path, monkeypatch):
    for name in ("bins_chart", "changes_chart", "reliability_chart"):
        monkeypatch.setattr(f"segfocus.report.charts.{name}", lambda *_: "<svg></svg>")
    monkeypatch.setattr("segfocus.report.compare.budget_chart", lambda *_: "<svg></svg>")
    item = entry()
    _, pictures = card_of(item)
    page = Page(write_report(tmp_path, "t", scores("coarse"), pictures).read_text(encoding="utf-8"))
    assert "compared with the network's own coarse prediction" in page.words
    assert page.words.count("What the context changed") == 2, "in short, and the section"
    for other in ("What borrowing changed", "What changed", "Baseline", "borrow from the right pixels"):
        assert other not in page.words
    assert "right in the coarse prediction, wrong now" in page.words
    row, column = middle_of_the_largest_mistake(item.target, item.prediction)
    truth, guess = (CLASSES.names[int(labels[row, column])] for labels in (item.target, item.prediction))
    assert f"attention from row {row}, column {column}: {truth} taken for {guess}" in page.words
    assert "<b>wall" not in page.source.partition("<main>")[2], "names are escaped"
    asked = {item["href"][1:] for item in page.all("a") if item.get("class") == "info"}
    given = {item["id"] for item in page.all("dt") if "id" in item}
    wanted = {"def-coarse", "def-region", "def-representative", "def-boundary_probability", "def-attention"}
    assert wanted <= asked <= given


@pytest.mark.parametrize(
    ("kind", "heading", "column"),
    [
        ("initial", "What borrowing changed", "Initial"),
        ("coarse", "What the context changed", "Coarse"),
        ("else", "What changed", "Baseline"),
    ],
)
def test_words_for_what_the_prediction_is_compared_with(kind, heading, column):
    assert (before(scores(kind)).heading, before(scores(kind)).column) == (heading, column)


def test_other_reports_have_the_plain_words():
    assert before({}) == before(full_scores())
    assert before({}).words == "baseline"


def evaluated(model_kind, **evaluation):
    from segfocus.data import open_dataset
    from segfocus.training.evaluation import evaluate

    recipe = Recipe(
        data=DataConfig(name="synthetic", synthetic_pictures=8, synthetic_size=[48, 64]),
        evaluation=EvaluationConfig(boundary_distances=[1], **evaluation),
    )
    classes = open_dataset(recipe.data, recipe.data.val_split).classes
    seen = []
    model = Checkpoint(model_kind(classes.num_classes), recipe, classes, {})
    found = evaluate(model, device="cpu", on_picture=lambda *given: seen.append((given[2], given[3])))
    return found, seen, classes


@pytest.mark.parametrize("evaluation", [{}, {"window": [32, 32]}])
def test_evaluation_compares_with_the_coarse_prediction(evaluation):
    found, seen, classes = evaluated(Regional, **evaluation)
    baseline = found["baseline"]
    assert baseline["kind"] == "coarse"
    assert baseline["title"] == "the network's own coarse prediction"
    matrix = sum(confusion_matrix(target, item.initial_labels, classes.num_classes) for target, item in seen)
    assert baseline["scores"]["miou"] == pytest.approx(scores_from_confusion(matrix)["miou"])
    assert "borrowing" not in found


def test_evaluation_of_others_is_what_it_was():
    assert evaluated(Borrower)[0]["baseline"]["kind"] == "initial"
    assert "baseline" not in evaluated(ByBrightness)[0]


def test_a_runs_report_shows_what_the_network_saw(tmp_path, monkeypatch):
    from segfocus.data import open_dataset
    from segfocus.report.runs import evaluate_and_report

    recipe = Recipe(
        data=DataConfig(name="synthetic", synthetic_pictures=8, synthetic_size=[48, 64]),
        evaluation=EvaluationConfig(boundary_distances=[1]),
    )
    classes = open_dataset(recipe.data, recipe.data.val_split).classes
    loaded = Checkpoint(Regional(classes.num_classes), recipe, classes, {})
    monkeypatch.setattr("segfocus.checkpoint.load", lambda _: loaded)
    scores, path = evaluate_and_report(tmp_path / "best.safetensors", recipe, "val", tmp_path, worst=1, metrics="basic")
    assert scores["baseline"]["kind"] == "coarse"
    page = Page(path.read_text(encoding="utf-8"))
    shown = {image.get("alt", "").partition(" of ")[0] for image in page.all("img")}
    assert {"coarse", "changes", "regions", "boundary", "attention"} <= shown
