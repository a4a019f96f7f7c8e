import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, fbeta_score, jaccard_score

from segfocus.errors import SegfocusError
from segfocus.metrics.binary import ForegroundScores
from tests.metrics import slow_twins

NAMES = ("background", "crack")


def picture(seed: int, shape=(30, 40), void=0.1, foreground=0.3):
    """Truth, labels and the two probabilities (8-bit steps, so that files hold them exactly)."""
    random = np.random.default_rng(seed)
    target = (random.random(shape) < foreground).astype(np.uint8)
    p = (random.normal(0.35, 0.2, shape) + 0.35 * target).clip(0, 1)
    p = np.rint(p * 255).astype(np.float32) / 255
    target[random.random(shape) < void] = 255
    return target, (p > 0.5).astype(np.uint8), np.stack([1 - p, p])


def tally_of(pictures, probabilities=True) -> ForegroundScores:
    tally = ForegroundScores()
    for target, labels, p in pictures:
        tally.update(target, labels, probabilities=p if probabilities else None)
    return tally


def slow_curve(truth, p):
    """scikit-learn's F-measure at each of the 255 thresholds; NaN without foreground."""
    if not truth.any():
        return np.full(255, np.nan)
    level = np.rint(p * 255)
    scores = [fbeta_score(truth, level >= t, beta=0.3**0.5, zero_division=0) for t in range(1, 256)]
    return np.array(scores, float)


@pytest.fixture(scope="module")
def pictures():
    empty = picture(7, foreground=0)
    nothing = (empty[0], np.zeros_like(empty[1]), empty[2])
    return [picture(0), picture(1, (1, 50)), picture(2, (25, 1), 0.4), picture(3, foreground=0.02), empty, nothing]


def test_equals_scikit_learn(pictures):
    scores = tally_of(pictures).summary(NAMES)["binary"]
    rows = [(target[target != 255], labels[target != 255], p[1][target != 255]) for target, labels, p in pictures]
    rows = [(truth.astype(int), labels, p.astype(np.float64)) for truth, labels, p in rows]
    truth, labels, p = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    assert scores["foreground_iou"] == pytest.approx(jaccard_score(truth, labels), rel=1e-12)
    assert scores["dice"] == pytest.approx(f1_score(truth, labels), rel=1e-12)
    each = [jaccard_score(t, g) for t, g, _ in rows if t.any() or g.any()]
    assert len(each) == len(rows) - 1
    assert scores["foreground_iou_per_picture"] == pytest.approx(np.mean(each), abs=1e-11)
    assert scores["mae"] == pytest.approx(abs(truth - p).mean(), abs=1e-8)
    assert scores["mae_per_picture"] == pytest.approx(np.mean([abs(t - q).mean() for t, _, q in rows]), abs=1e-8)
    curve = slow_curve(truth, p)
    assert scores["max_f"] == pytest.approx(curve.max(), rel=1e-12)
    assert scores["max_f_threshold"] == (curve.argmax() + 1) / 255
    curves = [slow_curve(t, q) for t, _, q in rows if t.any()]
    assert scores["max_f_per_picture"] == pytest.approx(np.mean(curves, 0).max(), abs=1e-11)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_without_probabilities(pictures):
    scores = tally_of(pictures, probabilities=False).summary(NAMES)["binary"]
    given = tally_of(pictures).summary(NAMES)["binary"]
    for key, value in scores.items():
        assert value == (given[key] if key in ("foreground_iou", "foreground_iou_per_picture", "dice") else None)


def test_by_hand():
    target = np.array([[1, 1, 0, 0, 255]], np.uint8)
    p = np.array([[1.0, 0.2, 0.6, 0.0, 0.9]], np.float32)
    tally = ForegroundScores()
    tally.update(target, (p > 0.5).astype(np.uint8), probabilities=np.stack([1 - p, p]))
    scores = tally.summary(NAMES)["binary"]
    assert scores["foreground_iou"] == 1 / 3
    assert scores["foreground_iou_per_picture"] == pytest.approx(1 / 3, abs=2**-40)
    assert scores["dice"] == 0.5
    assert scores["mae"] == pytest.approx((0.8 + 0.6) / 4, abs=1e-6)
    # from 154/255 on only the first pixel is foreground: P = 1, R = 1/2; at 51/255 P = 2/3, R = 1
    assert scores["max_f"] == pytest.approx(1.3 * 0.5 / (0.3 + 0.5))
    assert scores["max_f_threshold"] == 154 / 255


def test_perfect_and_opposite():
    target = picture(0)[0]
    right = np.where(target == 255, 0, target)
    for labels, expected in ((right, 1.0), (1 - right, 0.0)):
        tally = ForegroundScores()
        tally.update(target, labels, probabilities=np.stack([1 - labels, labels]).astype(np.float64))
        scores = tally.summary(NAMES)["binary"]
        assert scores["foreground_iou"] == scores["dice"] == scores["max_f"] == expected
        assert scores["mae"] == scores["mae_per_picture"] == 1 - expected


def test_nothing_to_score():
    void = np.full((3, 4), 255, np.uint8)
    one = np.zeros((2, 3, 4), np.float32)
    scores = tally_of([(void, void * 0, one)]).summary(NAMES)["binary"]
    assert set(scores.values()) == {None}
    assert ForegroundScores().summary(NAMES)["binary"] == scores
    background = tally_of([(void * 0, void * 0, one)]).summary(NAMES)["binary"]
    assert background["mae"] == background["mae_per_picture"] == 0
    assert {value for key, value in background.items() if "mae" not in key} == {None}
    false_alarm = tally_of([(void * 0, void * 0 + 1, one)]).summary(NAMES)["binary"]
    assert false_alarm["foreground_iou_per_picture"] == false_alarm["dice"] == 0


def test_order_and_merging_change_nothing(pictures):
    whole, first, second = tally_of(pictures), tally_of(pictures[2::-1]), tally_of(pictures[3:])
    first.merge(second)
    assert first.summary(NAMES) == whole.summary(NAMES)


def test_scenes_of_every_kind():
    for _, target, prediction in slow_twins.scenes(5, num_classes=2):
        if max(target[target != 255].max(initial=0), prediction.max()) > 1:
            continue
        tally = ForegroundScores()
        tally.update(target, prediction, probabilities=np.stack([1 - prediction, prediction]).astype(np.float32))
        matrix = slow_twins.confusion(target, prediction, 2)
        union = matrix.sum() - matrix[0, 0]
        assert tally.summary(NAMES)["binary"]["foreground_iou"] == (matrix[1, 1] / union if union else None)


def test_refusals():
    target, labels, p = picture(0)
    with pytest.raises(SegfocusError, match="expected two classes, got 3"):
        ForegroundScores(3)
    for wrong in (p * 3, np.where(target == 1, np.nan, p), p - 1):
        with pytest.raises(SegfocusError, match=r"probabilities: expected values from 0 to 1.* try sigmoid"):
            ForegroundScores().update(target, labels, probabilities=wrong)
