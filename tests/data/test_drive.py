import numpy as np
import pytest

from segfocus.data import open_dataset
from segfocus.data.drive import SECOND_OBSERVER
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from segfocus.training.checks import check_pictures
from tests.data.binary_folders import half_mask, names_of, write_masks, write_split


def write_drive(root, split="test", names=("01", "02"), field=None):
    write_split(root, split, names)
    if field is None:
        field = np.full((6, 8), 255, np.uint8)
        field[0] = 0
    write_masks(root / "fov" / split, names, field)
    return DataConfig(name="drive", root=str(root))


def test_outside_the_field_of_view_is_void(tmp_path):
    dataset = open_dataset(write_drive(tmp_path), "test")
    picture, labels = dataset.read(1)
    assert picture.shape == (6, 8, 3)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[255] * 8] + [[1] * 4 + [0] * 4] * 5
    assert dataset.pixel_counts().tolist() == [40, 40]
    assert check_pictures(dataset).tolist() == [40, 40]
    assert dataset[1]["target"].tolist() == labels.tolist()


def test_the_second_observer_sees_the_test_pictures(tmp_path):
    config = write_drive(tmp_path)
    write_masks(tmp_path / "masks2/test", ["01", "02"], 255 - half_mask())
    assert names_of(config, SECOND_OBSERVER) == ["01", "02"]
    assert open_dataset(config, SECOND_OBSERVER).read(0)[1].tolist() == [[255] * 8] + [[0] * 4 + [1] * 4] * 5


@pytest.mark.parametrize("split", ["train", "fit", "holdout"])
def test_parts_of_train_take_its_fields(tmp_path, split):
    dataset = open_dataset(write_drive(tmp_path, "train", ["21", "22", "23", "24"]), split)
    assert all((dataset.read(index)[1][0] == 255).all() for index in range(len(dataset)))
    assert dataset.pixel_counts().sum() == 40 * len(dataset)


def test_refusals(tmp_path):
    config = write_drive(tmp_path, field=np.zeros((5, 8), np.uint8))
    with pytest.raises(SegfocusError, match=r"01\.png: expected one grey channel of its picture's size 6x8 .*got 5x8"):
        open_dataset(config, "test").read(0)
    (tmp_path / "fov/test/02.png").unlink()
    with pytest.raises(SegfocusError, match=r"fov/test: expected a mask for each of 2 pictures, got none for 1: 02"):
        open_dataset(config, "test")
    with pytest.raises(SegfocusError, match="expected images/test and masks2/test, got not both"):
        open_dataset(config, SECOND_OBSERVER)
    write_split(tmp_path, "train", ["21", "22"])
    with pytest.raises(SegfocusError, match=r"expected fov/train with the fields of view, got none; try to put"):
        open_dataset(config, "train")


@pytest.mark.real_data
def test_the_real_thing(shared_data):
    config = DataConfig(name="drive", root=str(shared_data / "drive"), train_split="fit")
    splits = ("train", "test", "fit", "holdout", "val", SECOND_OBSERVER)
    assert [len(names_of(config, split)) for split in splits] == [20, 20, 13, 7, 7, 20]
    first, second = open_dataset(config, "test"), open_dataset(config, SECOND_OBSERVER)
    both = either = 0
    for index in range(20):
        one, other = first.read(index)[1], second.read(index)[1]
        assert ((one == 255) == (other == 255)).all()
        both += ((one == 1) & (other == 1)).sum()
        either += (one == 1).sum() + (other == 1).sum()
    # How far two people agree, counted apart from this reader; 0.7889 with what lies outside the field of view.
    assert 2 * both / either == pytest.approx(0.7891, abs=1e-4)
