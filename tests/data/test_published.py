import hashlib
import logging

import pytest

from segfocus.data import DATASETS, dataset_classes, open_dataset
from segfocus.data.published import held_out, recording
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from tests.data.binary_folders import names_of, write_pictures, write_split

READERS = ["deepcrack", "drive", "nuclei_dsb2018"]
NAMES = [f"{number:02d}" for number in range(30)]


def slow_held_out(names, share):
    """Recording by recording, the lowest SHA-256 first, while fewer than the share are held out."""
    groups = {name: name.rsplit("-", 1)[0] for name in names}
    order = sorted(set(groups.values()), key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    outside = []
    while len(outside) / len(names) < share and order:
        group = order.pop(0)
        outside += [name for name in names if groups[name] == group]
    return set(outside)


@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.8])
def test_held_out_are_whole_recordings_in_the_order_of_their_hashes(share):
    names = [f"{number // 5:02d}" + (f"-{number % 5}" if number % 5 else "") for number in range(50)]
    outside = held_out(names, share)
    assert outside == slow_held_out(names, share)
    assert share * len(names) <= len(outside) < share * len(names) + 5
    assert not {recording(name) for name in outside} & {recording(name) for name in names if name not in outside}
    assert held_out(names[::-1], share) == outside


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("11116", "11116"),
        ("11116-2", "11116"),
        ("a-b-3", "a-b"),
        ("x-y/01", "x-y/01"),
        ("x/01-4", "x/01"),
        ("-1", "-1"),
    ],
)
def test_parts_of_one_photograph_share_its_name(name, expected):
    assert recording(name) == expected


@pytest.mark.parametrize("reader", READERS)
def test_fit_and_holdout_divide_train(tmp_path, reader):
    write_split(tmp_path, "train", NAMES)
    write_pictures(tmp_path / "fov/train", NAMES)
    config = DataConfig(name=reader, root=str(tmp_path))
    fit, holdout = names_of(config, "fit"), names_of(config, "holdout")
    assert names_of(config, "train") == NAMES
    assert sorted(fit + holdout) == NAMES
    assert len(holdout) == 10
    assert set(holdout) == held_out(NAMES)
    assert {"fit", "holdout", "val", "train", "test"} <= set(DATASETS[reader].splits)


@pytest.mark.parametrize(("train_split", "warnings"), [("train", 1), ("fit", 0)])
def test_val_is_the_holdout_where_none_is_published(tmp_path, caplog, train_split, warnings):
    write_split(tmp_path, "train", NAMES)
    config = DataConfig(name="deepcrack", root=str(tmp_path), train_split=train_split)
    with caplog.at_level(logging.WARNING, "segfocus"):
        found = names_of(config, "val")
    assert found == names_of(config, "holdout")
    assert len(caplog.messages) == warnings
    assert all("a part of train, stands in; try --data.train_split fit" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("reader", "foreground", "thin"),
    [("deepcrack", "crack", True), ("drive", "vessel", True), ("nuclei_dsb2018", "nucleus", False)],
)
def test_classes(reader, foreground, thin):
    classes = dataset_classes(DataConfig(name=reader))
    assert classes.names == ("background", foreground)
    assert classes.thin == (False, thin)
    assert classes.raw == ((0,), (255,))
    assert classes.ignore == ()


@pytest.mark.parametrize("reader", READERS)
def test_refusals(tmp_path, reader):
    with pytest.raises(SegfocusError, match=rf"^{reader}: .*got none; try --data\.root DIR$"):
        open_dataset(DataConfig(name=reader), "train")
    with pytest.raises(SegfocusError, match=rf"^{reader}: expected data\.root to be a folder, got .*none"):
        open_dataset(DataConfig(name=reader, root=str(tmp_path / "absent")), "train")
    config = DataConfig(name=reader, root=str(tmp_path))
    with pytest.raises(SegfocusError, match=r"expected images/test and masks/test.*try the folder above or below"):
        open_dataset(config, "test")
    write_pictures(tmp_path / "images/train", NAMES[:3])
    write_pictures(tmp_path / "masks/train", NAMES[:2])
    with pytest.raises(SegfocusError, match=r"expected a mask for each of 3 pictures, got none for 1: 02"):
        open_dataset(config, "train")
    with pytest.raises(SegfocusError, match=r"unknown split 'hold_out'.*did you mean holdout"):
        open_dataset(config, "hold_out")


def test_one_recording_cannot_be_divided(tmp_path):
    write_split(tmp_path, "train", ["7-1", "7-2"])
    with pytest.raises(SegfocusError, match=r"several recordings to hold some out, got one; try .*train_split train"):
        open_dataset(DataConfig(name="deepcrack", root=str(tmp_path)), "fit")
