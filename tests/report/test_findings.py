"""The sentences say what the numbers carry, and nothing where they carry nothing."""

import copy

import numpy as np
import pytest

from segfocus.data.classes import Classes
from segfocus.report.compare import typical_headroom
from segfocus.report.findings import findings, hard_part, region_words
from tests.report.scores import BINS, CLASSES, full_scores

MATRIX = np.array([[90, 5, 5], [2, 60, 8], [4, 16, 10]])


def told(scores, matrix=MATRIX, classes=CLASSES):
    return {
        heading: [f"{item.lead} {item.text}".strip() for item in items]
        for heading, items in findings(scores, matrix, classes).items()
    }


def test_all_sentences_of_a_full_report():
    assert told(full_scores()) == {
        "What changed": [
            "Better than <u>old</u>: mIoU +2.0 points. 95 % interval +1.1 to +3.4. 1\u202f200 px fixed, 300 px broken: "
            "4.0 fixed for each broken.",
            "Gained clearly: pole +7.7 (IoU, points).",
            "Lost clearly: <b>wall</b> −2.0 (IoU, points).",
        ],
        "Where it is wrong": [
            "74 % of the errors lie within 4 px of a boundary, on 20 % of the pixels; on the boundary itself 35 % of "
            "the pixels are wrong.",
            "Weakest classes (IoU): pole 10.0 %. The other 2 classes have a mean of 85.0 %. More of pole is taken for "
            "<b>wall</b> (53 %) than found (33 %).",
            "Thin structures fail: only 14 % of pole is found where it is 1\u20112 px wide; 16 % of its skeleton is "
            "covered.",
            # (3 x 40 x .5 + 3 x 20 x .25 + 9 x .1 + 9 x .2) / 198 and (3 x 40 x .5 + 3 x 20 x .25) / 180
            "39 % of the pieces of up to 256 px are found (198 in the truth), against 42 % of the larger ones.",
            "Largest confusion: pole taken for <b>wall</b>, 40 % of all errors.",
            "Overconfident: 96.4 % sure, 93.3 % right. On boundaries 82 % sure, 63 % right.",
            "It knows where it is wrong: the 10 % of the regions that it finds most important hold 34 % of the errors "
            "(by chance 10 %, at best 50 %).",
        ],
        "What would help most": [
            "Refining hard regions: at most +17.0 mIoU if the 10 % of 16 px regions with the most errors became right "
            "(those chosen by entropy: +9.0).",
            "Borrowing from near by: at most +8.0 mIoU if each pixel took the best prediction within 4 px.",
            "Agreeing within regions: at most +7.0 mIoU if each true region voted once.",
            "Better thresholds: at most +6.0 mIoU with the best one in each patch (64 px patches).",
            "Really gained: +1.2 mIoU by <i>smooth</i>.",
            "Perfect boundaries: pixel accuracy 91.0 → 97.7 % if every pixel within 4 px of one became right.",
        ],
    }


def test_nothing_is_told_without_scores():
    assert findings({}, np.zeros((3, 3), np.int64), CLASSES) == {}


def test_every_sentence_is_made_from_a_section_that_is_there():
    targets = {item.target for items in findings(full_scores(), MATRIX, CLASSES).values() for item in items}
    assert targets <= {"changes", "where", "classes", "thin", "headroom", "calibration", "importance"}


@pytest.mark.parametrize(
    ("value", "interval", "words"),
    [
        (0.02, [-0.01, 0.05], "No clear difference to <u>old</u>: mIoU +2.0 points. The 95 % interval, −1.0 to +5.0"),
        (-0.02, [-0.03, -0.01], "Worse than <u>old</u>: mIoU −2.0 points."),
        (0.02, None, "mIoU +2.0 points against <u>old</u>."),
    ],
)
def test_a_change_is_called_clear_only_where_the_interval_leaves_out_zero(value, interval, words):
    scores = full_scores()
    scores["baseline"]["difference"]["miou"] = {"value": value, "interval": interval}
    assert told(scores)["What changed"][0].startswith(words)


def test_errors_spread_like_the_pixels_are_not_called_concentrated():
    scores = full_scores()
    for part in scores["regions"].values():
        part["error_share"] = list(part["pixels"])
    assert hard_part(scores["regions"]["distance"]) is None
    assert "No end of this scale" in region_words("distance", scores["regions"]["distance"])
    text = " ".join(told(scores)["Where it is wrong"])
    assert "within" not in text
    assert "Mostly inside, not at edges: 40 % of the errors lie far from any boundary." in text


def test_a_perfect_prediction_is_called_so():
    scores = full_scores()
    del scores["calibration"]
    for part in scores["regions"].values():
        part["error_share"] = [0.0] * 6
    assert region_words("distance", scores["regions"]["distance"]) == "No pixel is wrong."
    assert told(scores, np.diag([9, 8, 7]))["Where it is wrong"] == [
        "Nothing is wrong: every labelled pixel is right. Make sure that the predictions are no copies of the labels."
    ]


def test_small_pieces_that_are_found_are_no_error():
    scores = full_scores()
    part = scores["regions"]["component_size"]
    part["found_per_class"] = {name: [1.0] * len(part["bins"]) for name in part["found_per_class"]}
    assert not any("pieces of up to" in text for text in told(scores)["Where it is wrong"])


def test_hard_part_takes_the_bins_with_the_largest_surplus():
    part = full_scores()["regions"]["distance"]
    surplus = [sum(part["error_share"][:n]) - sum(part["pixels"][:n]) for n in range(1, 6)]
    bins, pixels, errors = hard_part(part)
    assert bins == 1 + int(np.argmax(surplus))
    assert (pixels, errors) == (pytest.approx(0.2), pytest.approx(0.74))
    assert region_words("distance", part) == "74 % of the errors lie within 4 px of a boundary, on 20 % of the pixels."


def test_equal_classes_have_no_weakest_and_two_class_tasks_no_confusion():
    scores = full_scores()
    scores["per_class"] = dict.fromkeys(scores["per_class"], 0.6)
    assert not any("Weakest" in text for text in told(scores)["Where it is wrong"])
    two = Classes.of(["background", "crack"])
    assert findings({"miou": 0.5}, np.array([[5, 1], [3, 2]]), two) == {}


def test_thin_structures_are_told_of_without_marked_classes():
    plain = Classes.of(CLASSES.names)
    text = told(full_scores(), classes=plain)["Where it is wrong"]
    assert "Narrow parts: 74 % of the errors lie in parts up to 8 px wide, on 20 % of the pixels." in text


def test_a_class_whose_skeleton_is_covered_has_not_failed():
    scores = full_scores()
    scores["thin"]["pole"]["topology_sensitivity"] = 0.9
    assert any(text.startswith("Thin structures: 14 % of pole") for text in told(scores)["Where it is wrong"])


def test_classes_that_are_never_true_are_not_called_weak():
    matrix = np.array([[90, 5, 5], [2, 60, 8], [0, 0, 0]])
    scores = full_scores()
    scores["per_class"] = dict(zip(CLASSES.names, (0.9, 0.3, 0.0), strict=True)) | {"other": 0.9}
    four = Classes.of([*CLASSES.names, "other"])
    text = " ".join(told(scores, np.pad(matrix, (0, 1)) + np.diag([0, 0, 0, 9]), four)["Where it is wrong"])
    assert "Weakest classes (IoU): <b>wall</b> 30.0 %." in text
    assert "Predicted but never true, which counts as 0: pole." in text


def test_nearly_all_is_not_called_all():
    scores = full_scores()
    scores["regions"]["distance"]["error_share"] = [0.997, 0.0, 0.0, 0.003, 0.0, 0.0]
    assert "Over 99 % of the errors lie within 1 px" in " ".join(told(scores)["Where it is wrong"])


def test_typical_headroom_prefers_moderate_budgets_and_sorts_by_gain():
    rows = typical_headroom(full_scores())
    assert [(row["idea"], row["budget"]) for row in rows] == [
        ("fornet", "10 %"), ("ovenet", "4 px"), ("ranet", "true regions"), ("threshnet", "64 px patches"),
    ]  # fmt: skip
    assert rows[0]["own_variant"] == "entropy"


def test_absent_numbers_are_passed_over():
    scores = copy.deepcopy(full_scores())
    scores["miou"] = scores["pixel_accuracy"] = None
    scores["calibration"]["per_distance"] = None
    for name in BINS:
        scores["regions"][name]["error_rate"] = [None] * 6
        scores["regions"][name]["recall_per_class"] = {}
    text = " ".join(text for texts in told(scores).values() for text in texts)
    assert "nan" not in text
    assert "None" not in text
