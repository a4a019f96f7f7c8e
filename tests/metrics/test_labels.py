import numpy as np
import pytest
import torch

from segfocus.errors import SegfocusError
from segfocus.metrics import labels_from_scores


@pytest.mark.parametrize("size", [(40, 56), (37, 61), (10, 14), (1, 1)])
def test_labels_are_those_of_torch(size):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 10, 14)).astype(np.float32)
    large = torch.nn.functional.interpolate(torch.from_numpy(scores)[None], size=size, mode="bilinear")[0]
    expected = large.argmax(0).numpy()
    labels = labels_from_scores(scores, size)
    different = labels != expected
    # rounding may decide between two classes of equal score
    gap = large.sort(0).values.diff(dim=0)[-1].numpy()
    assert (gap[different] < 1e-5).all()
    assert different.mean() < 0.01


def test_of_equal_scores_the_lowest_class_wins():
    assert (labels_from_scores(np.zeros((3, 2, 2)), (4, 6)) == 0).all()


def test_refusals():
    with pytest.raises(SegfocusError, match="expected 1 to 254 classes"):
        labels_from_scores(np.zeros((2, 2)), (4, 4))
    with pytest.raises(SegfocusError, match="and a size"):
        labels_from_scores(np.zeros((2, 2, 2)), (0, 4))
