"""Scores of a row: counted as by hand, kept in files, compared with the base."""

import json

import numpy as np
import pytest

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.refinement.scores import RowScores
from tests.refinement.small import map_of, truth_of

TWO = Classes.of(["ground", "crack"])
THREE = Classes.of(["ground", "wall", "tree"])


def cut(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    if len(probabilities) == 2:
        return (probabilities[1] > threshold).astype(np.uint8)
    return probabilities.argmax(0).astype(np.uint8)


def filled(classes: Classes, threshold: float, pictures: int = 7) -> RowScores:
    row = RowScores(classes)
    for index in range(pictures):
        probabilities = map_of(index, classes.num_classes)
        labels = cut(probabilities, threshold)
        if classes.num_classes > 2 and threshold != 0.5:
            labels = np.roll(labels, 1, 1)
        row.add(f"p{index}", truth_of(index, classes.num_classes), labels, probabilities, cut(probabilities))
    return row


def by_hand(threshold: float, pictures: int = 7) -> dict[str, float]:
    """The same of two classes, by pixels of all pictures in one long row."""
    truth = np.concatenate([truth_of(index).ravel() for index in range(pictures)])
    labelled = truth != 255
    before, now = (
        np.concatenate([cut(map_of(index), level).ravel() for index in range(pictures)])[labelled]
        for level in (0.5, threshold)
    )
    chance = np.concatenate([map_of(index)[1].ravel() for index in range(pictures)])[labelled]
    truth = truth[labelled]
    return {
        "iou": (now & truth).sum() / (now | truth).sum(),
        "base": (before & truth).sum() / (before | truth).sum(),
        "mae": np.abs(chance - truth).mean(),
        "harm": ((before == truth) & (now != truth)).sum() / (before == truth).sum(),
        "mended": ((before != truth) & (now == truth)).sum() / (before != truth).sum(),
        "broken": int(((before == truth) & (now != truth)).sum()),
    }


def test_numbers_are_those_counted_by_hand():
    base, row, expected = filled(TWO, 0.5), filled(TWO, 0.3), by_hand(0.3)
    found = row.described(base)
    assert found["score"]["value"] == pytest.approx(expected["iou"])
    assert found["difference"]["value"] == pytest.approx(expected["iou"] - expected["base"])
    assert found["mae"] == pytest.approx(expected["mae"], abs=1e-5)
    assert found["harm_rate"] == pytest.approx(expected["harm"])
    assert found["fixed_rate"] == pytest.approx(expected["mended"])
    assert found["broken"] == expected["broken"] > 0
    assert set(found["boundary_iou"]) == {"1", "3", "5", "15", "2%"}
    low, high = found["score"]["interval"]
    assert low < expected["iou"] < high
    json.dumps(found, allow_nan=False)


def test_the_base_has_changed_nothing():
    base = filled(TWO, 0.5)
    found = base.described(base)
    assert (found["difference"]["value"], found["harm_rate"], found["fixed_rate"]) == (0, 0, 0)
    assert found["difference"]["interval"] == [0, 0]


def test_three_classes_are_scored_by_miou():
    base, row = filled(THREE, 0.5), filled(THREE, 0.3)
    found = row.described(base)
    assert found["score"]["value"] == found["scores"]["miou"]
    assert found["boundary_iou"] == found["scores"]["boundary_iou"]
    assert found["difference"]["value"] < 0
    assert found["mae"] is None
    assert found["ece"] > 0


def test_a_refused_picture_counts_nowhere():
    row, probabilities = RowScores(TWO), map_of(0)
    with pytest.raises(SegfocusError, match="one size"):
        row.add("a", truth_of(0)[:-1], cut(probabilities), probabilities, cut(probabilities))
    with pytest.raises(SegfocusError, match="0 to 1"):
        row.add("a", truth_of(0), cut(probabilities), probabilities * 2, cut(probabilities))
    assert row.pictures == {}
    assert not any(counts.any() for counts in row.suite.counts.values())


def test_a_row_without_labels_has_no_rates():
    row, probabilities = RowScores(TWO), map_of(0)
    row.add("void", np.full_like(truth_of(0), 255), cut(probabilities), probabilities, cut(probabilities))
    found = row.described(row)
    assert found["harm_rate"] is None
    assert found["score"]["value"] is None


def test_what_is_kept_comes_back(tmp_path):
    row = filled(TWO, 0.3)
    row.save(tmp_path / "row", {"fit_seconds": 1.5})
    found = RowScores.load(tmp_path / "row", TWO)
    assert found is not None
    again, about = found
    assert about == {"fit_seconds": 1.5}
    assert again.pictures == row.pictures
    assert again.described(filled(TWO, 0.5)) == row.described(filled(TWO, 0.5))
    assert RowScores.load(tmp_path / "other", TWO) is None


def test_damaged_counts_are_refused_in_one_line(tmp_path):
    filled(TWO, 0.3, 1).save(tmp_path / "row", {})
    with pytest.raises(SegfocusError, match=r"remove row.json") as error:
        RowScores.load(tmp_path / "row", THREE)
    assert "\n" not in str(error.value)
    (tmp_path / "row.npz").write_bytes(b"no archive")
    with pytest.raises(SegfocusError, match=r"remove row.json"):
        RowScores.load(tmp_path / "row", TWO)
