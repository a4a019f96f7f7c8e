import json

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from segfocus.errors import SegfocusError
from segfocus.metrics.calibration import Calibration
from segfocus.metrics.regions import distance_bins
from tests.metrics import slow_twins

NAMES = ("sky", "road", "pole", "car")


def picture(seed: int, shape=(40, 50), num_classes=4, void=0.1, sharpness=2.0):
    """Truth, and probabilities that lean towards it."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, num_classes, (-(-shape[0] // 9), -(-shape[1] // 9)))
    target = np.kron(cells, np.ones((9, 9), int))[: shape[0], : shape[1]]
    logits = random.normal(size=(num_classes, *shape)) * sharpness + 1.5 * (
        target == np.arange(num_classes)[:, None, None]
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    target = np.where(random.random(shape) < void, 255, target).astype(np.uint8)
    return target, probabilities.astype(np.float32)


def tally_of(pictures, num_classes=4, bins=15) -> Calibration:
    tally = Calibration(num_classes, bins)
    for target, probabilities in pictures:
        tally.update(target, probabilities.argmax(0).astype(np.uint8), probabilities=probabilities)
    return tally


def pixels_of(pictures):
    """Probabilities [pixels, classes], truth and distance bin of all labelled pixels."""
    chosen = [target != 255 for target, _ in pictures]
    probabilities = [p[:, mask].T for (_, p), mask in zip(pictures, chosen, strict=True)]
    truth = [target[mask] for (target, _), mask in zip(pictures, chosen, strict=True)]
    bands = [distance_bins(target)[mask] for (target, _), mask in zip(pictures, chosen, strict=True)]
    return np.concatenate(probabilities).astype(np.float64), np.concatenate(truth).astype(int), np.concatenate(bands)


def slow_bins(probabilities, truth, bins):
    """(share, accuracy, mean confidence) of each bin, pixel by pixel."""
    found = [[] for _ in range(bins)]
    for row, index in zip(probabilities.tolist(), truth, strict=True):
        confidence = max(row)
        place = min(int(np.float32(confidence) * np.float32(bins)), bins - 1)
        found[place].append((row.index(confidence) == index, confidence))
    return [(len(pairs) / len(truth), *np.mean(pairs, 0)) if pairs else (0.0, None, None) for pairs in found]


def slow_ece(rows):
    return sum(share * abs(accuracy - confidence) for share, accuracy, confidence in rows if share)


@pytest.mark.parametrize("bins", [1, 10, 15, 42])
def test_equals_the_slow_definition(bins):
    pictures = [picture(0), picture(1, (23, 1)), picture(2, (1, 70), sharpness=6), picture(3, (30, 31), void=0.9)]
    scores = tally_of(pictures, bins=bins).summary(NAMES)["calibration"]
    probabilities, truth, bands = pixels_of(pictures)
    expected = slow_bins(probabilities, truth, bins)
    assert scores["ece"] == pytest.approx(slow_ece(expected), abs=1e-8)
    for row, (share, accuracy, confidence) in zip(scores["bins"], expected, strict=True):
        assert row == pytest.approx({"share": share, "accuracy": accuracy, "confidence": confidence}, abs=1e-6)
    assert scores["accuracy"] == pytest.approx((probabilities.argmax(1) == truth).mean(), rel=1e-12)
    assert scores["mean_confidence"] == pytest.approx(probabilities.max(1).mean(), abs=1e-8)
    own = probabilities[np.arange(len(truth)), truth]
    assert scores["nll"] == pytest.approx(-np.log(own.clip(1e-7)).mean(), abs=1e-6)
    assert scores["brier"] == pytest.approx(((probabilities - np.eye(4)[truth]) ** 2).sum(1).mean(), abs=1e-6)
    assert scores["per_distance"]["bins"] == ["1", "2", "3-4", "5-8", "9-16", ">16"]
    for band in range(6):
        inside = bands == band
        values = [scores["per_distance"][key][band] for key in ("ece", "accuracy", "confidence")]
        if not inside.any():
            assert values == [None] * 3
            continue
        assert values[0] == pytest.approx(slow_ece(slow_bins(probabilities[inside], truth[inside], bins)), abs=1e-7)
        assert values[1] == pytest.approx((probabilities.argmax(1) == truth)[inside].mean(), rel=1e-12)
        assert values[2] == pytest.approx(probabilities.max(1)[inside].mean(), abs=1e-7)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_agrees_with_torchmetrics_and_scikit_learn():
    pictures = [picture(seed, sharpness=0.8) for seed in range(3)]
    scores = tally_of(pictures).summary(NAMES)["calibration"]
    probabilities, truth, _ = pixels_of(pictures)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(truth), num_classes=4, n_bins=15, norm="l1"
    )
    assert scores["ece"] == pytest.approx(float(theirs), abs=1e-6)
    exact = probabilities / probabilities.sum(1, keepdims=True)
    assert scores["nll"] == pytest.approx(log_loss(truth, exact, labels=range(4)), abs=1e-6)
    assert scores["brier"] == pytest.approx(brier_score_loss(truth, exact, labels=range(4)), abs=1e-6)


def test_ties_go_to_the_first_class_as_argmax():
    probabilities = np.array([[[0.2, 0.4]], [[0.4, 0.4]], [[0.4, 0.2]]], np.float32)
    target = np.array([[2, 0]], np.uint8)
    tally = tally_of([(target, probabilities)], num_classes=3)
    assert tally.summary(NAMES[:3])["calibration"]["accuracy"] == 0.5
    quantised = np.round(picture(5)[1] * 7).astype(np.float32) / 7
    target = picture(5)[0]
    labelled = target != 255
    accuracy = tally_of([(target, quantised)]).summary(NAMES)["calibration"]["accuracy"]
    assert accuracy == (quantised.argmax(0) == target)[labelled].mean()


def test_edges_of_bins_and_sure_mistakes():
    """Confidence 1 lies in the last bin, 0.6 in the one that starts there; a sure mistake costs -ln 1e-7."""
    probabilities = np.array([[[1, 0, 0.6, 1.0005]], [[0, 1, 0.4, 0]]], np.float32)
    scores = tally_of([(np.array([[0, 0, 0, 0]], np.uint8), probabilities)], 2, 5).summary(NAMES[:2])["calibration"]
    assert [row["share"] for row in scores["bins"]] == [0, 0, 0, 0.25, 0.75]
    assert scores["bins"][4]["accuracy"] == pytest.approx(2 / 3)
    assert scores["nll"] == pytest.approx((-np.log(1e-7) - np.log(0.6) - np.log(1.0005)) / 4, abs=1e-6)
    perfect = tally_of([(np.array([[0, 1]], np.uint8), np.array([[[1, 0]], [[0, 1]]], np.float32))], 2)
    scores = perfect.summary(NAMES[:2])["calibration"]
    assert scores["ece"] == scores["brier"] == scores["nll"] == 0


def test_parts_of_rows_and_merging_change_nothing():
    """More pixels than one block, and rows wider than a block."""
    for shape in ((300, 400), (3, 2**15 + 5)):
        target, probabilities = picture(6, shape)
        scores = tally_of([(target, probabilities)]).summary(NAMES)["calibration"]
        labelled = target != 255
        confidence, hit = probabilities.max(0)[labelled], (probabilities.argmax(0) == target)[labelled]
        place = (confidence * np.float32(15)).astype(int).clip(max=14)
        gaps = [abs(hit[place == i].sum() - confidence[place == i].sum(dtype=float)) for i in range(15)]
        assert scores["ece"] == pytest.approx(sum(gaps) / labelled.sum(), abs=1e-9)
    pictures = [picture(seed) for seed in range(5)]
    whole, first, second = tally_of(pictures), tally_of(pictures[3::-1]), tally_of(pictures[4:])
    first.merge(second)
    assert first.summary(NAMES) == whole.summary(NAMES)
    with pytest.raises(SegfocusError, match="Calibration"):
        first.merge(Calibration(4, bins=10))


def test_nothing_labelled():
    void = np.full((3, 4), 255, np.uint8)
    scores = tally_of([(void, picture(0, (3, 4))[1])]).summary(NAMES)["calibration"]
    assert scores["ece"] is scores["brier"] is scores["nll"] is scores["accuracy"] is scores["mean_confidence"] is None
    assert scores["bins"] == [{"confidence": None, "accuracy": None, "share": None}] * 15
    assert Calibration(4).summary(NAMES)["calibration"] == scores


def test_the_published_pairs_are_counted_too():
    for _, target, prediction in slow_twins.scenes(2):
        sure = np.where(prediction == np.arange(4)[:, None, None], 0.7, 0.1).astype(np.float16)
        tally = Calibration(4)
        tally.update(target, prediction, probabilities=sure)
        accuracy = tally.summary(NAMES)["calibration"]["accuracy"]
        labelled = target != 255
        assert accuracy == (None if not labelled.any() else (prediction == target)[labelled].mean())


def test_refusals():
    target, probabilities = picture(0)
    prediction = probabilities.argmax(0).astype(np.uint8)
    for wrong in (
        probabilities * 3,
        np.where(target == 2, np.nan, probabilities),
        probabilities - 1,
        probabilities - 0.1,
    ):
        with pytest.raises(SegfocusError, match=r"probabilities: expected values from 0 to 1.* softmax"):
            Calibration(4).update(target, prediction, probabilities=wrong)
    with pytest.raises(SegfocusError, match="expected probabilities for these scores, got none"):
        Calibration(4).update(target, prediction)
    for bins in (0, 43):
        with pytest.raises(SegfocusError, match=f"expected 1 to 42 bins, got {bins}"):
            Calibration(4, bins)
