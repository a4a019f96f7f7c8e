import copy
import pickle

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics import boundary_counts, confusion_matrix, scores_from_confusion
from segfocus.metrics.boundary_f import BoundaryF
from segfocus.metrics.scores import Counts
from segfocus.metrics.torch_metrics import BoundaryIoU, ConfusionMatrix, SegmentationScores, TallyMetric
from tests.metrics import slow_twins

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    target = np.kron(rng.integers(0, 4, (6, 5, 6)), np.ones((1, 6, 6), int))
    prediction = np.where(rng.random(target.shape) < 0.9, target, 3)
    target[:, :3] = 255
    return torch.from_numpy(prediction), torch.from_numpy(target)


def test_any_batching_gives_the_numpy_counts(batch):
    preds, target = batch
    expected = Counts(4, shares=(0.02,))
    for guess, truth in zip(preds.numpy().astype(np.uint8), target.numpy().astype(np.uint8), strict=True):
        expected.update(truth, guess)
    for sizes in ((6,), (1, 2, 3), (1,) * 6):
        scores, confusion, boundary = SegmentationScores(NAMES), ConfusionMatrix(4), BoundaryIoU(4, shares=(0.02,))
        for guess, truth in zip(preds.split(list(sizes)), target.split(list(sizes)), strict=True):
            for metric in (scores, confusion, boundary):
                metric.update(guess, truth)
        assert scores.compute() == expected.summary(NAMES)
        np.testing.assert_array_equal(confusion.compute().numpy(), expected.confusion)
        assert confusion.scores()["miou"] == scores_from_confusion(expected.confusion)["miou"]
        np.testing.assert_array_equal(boundary.compute().numpy(), expected.boundary_iou())


def test_processes_are_summed(batch):
    preds, target = batch
    whole = SegmentationScores(NAMES)
    whole.update(preds, target)
    parts = [SegmentationScores(NAMES) for _ in range(2)]
    parts[0].update(preds[:4], target[:4])
    parts[1].update(preds[4:], target[4:])
    states = [copy.deepcopy(part.metric_state) for part in parts]
    names = iter(["fingerprint", "confusion", "boundary_intersection", "boundary_union", "n_pictures"])

    def gather(_, group=None):
        name = next(names)
        return [state[name] for state in states]

    parts[0].dist_sync_fn = gather
    parts[0].distributed_available_fn = lambda: True
    assert parts[0].compute() == whole.compute()


def test_forward_reset_and_single_pictures(batch):
    preds, target = batch
    metric = SegmentationScores(NAMES, distances=(1,))
    first = metric(preds[0], target[0].to(torch.uint8))  # forward: this picture's own scores
    metric(preds[1].to(torch.int32), target[1])
    both = metric.compute()
    assert first["n_pictures"] == 1
    assert both["n_pictures"] == 2
    metric.reset()
    metric.update(preds[:2], target[:2])
    assert metric.compute() == both
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute()["miou"] is None


def test_states_of_earlier_updates_are_not_changed(batch):
    metric = ConfusionMatrix(4)
    metric.update(*batch)
    first = metric.compute()
    before = first.clone()
    metric.update(*batch)
    assert torch.equal(first, before)
    assert torch.equal(metric.compute(), 2 * before)


def test_one_picture_equals_the_functions():
    _, target, prediction = next(slow_twins.scenes(1))
    confusion, boundary = ConfusionMatrix(4), BoundaryIoU(4, (2,))
    for metric in (confusion, boundary):
        metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
    np.testing.assert_array_equal(confusion.compute().numpy(), confusion_matrix(target, prediction, 4))
    intersection, union = boundary_counts(target, prediction, 4, 2)
    np.testing.assert_array_equal(boundary.compute()[0].numpy(), intersection / union)


@pytest.mark.parametrize(
    ("preds", "target", "words"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4).long(), "preds: expected integer train ids, got torch.float32"),
        (torch.zeros(3, 4).long(), torch.full((3, 4), -1), "target: expected train ids 0 to 255, got -1 to -1"),
        (torch.zeros(2, 5, 3, 4), torch.zeros(2, 3, 4).long(), r"got predictions \(2, 5, 3, 4\)"),
        (torch.full((3, 4), 7), torch.zeros(3, 4).long(), "prediction: expected train ids 0 to 3, got 7"),
    ],
)
def test_refuses(preds, target, words):
    with pytest.raises(SegfocusError, match=words):
        SegmentationScores(NAMES).update(preds, target)


def test_a_collection_keeps_metrics_apart_that_start_alike(batch):
    """The first batch is perfect, so both tolerances have equal counts: torchmetrics would update only one of them."""
    preds, target = batch
    perfect = target.remainder(255)
    members = {str(tolerance): TallyMetric(BoundaryF(4, (tolerance,)), NAMES) for tolerance in (1, 3)}
    together = MetricCollection({name: copy.deepcopy(metric) for name, metric in members.items()})
    for guess in (perfect, preds.roll(2, 2)):
        together.update(guess, target)
        for metric in members.values():
            metric.update(guess, target)
    for name, metric in members.items():
        assert together[name].compute() == metric.compute()
    assert members["1"].compute()["boundary_f"]["1"] < members["3"].compute()["boundary_f"]["3"]


def with_everything(batch) -> tuple[SegmentationScores, dict]:
    preds, target = batch
    classes = Classes.of(NAMES, thin=["b"])
    given = {"probabilities": True, "instances": True, "baseline": True, "importance": True}
    metric = SegmentationScores(classes, groups="all", **given)
    random = torch.Generator().manual_seed(0)
    probabilities = torch.rand(6, 4, *preds.shape[1:], generator=random).softmax(1)
    return metric, {
        "preds": preds,
        "target": target,
        "probabilities": probabilities,
        "instances": target,
        "importance": torch.rand(6, 2, 3, generator=random),
        "baseline": preds.roll(1, 2),
        "names": [f"picture {index}" for index in range(6)],
    }


def test_every_score_survives_forward_merging_pickling_and_copying(batch):
    metric, given = with_everything(batch)
    first, second = ({name: values[part] for name, values in given.items()} for part in (slice(4), slice(4, 6)))
    empty = pickle.dumps(metric)
    whole = metric(**given)  # forward: the scores of this batch
    assert whole["changed"]["fixed"] > 0
    assert "importance" in {row["variant"] for row in whole["headroom"]["rows"]}
    assert metric.compute() == copy.deepcopy(metric).to("cpu").compute() == whole
    assert pickle.loads(pickle.dumps(metric)).compute() == whole
    parts = [pickle.loads(empty) for _ in range(2)]
    for part, rows in zip(parts, (second, first), strict=True):
        part.update(**rows)
    parts[0].merge_state(parts[1])
    assert parts[0].compute() == whole


def test_half_precision_and_one_picture_with_its_name(batch):
    metric, given = with_everything(batch)
    one, alone = copy.deepcopy(metric), {name: values[0] for name, values in given.items()}
    metric.update(**{name: values[:1] for name, values in given.items()})
    one.update(**alone)  # a name is a name, not a sequence of letters
    assert one.compute() == metric.compute()
    for kind in (torch.bfloat16, torch.float16):
        one.update(**alone | {"probabilities": alone["probabilities"].to(kind)})


@pytest.mark.parametrize("lacking", ["probabilities", "instances", "importance", "baseline", "names"])
def test_a_batch_is_counted_whole_or_not_at_all(batch, lacking):
    metric, given = with_everything(batch)
    with pytest.raises(SegfocusError, match=f"{lacking}: expected one for each of 6 pictures, got 5"):
        metric.update(**given | {lacking: given[lacking][:5]})
    bad = given["preds"].clone()
    bad[-1] = 7
    with pytest.raises(SegfocusError, match="got 7"):
        metric.update(**given | {"preds": bad})
    assert not any(value.any() for value in metric.tally().counts.values())
