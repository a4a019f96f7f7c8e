import hashlib
import subprocess
import sys

import numpy as np
import pytest

from segfocus.data import dataset_classes, open_dataset
from segfocus.data.scenes import NAMES, PAVEMENT, PERSON, POLE, ROAD, Canvas, draw_scene
from segfocus.data.synthetic import SyntheticDataset, synthetic_classes
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from tests.data.linear_baseline import linear_pixel_miou

CONFIG = DataConfig(name="synthetic", synthetic_pictures=8, synthetic_size=[48, 64])


def test_scenes_are_functions_of_their_numbers():
    for first, second in zip(draw_scene(0, "train", 3, (48, 64)), draw_scene(0, "train", 3, (48, 64)), strict=True):
        np.testing.assert_array_equal(first, second)
    scenes = [
        draw_scene(*key, (48, 64))[0] for key in ((0, "train", 3), (0, "train", 4), (0, "val", 3), (1, "train", 3))
    ]
    assert len({scene.tobytes() for scene in scenes}) == 4


def test_another_process_draws_the_same():
    code = (
        "from segfocus.data.scenes import draw_scene; import hashlib;"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in draw_scene(0, 'val', 1, (48, 64)))).hexdigest())"
    )
    here = hashlib.sha256(b"".join(array.tobytes() for array in draw_scene(0, "val", 1, (48, 64)))).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (192, 256), (300, 200)])
def test_any_size(size):
    picture, labels = draw_scene(0, "train", 0, size)
    assert picture.shape == (*size, 3)
    assert labels.shape == size
    assert labels.max() < len(NAMES)


def test_every_class_is_common():
    shares = np.zeros(len(NAMES))
    for index in range(12):
        labels = draw_scene(0, "train", index, (192, 256))[1]
        shares += np.bincount(labels.ravel(), minlength=len(NAMES)) / labels.size / 12
    assert shares.min() > 0.005
    assert shares.max() < 0.5


def test_poles_from_one_pixel_wide():
    narrow = 0
    for index in range(12):
        pole = draw_scene(0, "train", index, (192, 256))[1] == POLE
        narrow += int((pole[:, 1:-1] & ~pole[:, :-2] & ~pole[:, 2:]).sum())
    assert narrow > 200


@pytest.mark.parametrize("shape", ["box", "ellipse", "polygon"])
def test_strokes_label_exactly_the_pixels_they_paint(shape):
    canvas = Canvas(np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8), 20.0, 25.0)
    color = (10, 200, 30)
    if shape == "box":
        canvas.box(3.4, 5.5, 3.9, 20, color, PERSON)
    elif shape == "ellipse":
        canvas.ellipse(20, 18.5, 9, 6, color, PERSON)
    else:
        canvas.polygon([(5, 5), (60, 12.5), (20, 33)], color, PERSON)
    painted = (canvas.picture == color).all(-1)
    assert painted.any()
    np.testing.assert_array_equal(painted, canvas.labels == PERSON)
    assert set(np.unique(canvas.picture[~painted])) == {0}


def test_reader():
    lengths = {split: len(open_dataset(CONFIG, split)) for split in ("train", "val", "test")}
    assert lengths == {"train": 8, "val": 2, "test": 2}
    dataset = open_dataset(CONFIG, "val", seed=9)
    assert dataset_classes(CONFIG) == dataset.classes == synthetic_classes()
    assert dataset.classes.names[POLE] == "pole"
    assert dataset.classes.thin[POLE]
    np.testing.assert_array_equal(dataset.read(1)[0], draw_scene(0, "val", 1, (48, 64))[0])
    np.testing.assert_array_equal(dataset.read(-1)[0], dataset.read(1)[0])
    assert dataset[0]["name"] == "val_00000"
    assert dataset.size(0) == (48, 64)
    assert dataset.pixel_counts().sum() == 2 * 48 * 64
    with pytest.raises(IndexError):
        _ = dataset[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"synthetic_size": [8, 64]}, "data.synthetic_size"),
        ({"synthetic_size": [64]}, "data.synthetic_size"),
        ({"synthetic_pictures": 0}, "data.synthetic_pictures"),
    ],
)
def test_settings_out_of_range(changes, words):
    with pytest.raises(SegfocusError, match=words):
        open_dataset(DataConfig(name="synthetic", **changes), "train")


def test_other_classes_are_refused(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {0: a, 1: b}")
    with pytest.raises(SegfocusError, match="its own classes"):
        open_dataset(DataConfig(name="synthetic", classes=str(path)), "train")


@pytest.mark.parametrize("balanced", [False, True])
def test_colour_alone_does_not_solve_it(balanced):
    train, val = SyntheticDataset(40, (192, 256), "train"), SyntheticDataset(20, (192, 256), "val")
    assert linear_pixel_miou(train, val, balanced) < 0.35


@pytest.mark.parametrize(("x", "y"), [(25, 30), (2.4, 22), (60, 39), (-40, 30), (25, -30), (300, 300)])
def test_a_shadow_on_the_ground_leaves_what_stands_there_alone(x, y):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(NAMES), (40, 50)).astype(np.uint8)
    canvas = Canvas(np.full((40, 50, 3), 200, np.uint8), labels.copy(), 20.0, 25.0)
    canvas.ground_shadow(x, y, 14.3, 6.2, (9, 9, 9))
    whole = Canvas(np.full((40, 50, 3), 200, np.uint8), labels.copy(), 20.0, 25.0)
    whole.ellipse(x, y, 14.3, 6.2, (9, 9, 9), None)
    ground = np.isin(labels, [ROAD, PAVEMENT])[..., None]
    np.testing.assert_array_equal(canvas.picture, np.where(ground, whole.picture, 200))
    np.testing.assert_array_equal(canvas.labels, labels)
