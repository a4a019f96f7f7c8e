"""Folds: the same everywhere, about equal, no photograph on both sides."""

import numpy as np
import pytest
from PIL import Image

from segfocus.data import open_dataset
from segfocus.data.folds import Fold, fold_numbers, split_and_fold
from segfocus.data.maps import MapsDataset
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from tests.data.binary_folders import half_mask, names_of, write_masks, write_pictures, write_split

PHOTOGRAPHS = [f"{photograph}-{part}" for photograph in range(10) for part in range(1 + photograph % 3)]


def test_a_split_may_name_a_fold():
    assert split_and_fold("train") == ("train", None)
    assert split_and_fold("train:2of5") == ("train", Fold(2, 5, others=False))
    assert split_and_fold("fit:not1of2") == ("fit", Fold(1, 2, others=True))
    assert str(split_and_fold("fit:not1of2")[1]) == "not1of2"


@pytest.mark.parametrize("text", ["train:", "train:0of5", "train:6of5", "train:1of1", "train:a", "train:1of2:1of2"])
def test_other_words_behind_the_colon_are_refused(text):
    with pytest.raises(SegfocusError, match=r"expected a fold such as train:2of5.*got 'train:"):
        split_and_fold(text)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_folds_divide_photographs_and_are_about_equal(count):
    numbers = fold_numbers(PHOTOGRAPHS, count)
    assert set(numbers) == set(PHOTOGRAPHS)
    assert numbers == fold_numbers(PHOTOGRAPHS[::-1], count)
    photographs = {(name.split("-")[0], number) for name, number in numbers.items()}
    assert len(photographs) == 10  # each in one fold
    sizes = np.bincount(list(numbers.values()), minlength=count + 1)[1:]
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 3  # the pictures of one photograph


def test_names_alike_before_the_last_hyphen_are_divided_one_by_one():
    numbers = fold_numbers([f"img-{index}" for index in range(7)], 3)
    assert sorted(np.bincount(list(numbers.values()))[1:].tolist()) == [2, 2, 3]


def test_fewer_names_than_folds_are_refused():
    with pytest.raises(SegfocusError, match="expected at least 3 pictures for 3 folds, got 2"):
        fold_numbers(["a", "b"], 3)


def test_the_folds_of_a_data_set_make_it_up(tmp_path):
    write_split(tmp_path, "train", PHOTOGRAPHS)
    config = DataConfig(name="deepcrack", root=str(tmp_path))
    folds = [names_of(config, f"train:{number}of3") for number in (1, 2, 3)]
    assert sorted(name for fold in folds for name in fold) == sorted(PHOTOGRAPHS)
    assert sorted(folds[0] + folds[2]) == sorted(names_of(config, "train:not2of3"))


def test_maps_keep_their_pictures(tmp_path):
    names = [f"{index}" for index in range(6)]
    write_masks(tmp_path / "masks", names, half_mask())
    write_masks(tmp_path / "maps", names, half_mask())
    write_pictures(tmp_path / "images", [])
    for index, name in enumerate(names):
        Image.fromarray(np.full((6, 8, 3), index, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    folders = {key: str(tmp_path / key) for key in ("maps", "masks", "images")}
    part = open_dataset(DataConfig(name="maps", **folders), "all:not1of2")
    assert isinstance(part, MapsDataset)
    assert len(part) == 3
    for index, pair in enumerate(part.pairs):
        assert (part.read(index)[0] == int(pair.name)).all()


def test_generated_scenes_have_no_folds():
    with pytest.raises(SegfocusError, match="expected pictures and masks on disk"):
        open_dataset(DataConfig(name="synthetic"), "train:1of2")
