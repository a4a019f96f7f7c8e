import numpy as np
import pytest
from PIL import Image

from segfocus.data import open_dataset
from segfocus.data.published import recording
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from tests.data.binary_folders import names_of, write_split


@pytest.mark.parametrize(("pictures", "masks"), [("images/{}", "masks/{}"), ("{}_img", "{}_lab")])
def test_both_layouts(tmp_path, pictures, masks):
    write_split(tmp_path, "test", ["11125-1", "11125-2"], pictures, masks)
    dataset = open_dataset(DataConfig(name="deepcrack", root=str(tmp_path)), "test")
    assert [pair.name for pair in dataset.pairs] == ["11125-1", "11125-2"]
    assert dataset.read(0)[1].tolist() == [[1] * 4 + [0] * 4] * 6
    assert dataset.pixel_counts().tolist() == [48, 48]


def test_a_mask_with_other_values_is_named(tmp_path):
    write_split(tmp_path, "test", ["a"])
    Image.fromarray(np.full((6, 8), 7, np.uint8)).save(tmp_path / "masks/test/a.png")
    with pytest.raises(SegfocusError, match=r"a\.png: expected only mask values of the classes, got the value 7"):
        open_dataset(DataConfig(name="deepcrack", root=str(tmp_path)), "test").read(0)
    with pytest.raises(SegfocusError, match="images/train and masks/train, or train_img and train_lab, got neither"):
        open_dataset(DataConfig(name="deepcrack", root=str(tmp_path)), "train")


@pytest.mark.real_data
def test_the_real_thing(shared_data):
    config = DataConfig(name="deepcrack", root=str(shared_data / "deepcrack"), train_split="fit")
    lengths = {split: len(names_of(config, split)) for split in ("train", "test", "fit", "holdout", "val")}
    assert lengths == {"train": 300, "test": 237, "fit": 198, "holdout": 102, "val": 102}
    fit, holdout = ({recording(name) for name in names_of(config, split)} for split in ("fit", "holdout"))
    assert not fit & holdout
    # Shares of the pixels as published beside the data.
    for split, percent in (("train", 2.913), ("test", 4.327)):
        counts = open_dataset(config, split).pixel_counts()
        assert 100 * counts[1] / counts.sum() == pytest.approx(percent, abs=5e-4)
