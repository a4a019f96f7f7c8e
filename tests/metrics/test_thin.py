import json

import numpy as np
import pytest
from skimage.morphology import skeletonize

from segfocus.errors import SegfocusError
from segfocus.metrics.thin import ThinStructures, skeleton
from tests.metrics import slow_twins

NAMES = ("ground", "pole", "cable", "post")


def published_cldice(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """As the authors' evaluation writes it, for one pair of masks: topology precision, sensitivity and clDice."""

    def score(mask, lines):
        return np.sum(mask * lines) / np.sum(lines)

    precision = score(truth, skeletonize(prediction))
    sensitivity = score(prediction, skeletonize(truth))
    return precision, sensitivity, 2 * precision * sensitivity / (precision + sensitivity)


def net(seed: int, shape=(70, 90)) -> np.ndarray:
    """Lines of several widths and directions."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    for index in random.integers(1, 4, 9):
        angle, offset = random.uniform(0, np.pi), random.uniform(-30, 30)
        away = abs((rows - shape[0] / 2) * np.cos(angle) + (columns - shape[1] / 2) * np.sin(angle) + offset)
        labels[away < random.uniform(0.7, 4)] = index
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_one_picture_scores_as_published(seed):
    target, prediction = net(seed), np.roll(net(seed), (1, -1), (0, 1))
    prediction[20:24] = 0
    tally = ThinStructures(4, (1, 3))
    tally.update(target, prediction)
    scores = tally.summary(NAMES)["thin"]
    assert [*scores] == ["pole", "post"]
    for name, index in (("pole", 1), ("post", 3)):
        precision, sensitivity, cldice = published_cldice(prediction == index, target == index)
        assert scores[name] == pytest.approx(
            {"cldice": cldice, "topology_precision": precision, "topology_sensitivity": sensitivity}, rel=1e-12
        )
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_pictures_are_summed_and_void_is_background():
    tally, expected = ThinStructures(4, (2,)), np.zeros(4, np.int64)
    for _, target, prediction in slow_twins.scenes(1):
        tally.update(target, prediction)
        truth, guess = target == 2, (prediction == 2) & (target != 255)
        lines, guessed = skeletonize(truth), skeletonize(guess)
        expected += [lines.sum(), (lines & guess).sum(), guessed.sum(), (guessed & truth).sum()]
    np.testing.assert_array_equal(tally.counts["skeletons"], [expected])
    precision, sensitivity = expected[3] / expected[2], expected[1] / expected[0]
    assert tally.summary(NAMES)["thin"]["cable"]["cldice"] == pytest.approx(
        2 * precision * sensitivity / (precision + sensitivity), rel=1e-12
    )


def test_a_skeleton_within_its_bounding_box_is_the_whole_pictures():
    random = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.9):
        mask = np.zeros((40, 50), bool)
        mask[7:31, 11:42] = random.random((24, 31)) < share
        np.testing.assert_array_equal(skeleton(mask), skeletonize(mask))
        np.testing.assert_array_equal(skeleton(mask[7:31, 11:42]), skeletonize(mask)[7:31, 11:42])
    assert not skeleton(np.zeros((5, 6), bool)).any()


def test_a_gap_lowers_sensitivity_and_a_false_branch_precision():
    target = np.zeros((21, 40), np.uint8)
    target[10, 5:35] = 1
    gap = target.copy()
    gap[10, 10:16] = 0
    tally = ThinStructures(4, (1,))
    tally.update(target, gap)
    assert tally.summary(NAMES)["thin"]["pole"]["topology_precision"] == 1
    assert tally.summary(NAMES)["thin"]["pole"]["topology_sensitivity"] == 24 / 30
    thick = np.zeros_like(target)
    thick[8:13, 3:37] = 1  # twice as wide is no fault as long as the middle line is right: Dice would be 0.3
    tally = ThinStructures(4, (1,))
    tally.update(target, thick)
    assert tally.summary(NAMES)["thin"]["pole"]["topology_sensitivity"] == 1
    assert tally.summary(NAMES)["thin"]["pole"]["cldice"] > 0.95


def test_absent_classes_and_no_thin_classes():
    target = np.zeros((9, 9), np.uint8)
    line = target.copy()
    line[4] = 2
    tally = ThinStructures(4, (1, 2, 3))
    tally.update(line, target)
    line[4] = 3
    tally.update(target, line)
    assert tally.summary(NAMES)["thin"] == {
        "pole": {"cldice": None, "topology_precision": None, "topology_sensitivity": None},
        "cable": {"cldice": 0.0, "topology_precision": None, "topology_sensitivity": 0.0},
        "post": {"cldice": 0.0, "topology_precision": 0.0, "topology_sensitivity": None},
    }
    none = ThinStructures(4, ())
    none.update(target, line)
    assert none.summary(NAMES) == {"thin": {}}


def test_order_and_merging_change_nothing():
    pairs = [(net(seed), net(seed + 1)) for seed in range(4)]
    tallies = [ThinStructures(4, (1, 2)) for _ in range(3)]
    for number, pair in enumerate(pairs):
        tallies[0].update(*pair)
        tallies[1 + number % 2].update(*pair)
    tallies[2].merge(tallies[1])
    assert tallies[2].summary(NAMES) == tallies[0].summary(NAMES)
    with pytest.raises(SegfocusError, match="ThinStructures"):
        tallies[0].merge(ThinStructures(4, (2, 1)))


def test_refusals():
    for thin in ((4,), (-1,), (1, 1)):
        with pytest.raises(SegfocusError, match="thin classes: expected different train ids below 4"):
            ThinStructures(4, thin)
