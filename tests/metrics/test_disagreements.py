"""Where popular libraries disagree with the definition.  Each row is a test below that shows both numbers.

Definition: counts are summed over all labelled pixels of the data set before dividing; a class that is in neither
truth nor prediction has no score and is left out of means; void (255) is never counted; a boundary is that of each
class' binary mask.

| library and call                                    | case                               | says   | definition |
|-----------------------------------------------------|------------------------------------|--------|------------|
| torchmetrics `segmentation.MeanIoU(per_class=True)` | 90 px found, 1 px missed elsewhere | 0.50   | 0.989      |
| torchmetrics `segmentation.MeanIoU()`               | the same, mean of two classes      | 0.7475 | 0.990      |
| torchmetrics `segmentation.DiceScore("none")`       | the same, Dice                     | 0.50   | 0.994      |
| torchmetrics `segmentation.MeanIoU()`               | void (255) in the truth            | raises | left out   |
| torchmetrics `JaccardIndex(average="none")`         | a class that is absent             | 0.0    | no score   |
| scikit-learn `jaccard_score(average="macro")`       | 3 of 5 classes absent              | 0.396  | 0.990      |
| detectron2's Boundary IoU (label map eroded)        | class 7 beside class 3, one px off | 0.933  | 0.483      |
| the same                                            | class 4, which is nowhere          | 0.0    | no score   |
| the same, mean over its classes 0, 3, 4, 7          | the same, mean over classes 3, 7   | 0.682  | 0.491      |

Versions: torchmetrics 1.9, scikit-learn 1.9.  A test that fails after an upgrade may be good news: then drop its row.
Where they agree with the definition is tested, too: torchmetrics `JaccardIndex` with average "macro" and with
`ignore_index=255`, and cityscapesScripts (test_instance.py).
"""

import cv2
import numpy as np
import pytest
import torch
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import DiceScore, MeanIoU

from segfocus.metrics.boundary import boundary_iou
from segfocus.metrics.confusion import mean_of_present
from segfocus.metrics.scores import Counts


def two_pictures() -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction [2, 10, 10]: class 1 has 90 px in the first, all found, and 1 px in the second, missed."""
    truth = np.zeros((2, 10, 10), np.uint8)
    truth[0, :9] = 1
    prediction = truth.copy()
    truth[1, 0, 0] = 1
    return truth, prediction


def counted(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> dict:
    counts = Counts(num_classes, ())
    for pair in zip(truth, prediction, strict=True):
        counts.update(*pair)
    return counts.summary([str(index) for index in range(num_classes)])


def theirs(metric, truth: np.ndarray, prediction: np.ndarray):
    metric.update(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    return metric.compute().tolist()


def test_torchmetrics_mean_iou_averages_pictures():
    truth, prediction = two_pictures()
    ours = counted(truth, prediction, 2)
    assert ours["per_class"]["1"] == 90 / 91
    each = theirs(MeanIoU(2, per_class=True, input_format="index"), truth, prediction)
    assert each[1] == 0.5  # (90 / 90 + 0 / 1) / 2
    assert ours["miou"] == pytest.approx(0.98996, abs=1e-5)
    assert theirs(MeanIoU(2, input_format="index"), truth, prediction) == pytest.approx(0.7475)


def test_torchmetrics_dice_averages_pictures():
    truth, prediction = two_pictures()
    iou = counted(truth, prediction, 2)["per_class"]["1"]
    assert 2 * iou / (1 + iou) == pytest.approx(180 / 181)
    assert theirs(DiceScore(2, average="none", input_format="index"), truth, prediction)[1] == 0.5


def test_torchmetrics_mean_iou_refuses_void():
    truth, prediction = two_pictures()
    truth[0, 9] = 255
    assert counted(truth, prediction, 2)["per_class"] == {"0": 99 / 100, "1": 90 / 91}
    with pytest.raises(RuntimeError, match="must be smaller than num_classes"):
        theirs(MeanIoU(2, input_format="index"), truth, prediction)
    # where it agrees
    ignoring = theirs(MulticlassJaccardIndex(2, average="none", ignore_index=255), truth, prediction)
    assert ignoring == pytest.approx([99 / 100, 90 / 91])


def test_torchmetrics_jaccard_scores_absent_classes_zero():
    truth, prediction = two_pictures()
    ours = counted(truth, prediction, 5)
    assert [*ours["per_class"].values()][2:] == [None, None, None]
    assert theirs(MulticlassJaccardIndex(5, average="none"), truth, prediction)[2:] == [0.0, 0.0, 0.0]
    # where it agrees: the mean leaves them out
    assert theirs(MulticlassJaccardIndex(5, average="macro"), truth, prediction) == pytest.approx(ours["miou"])


def test_scikit_learn_counts_absent_classes_as_zero():
    truth, prediction = two_pictures()
    ours = counted(truth, prediction, 5)
    with pytest.warns(UndefinedMetricWarning, match="no true or predicted samples"):
        found = jaccard_score(truth.ravel(), prediction.ravel(), labels=range(5), average="macro")
    assert found == pytest.approx(0.396, abs=1e-4)
    assert ours["miou"] == pytest.approx(0.98996, abs=1e-5)
    # where it agrees: with the classes that are there
    present = jaccard_score(truth.ravel(), prediction.ravel(), labels=[0, 1], average="macro")
    assert present == pytest.approx(ours["miou"])


def boundary_of_a_label_map(labels: np.ndarray, distance: int) -> np.ndarray:
    """The label map minus the label map eroded: right for a mask of 0 and 1, meaningless for labels.

    What detectron2's semantic evaluator does before it counts the result like a map of classes, in our words.
    """
    padded = np.pad(labels, 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return labels - eroded


def test_an_eroded_label_map_is_no_boundary():
    truth = np.full((16, 16), 3, np.uint8)
    truth[:, 8:] = 7
    prediction = np.full_like(truth, 3)
    prediction[:, 9:] = 7
    bands = boundary_of_a_label_map(truth, 1), boundary_of_a_label_map(prediction, 1)
    # class 7's edge towards 3 becomes class 4 = 7 - 3, class 3 has no edge towards 7, and the inside becomes class 0
    assert [set(np.unique(band).tolist()) for band in bands] == [{0, 3, 4, 7}] * 2
    np.testing.assert_array_equal(bands[0][1:-1, 8], 4)
    np.testing.assert_array_equal(bands[0][1:-1, 7], 0)
    said, ours = counted(bands[0][None], bands[1][None], 8), boundary_iou(truth, prediction, 8, 1)
    assert said["per_class"]["7"] == pytest.approx(0.933, abs=1e-3)
    assert ours[7] == pytest.approx(14 / 29)
    assert said["per_class"]["4"] == 0.0
    assert np.isnan(ours[4])
    assert said["miou"] == pytest.approx(0.682, abs=1e-3)
    assert mean_of_present(ours) == pytest.approx((14 / 28 + 14 / 29) / 2)
