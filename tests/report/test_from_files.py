"""Folders of anyone's predictions: the numbers are those of the arrays, and one bad file does not spoil the rest."""

import json
import logging
import tracemalloc

import numpy as np
import pytest

from segfocus.data.classes import Classes
from segfocus.data.predictions import PredictionReader
from segfocus.errors import SegfocusError
from segfocus.metrics.instance import CITYSCAPES_SIZES
from segfocus.report.from_files import measure_folders
from segfocus.report.sources import Folders
from tests.report.folders import (
    CLASSES,
    NAMES,
    RAW,
    guess_of,
    make_folders,
    probabilities_of,
    save,
    slow_scores,
    truth_of,
)


@pytest.fixture
def folders(tmp_path):
    return Folders(*make_folders(tmp_path))


def measure(folders, groups="basic", reader=None, **options):
    scores, pictures, failures = measure_folders(
        folders, CLASSES, reader or PredictionReader(CLASSES), groups=groups, progress=False, **options
    )
    json.dumps(scores, allow_nan=False)
    assert scores["failures"] == failures
    return scores, pictures, failures


ALL = range(len(NAMES))


def without(index):
    return [other for other in ALL if other != index]


def assert_scores(scores, indices=ALL, guess=guess_of):
    expected = slow_scores([(truth_of(index), guess(index)) for index in indices])
    np.testing.assert_allclose(list(scores["per_class"].values()), expected["iou"], rtol=1e-12)
    np.testing.assert_allclose(scores["miou"], np.mean(expected["iou"]), rtol=1e-12)
    np.testing.assert_allclose(scores["pixel_accuracy"], expected["pixel_accuracy"], rtol=1e-12)
    assert scores["n_pictures"] == len(indices)


def other_predictions(tmp_path, kind, name="other"):
    """The same predictions in another way of storing them, and how to read them."""
    folder = tmp_path / name
    for index, file in enumerate(NAMES):
        soft = probabilities_of(index)
        raw = np.zeros((27, *soft.shape[1:]), np.float32)
        raw[RAW[:3]] = soft
        stored = {
            "raw labels": (".png", RAW[guess_of(index)]),
            "npy": (".npy", soft),
            "npz float16": (".npz", soft.astype(np.float16)),
            "npz uint8": (".npz", np.rint(soft * 255).astype(np.uint8)),
            "channels last": (".npz", np.moveaxis(soft, 0, 2)),
            "raw channels": (".npz", raw),
        }[kind]
        save(folder / f"{file}{stored[0]}", stored[1])
    table = {"classes": CLASSES.to_dict()["classes"], "ignore": [v for v in range(256) if v not in (4, 7, 17, 26)]}
    classes = Classes.from_dict(table) if kind == "raw channels" else CLASSES
    return folder, PredictionReader(classes, ids="raw" if kind.startswith("raw") else "train")


def test_labels(folders):
    scores, pictures, failures = measure(folders)
    assert_scores(scores)
    assert failures == []
    assert scores["missing"] == []
    assert pictures.seen == len(NAMES)


@pytest.mark.parametrize("kind", ["raw labels", "npy", "npz float16", "npz uint8", "channels last", "raw channels"])
def test_ways_of_storing_them(folders, tmp_path, kind, caplog):
    folder, reader = other_predictions(tmp_path, kind)
    with caplog.at_level(logging.INFO, "segfocus"):
        assert_scores(measure(Folders(folder, folders.labels), reader=reader)[0])
    said = [message for message in caplog.messages if message.startswith("--predictions: read as")]
    assert len(said) == 1
    assert ("labels" if kind == "raw labels" else "probabilities") in said[0]


def test_every_score_of_probabilities(folders, tmp_path):
    folder, reader = other_predictions(tmp_path, "npy")
    scores, *_ = measure(Folders(folder, folders.labels), "all", reader)
    assert_scores(scores)
    assert set(scores["left_out"]) == {"instances", "binary", "importance"}
    soft = np.concatenate([probabilities_of(i)[:, truth_of(i) != 255] for i in ALL], 1)
    truth = np.concatenate([truth_of(i)[truth_of(i) != 255] for i in ALL])
    brier = ((soft - (truth == np.arange(3)[:, None])) ** 2).sum(0).mean()
    assert scores["calibration"]["brier"] == pytest.approx(brier, rel=1e-5)
    assert scores["thin"].keys() == {"pole"}


def test_a_group_that_needs_what_is_not_there(folders):
    with pytest.raises(SegfocusError, match="expected probabilities for 'calibration', got none"):
        measure(folders, ["calibration"])


def test_baseline_and_refiners(folders, tmp_path):
    for index, name in enumerate(NAMES):
        save(tmp_path / "before" / f"{name}.png", guess_of(index, 0.5))
        save(tmp_path / "refined" / f"{name}.npy", probabilities_of(index, 0.1))
    more = Folders(
        folders.predictions,
        folders.labels,
        baseline=tmp_path / "before",
        measured={"crf": tmp_path / "refined", "same": folders.predictions},
    )
    scores, *_ = measure(more, ["intervals", "headroom"])
    assert_scores(scores)
    before = scores["baseline"]
    assert_scores(before["scores"], guess=lambda index: guess_of(index, 0.5))
    assert "headroom" not in before["scores"]
    assert before["title"] == f"{tmp_path.name}/before"
    change = before["difference"]["miou"]
    assert change["value"] == pytest.approx(scores["miou"] - before["scores"]["miou"])
    assert change["interval"][0] <= change["value"] <= change["interval"][1]
    assert "changed" not in scores
    fixed = sum(
        ((guess_of(i, 0.5) != truth_of(i)) & (guess_of(i) == truth_of(i)))[truth_of(i) != 255].sum() for i in ALL
    )
    assert before["changed"]["fixed"] == fixed
    crf, same = scores["measured"]
    expected = slow_scores([(truth_of(i), guess_of(i, 0.1)) for i in ALL])
    assert crf["name"] == "crf"
    assert crf["miou"] == pytest.approx(np.mean(expected["iou"]))
    gain = crf["gain"]["miou"]
    assert gain["value"] == pytest.approx(np.mean(expected["iou"]) - scores["miou"])
    assert gain["interval"][0] <= gain["value"] <= gain["interval"][1]
    assert same["gain"]["miou"] == {"value": 0, "interval": [0, 0]}
    assert all(change == {"value": 0, "interval": [0, 0]} for change in same["gain"]["boundary_iou"].values())


@pytest.mark.parametrize(("dtype", "kind"), [(np.uint16, "auto"), (np.uint8, "probabilities")])
def test_foreground_as_gray_pictures(tmp_path, dtype, kind):
    classes = Classes.from_dict({"classes": {0: "ground", 1: {"name": "crack", "raw": [255]}}, "ignore": [128]})
    scale, errors, counts = np.iinfo(dtype).max, [], np.zeros(2)
    for index in ALL:
        rng = np.random.default_rng(index)
        mask = rng.choice(np.asarray([0, 255, 128], np.uint8), (24, 32))
        gray = rng.integers(0, scale + 1, (24, 32)).astype(dtype)
        save(tmp_path / "labels" / f"{index}.png", mask)
        save(tmp_path / "gray" / f"{index}.png", gray)
        found, crack, labelled = gray / scale > 0.5, mask == 255, mask != 128
        counts += (found & crack).sum(), ((found | crack) & labelled).sum()
        errors.append(abs(gray / scale - crack)[labelled])
    folders = Folders(tmp_path / "gray", tmp_path / "labels")
    scores, *_ = measure_folders(folders, classes, PredictionReader(classes, kind=kind), progress=False)
    assert scores["binary"]["foreground_iou"] == pytest.approx(counts[0] / counts[1])
    assert scores["binary"]["mae"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)
    if dtype == np.uint8:  # taken for labels without the option, and the remedy is named
        with pytest.raises(SegfocusError, match=r"expected train ids 0 to 1, .* or --prediction-kind probabilities"):
            measure_folders(folders, classes, PredictionReader(classes), progress=False)


def instance_map(index, cityscapes):
    """Every car block of a row of blocks is one object."""
    target = truth_of(index)
    rows = np.arange(target.shape[0])[:, None] // 4
    if not cityscapes:
        return np.where(target == 2, rows + 1, 0).astype(np.uint8)
    return np.where(target == 2, 26000 + rows, RAW[np.minimum(target, 3)]).astype(np.uint16)


@pytest.mark.parametrize("cityscapes", [False, True])
def test_instances_of_both_kinds(folders, tmp_path, cityscapes):
    for index, name in enumerate(NAMES):
        save(tmp_path / "instances" / f"{name}.png", instance_map(index, cityscapes))
    scores, *_ = measure(Folders(folders.predictions, folders.labels, instances=tmp_path / "instances"), ["instances"])
    found, wrong, sizes = [], 0, []
    for index in ALL:
        target, guess = truth_of(index), guess_of(index)
        objects = instance_map(index, False)
        for value in np.unique(objects[objects > 0]):
            inside = objects == value
            sizes.append(inside.sum())
            found.append((guess[inside] == 2).mean())
        wrong += ((guess == 2) & (target != 2) & (target != 255)).sum()
    # car is a class of Cityscapes, whose evaluation has its mean size as a constant
    size = CITYSCAPES_SIZES["car"] if cityscapes else np.mean(sizes)
    weighted = size * np.sum(found)
    assert scores["instance"]["sizes_from"] == ("Cityscapes" if cityscapes else "the truth given")
    assert scores["instance"]["per_class"]["car"] == pytest.approx(weighted / (size * len(sizes) + wrong), rel=1e-9)


def test_pictures_are_only_shown(folders, tmp_path):
    for index, name in enumerate(NAMES[:-1]):
        save(tmp_path / "images" / f"{name}.png", np.full((48, 64, 3), index, np.uint8))  # of another size
    (tmp_path / "images" / f"{NAMES[2]}.png").write_bytes(b"broken")
    scores, pictures, failures = measure(Folders(folders.predictions, folders.labels, images=tmp_path / "images"))
    assert_scores(scores)
    assert len(pictures.cards()) == len(NAMES)
    assert len(failures) == 1
    assert "c.d.png" in failures[0]
    assert "measured all the same" in failures[0]


class TestBadFiles:
    def test_one_corrupt_file_is_named_and_the_rest_is_finished(self, folders):
        bad = folders.predictions / f"{NAMES[1]}.png"
        bad.write_bytes(bad.read_bytes()[:50])
        scores, _, failures = measure(folders, "all")
        assert_scores(scores, without(1))
        assert len(failures) == 1
        assert str(bad) in failures[0]
        assert "\n" not in failures[0]

    def test_the_first_file_may_be_the_bad_one(self, folders):
        (folders.labels / f"{NAMES[0]}.png").write_bytes(b"")
        scores, _, failures = measure(folders)
        assert_scores(scores, without(0))
        assert "0 bytes" in failures[0]

    @pytest.mark.parametrize(
        ("values", "match"),
        [
            (np.full((24, 32), 3, np.uint8), "expected train ids 0 to 2, got 3 at"),
            (np.zeros((24, 30), np.uint8), "expected the label's size 24x32, got 24x30; try --resize nearest"),
            (np.zeros((24, 32, 3), np.uint8) + np.arange(3, dtype=np.uint8), "one value a pixel"),
        ],
    )
    def test_labels_that_do_not_fit(self, folders, values, match):
        path = save(folders.predictions / f"{NAMES[4]}.png", values)
        scores, _, failures = measure(folders)
        assert_scores(scores, without(4))
        assert len(failures) == 1
        assert str(path) in failures[0]
        assert match in failures[0]

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda soft: np.where(soft == soft[1, 2, 3], np.nan, soft), "NaN or infinity 1 times"),
            (lambda soft: soft * 0.8, "sum to 1 at each pixel, got 0.800"),
            (lambda soft: np.log(soft), "these may be logits"),
            (lambda soft: np.concatenate([soft, soft]) / 2, "probabilities of 3 classes"),
        ],
    )
    def test_probabilities_that_are_none(self, folders, tmp_path, change, match):
        folder, reader = other_predictions(tmp_path, "npz float16")
        path = save(folder / f"{NAMES[0]}.npz", change(probabilities_of(0)))
        scores, _, failures = measure(Folders(folder, folders.labels), reader=reader)
        assert_scores(scores, without(0))
        assert len(failures) == 1
        assert str(path) in failures[0]
        assert match in failures[0]

    def test_a_baseline_file_spoils_only_its_picture_in_both(self, folders, tmp_path):
        for index, name in enumerate(NAMES):
            save(tmp_path / "before" / f"{name}.png", guess_of(index, 0.5))
        (tmp_path / "before" / f"{NAMES[3]}.png").write_bytes(b"")
        scores, *_ = measure(Folders(folders.predictions, folders.labels, baseline=tmp_path / "before"))
        assert_scores(scores, without(3))
        assert_scores(scores["baseline"]["scores"], without(3), lambda index: guess_of(index, 0.5))

    def test_labels_among_probabilities(self, folders, tmp_path):
        folder, reader = other_predictions(tmp_path, "npy")
        save(folder / f"{NAMES[4]}.npy", guess_of(4))
        scores, _, failures = measure(Folders(folder, folders.labels), "all", reader)
        assert_scores(scores, without(4))
        assert "f: --predictions: expected probabilities like the files before, got labels" in failures[0]

    def test_instances_that_do_not_fit(self, folders, tmp_path):
        for index, name in enumerate(NAMES):
            save(tmp_path / "instances" / f"{name}.png", instance_map(index, False))
        bad = save(tmp_path / "instances" / f"{NAMES[2]}.png", np.zeros((3, 3), np.uint8))
        scores, _, failures = measure(
            Folders(folders.predictions, folders.labels, instances=tmp_path / "instances"), ["instances"]
        )
        assert_scores(scores, without(2))
        assert str(bad) in failures[0]

    def test_nothing_can_be_measured(self, folders):
        for name in NAMES:
            save(folders.predictions / f"{name}.png", np.full((24, 32), 99, np.uint8))
        with pytest.raises(SegfocusError, match=r"none of the first 6 pictures can be measured, first: .*got 99"):
            measure(folders)

    def test_only_void(self, folders):
        for name in NAMES:
            save(folders.labels / f"{name}.png", np.zeros((24, 32), np.uint8))
        with pytest.raises(SegfocusError, match=r"labels: expected labelled pixels, got only void in all 6 pictures"):
            measure(folders)

    def test_hopeless_beginnings_end_the_work(self, tmp_path):
        names = [f"{index:03}" for index in range(60)]
        folders = Folders(*make_folders(tmp_path, names))
        for name in names[:50]:
            (folders.predictions / f"{name}.png").write_bytes(b"")
        with pytest.raises(SegfocusError, match="none of the first 20 pictures"):
            measure(folders)

    def test_missing_predictions(self, folders):
        (folders.predictions / f"{NAMES[2]}.png").unlink()
        with pytest.raises(SegfocusError, match=r"for each of 6 labels, got none for 1: c\.d; try --allow-missing"):
            measure(folders)
        scores, _, failures = measure(folders, allow_missing=True)
        assert_scores(scores, without(2))
        assert scores["missing"] == ["c.d"]
        assert failures == []

    def test_the_labels_themselves(self, folders):
        with pytest.raises(SegfocusError, match="expected predictions to compare with the labels"):
            measure(Folders(folders.labels, folders.labels))


def test_titles_of_baselines_that_end_alike_differ(folders, tmp_path):
    before = tmp_path / "old" / "run" / "val"
    now = tmp_path / "new" / "run" / "val"
    for index, name in enumerate(NAMES):
        save(before / f"{name}.png", guess_of(index, 0.5))
        save(now / f"{name}.png", guess_of(index))
    scores, *_ = measure(Folders(now, folders.labels, baseline=before))
    assert scores["baseline"]["title"] == "old/run/val"


def test_resize(folders):
    for index, name in enumerate(NAMES):
        save(folders.predictions / f"{name}.png", guess_of(index).repeat(2, 0).repeat(2, 1))
    assert_scores(measure(folders, reader=PredictionReader(CLASSES, resize="nearest"))[0])


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    def peak(count):
        names = [f"{index:03}" for index in range(count)]
        folders = Folders(*make_folders(tmp_path / str(count), names))
        tracemalloc.start()
        measure(folders, "all", worst=2)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(3)  # imports and caches
    assert peak(40) < 1.3 * peak(8)


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_a_public_network_on_camvid(shared_data, kind):
    from segfocus.data.camvid import classes

    folders = Folders(shared_data / "camvid_espnet" / kind / "val", shared_data / "camvid" / "masks" / "val")
    reader = PredictionReader(classes())
    scores, *_ = measure_folders(folders, classes(), reader, groups="basic", progress=False)
    assert scores["miou"] == pytest.approx(0.6930, abs=5e-5)
    assert scores["per_class"]["pole"] == pytest.approx(0.077, abs=5e-4)
    assert scores["pixel_accuracy"] == pytest.approx(0.9328, abs=5e-5)
