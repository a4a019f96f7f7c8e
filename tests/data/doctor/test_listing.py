"""Pairs, splits and endings."""

from pathlib import Path

import pytest

from segfocus.data.doctor.listing import Item, divide, find_pairs, guess_suffixes, shared_recordings
from segfocus.data.folder import pairs as training_pairs
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def items(*names: str) -> list[Item]:
    return [Item(name, Path(f"{name}.jpg"), Path(f"{name}.png")) for name in names]


def test_splits_by_folders_train_first():
    names = ("Val/a", "train2017/x/b", "train2017/c", "extra/d", "testing/e")
    division = divide(items(*names), None)
    assert [(item.name, item.split) for item in division.items] == [
        ("train2017/x/b", "train"),
        ("train2017/c", "train"),
        ("Val/a", "val"),
        ("testing/e", "test"),
        ("extra/d", "extra"),
    ]
    assert division.folders == {"train": "train2017", "val": "Val", "test": "testing", "extra": "extra"}


def test_validation_given():
    division = divide(items("train/a", "val/b"), items("c"))
    assert [item.split for item in division.items] == ["train", "train", "val"]
    assert division.folders == {}


@pytest.mark.parametrize("folder", ["", "validation/"])
def test_otherwise_the_split_is_that_of_training(tmp_path, folder):
    names = [f"{folder}{index:03d}" for index in range(60)]
    touch(tmp_path, *(f"{kind}/{name}.png" for name in names for kind in ("images", "masks")))
    found, problems = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert problems == []
    division = divide(found, None)
    config = DataConfig(images=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    for split in ("train", "val"):
        expected = [pair.name for pair in training_pairs(config, split)]
        assert [item.name for item in division.items if item.split == split] == expected
    assert "15% held out by name" in division.how


def test_endings_are_stripped_and_guessed(tmp_path):
    names = ["train/a_000001", "train/a_000002", "val/b_000001"]
    kinds = ("gtFine_instanceIds", "gtFine_labelIds", "gtFine_labelTrainIds")
    touch(tmp_path, *(f"images/{name}_leftImg8bit.png" for name in names))
    touch(tmp_path, *(f"masks/{name}_{kind}.png" for name in names for kind in kinds))
    folders = tmp_path / "images", tmp_path / "masks"
    with pytest.raises(SegfocusError, match=r"try --image-suffix=_leftImg8bit --mask-suffix=_gtFine_labelIds$"):
        find_pairs(*folders)
    found, problems = find_pairs(*folders, "_leftImg8bit", "_gtFine_labelIds")
    assert [item.name for item in found] == names
    assert [(problem.code, problem.count) for problem in problems] == [("other-endings", 6)]
    with pytest.raises(SegfocusError, match=r"--mask-suffix: expected names that end in '_gt', got 9 files"):
        find_pairs(*folders, "", "_gt")


def test_no_endings_are_guessed_where_none_fit():
    assert guess_suffixes(["a/x", "a/y", "a/z"], ["b/1", "b/2"]) is None
    assert guess_suffixes(["p1", "p2", "p3"], ["p1_m", "p2_m", "p3_m"]) == ("", "_m")


def test_pairs_that_differ_in_their_folders(tmp_path):
    touch(tmp_path, "images/train/a.png", "masks/a.png")
    with pytest.raises(SegfocusError, match="not the subfolders: try a folder above or below"):
        find_pairs(tmp_path / "images", tmp_path / "masks")


def test_one_folder_for_both_needs_endings(tmp_path):
    touch(tmp_path, "both/a.jpg", "both/a_seg.png", "both/b.jpg", "both/b_seg.png")
    found, problems = find_pairs(tmp_path / "both", tmp_path / "both", "", "_seg")
    assert [item.name for item in found] == ["a", "b"]
    assert "picture-without-mask" in {problem.code for problem in problems}


def test_series_of_frames():
    def split(name: str, where: str) -> Item:
        return Item(name, Path(), Path(), where)

    frames = [split(f"train/s1_{index}", "train") for index in range(3)] + [split("val/s1_7", "val")]
    assert shared_recordings(frames) == {"s1_": {"train": 3, "val": 1}}
    for names in (("IMG_1", "IMG_2"), ("001", "002"), ("2007_000012", "2007_000027"), ("s1_1", "s2_1")):
        assert shared_recordings([split(names[0], "train"), split(names[1], "val")]) == {}
