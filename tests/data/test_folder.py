import hashlib
import logging

import numpy as np
import pytest
from PIL import Image

from segfocus.data import dataset_classes, open_dataset
from segfocus.data.folder import names_held_out
from segfocus.data.pairs import pair_folders
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig


def write_pairs(root, count=6, values=(0, 1, 255), size=(8, 10), subfolder="city"):
    """images/city/NN.jpg and masks/city/NN.png with the given mask values; the config that names them."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder / subfolder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(picture).save(root / "images" / subfolder / f"{index:02d}.jpg")
        mask = rng.choice(values, size).astype(np.uint8)
        mask.flat[: len(values)] = values
        Image.fromarray(mask).save(root / "masks" / subfolder / f"{index:02d}.png")
    return DataConfig(images=str(root / "images"), masks=str(root / "masks"))


def test_pairs_by_relative_path_without_extension(tmp_path):
    config = write_pairs(tmp_path)
    dataset = open_dataset(config, "all")
    assert [pair.name for pair in dataset.pairs] == [f"city/{index:02d}" for index in range(6)]
    assert dataset.pairs[0].mask == tmp_path / "masks/city/00.png"
    picture, labels = dataset.read(0)
    assert picture.shape == (8, 10, 3)
    assert set(np.unique(labels)) == {0, 1, 255}


def test_integer_masks_without_a_classes_file(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "segfocus"):
        classes = dataset_classes(write_pairs(tmp_path, values=(0, 3, 7, 255)))
    assert classes.names == ("class_0", "class_3", "class_7")
    assert classes.raw == ((0,), (3,), (7,))
    assert classes.ignore == (255,)
    assert "8-bit masks hold the classes 0, 3, 7; 255 is ignored" in caplog.text


def test_masks_of_0_and_255(tmp_path, caplog):
    config = write_pairs(tmp_path, values=(0, 255))
    classes = dataset_classes(config)
    assert classes.names == ("background", "foreground")
    assert "masks hold only 0 and 255: 255 is read as class foreground" in caplog.text
    assert set(np.unique(open_dataset(config, "train").read(0)[1])) == {0, 1}


def test_a_classes_file_rules(tmp_path, caplog):
    config = write_pairs(tmp_path, values=(0, 255))
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {0: road, 1: {name: crack, raw: [255]}}")
    config.classes = str(path)
    with caplog.at_level(logging.INFO, "segfocus"):
        dataset = open_dataset(config, "train")
    assert dataset.classes.names == ("road", "crack")
    assert set(np.unique(dataset.read(0)[1])) == {0, 1}
    assert "8-bit masks, their values are read through" in caplog.text


def test_an_unmapped_value_names_its_file(tmp_path):
    config = write_pairs(tmp_path, values=(0, 1, 9))
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {0: a, 1: b}")
    config.classes = str(path)
    with pytest.raises(SegfocusError, match=r"masks/city/00.png: .*value 9"):
        _ = open_dataset(config, "all")[0]


def test_rgb_and_palette_masks(tmp_path, caplog):
    colors = np.array([[0, 0, 0], [200, 10, 10]], np.uint8)
    config = write_pairs(tmp_path, count=2)
    indices = np.arange(80).reshape(8, 10) % 2
    Image.fromarray(colors[indices]).save(tmp_path / "masks/city/00.png")
    palette = Image.new("P", (10, 8))
    palette.putpalette(colors.ravel().tolist())
    palette.putdata(indices.ravel().tolist())
    palette.save(tmp_path / "masks/city/01.png")
    with pytest.raises(SegfocusError, match=r"got an RGB mask \(colours such as .*200, 10, 10.*--data.classes FILE"):
        dataset_classes(config)
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {0: {name: a, raw: [[0, 0, 0]]}, 1: {name: b, raw: [[200, 10, 10]]}}")
    config.classes = str(path)
    with caplog.at_level(logging.INFO, "segfocus"):
        dataset = open_dataset(config, "all")
    assert "RGB masks, their colours are read through" in caplog.text
    for index in range(2):
        np.testing.assert_array_equal(dataset.read(index)[1], indices)


def test_palette_masks_without_a_classes_file_are_indices(tmp_path, caplog):
    config = write_pairs(tmp_path, count=2)
    for path in (tmp_path / "masks/city").iterdir():
        image = Image.new("P", (10, 8))
        image.putpalette([9, 9, 9, 50, 60, 70])
        image.putdata([0, 1] * 40)
        image.save(path)
    with caplog.at_level(logging.INFO, "segfocus"):
        assert dataset_classes(config).names == ("class_0", "class_1")
    assert "palette masks hold the classes 0, 1" in caplog.text


@pytest.mark.parametrize(("values", "words"), [((0,), "only the value 0"), ((255,), "only the value 255")])
def test_fewer_than_two_classes(tmp_path, values, words):
    with pytest.raises(SegfocusError, match=f"at least two classes, got {words}"):
        dataset_classes(write_pairs(tmp_path, values=values))


def test_lossy_masks_are_refused(tmp_path):
    config = write_pairs(tmp_path, count=2)
    (tmp_path / "masks/city/00.png").unlink()
    ids = np.arange(600).astype(np.uint16).reshape(20, 30)
    Image.fromarray(ids).save(tmp_path / "masks/city/00.png")
    with pytest.raises(SegfocusError, match="at most 254 mask values"):
        dataset_classes(config)


def test_held_out_share_is_fixed_and_disjoint(tmp_path):
    config = write_pairs(tmp_path, count=20)
    config.val_share = 0.25
    train, val = ([pair.name for pair in open_dataset(config, split).pairs] for split in ("train", "val"))
    assert sorted(train + val) == [f"city/{index:02d}" for index in range(20)]
    assert len(val) == 6
    assert not set(train) & set(val)
    assert [pair.name for pair in open_dataset(config, "val", seed=7).pairs] == val


@pytest.mark.parametrize("share", [0.05, 0.15, 0.5])
def test_a_picture_keeps_its_side_as_others_are_added(share):
    names = [f"day_{number // 50}/frame_{number:05d}" for number in range(400)]
    whole = names_held_out(names, share)
    assert abs(len(whole) / 400 - share) < 0.06
    for count in (60, 61, 100, 399):
        assert names_held_out(names[:count], share) == whole & set(names[:count])
    assert names_held_out(names[::-1], share) == whole


def test_each_side_gets_a_pair_where_the_threshold_leaves_none():
    def place(name):
        return hashlib.sha256(name.encode()).digest()

    names = ["a", "b", "c"]
    assert names_held_out(names, 1e-9) == {min(names, key=place)}
    assert names_held_out(names, 1 - 1e-9) == set(names) - {max(names, key=place)}


def test_validation_folders_of_their_own(tmp_path):
    config = write_pairs(tmp_path, count=3)
    other = write_pairs(tmp_path / "other", count=2, values=(0, 5))
    config.val_images, config.val_masks = other.images, other.masks
    assert [len(open_dataset(config, split)) for split in ("train", "val", "all")] == [3, 2, 3]
    assert dataset_classes(config).names == ("class_0", "class_1", "class_5")
    config.val_masks = None
    with pytest.raises(SegfocusError, match=r"expected data.val_masks beside"):
        open_dataset(config, "val")
    config.val_images, config.val_masks = None, other.masks
    with pytest.raises(SegfocusError, match=r"expected data.val_images beside"):
        open_dataset(config, "val")


def test_pictures_without_a_mask_are_listed(tmp_path):
    config = write_pairs(tmp_path, count=9)
    for index in range(7):
        (tmp_path / f"masks/city/{index:02d}.png").unlink()
    with pytest.raises(SegfocusError, match=r"none for 7: city/00, city/01, .*city/04 and 2 more"):
        open_dataset(config, "all")


def test_masks_without_a_picture_are_left_out_and_said(tmp_path, caplog):
    config = write_pairs(tmp_path, count=3)
    (tmp_path / "images/city/01.jpg").unlink()
    assert len(open_dataset(config, "all")) == 2
    assert "1 masks have no picture and are left out: city/01" in caplog.text


@pytest.mark.parametrize("change", ["no masks", "other names", "no pictures", "missing folder", "twins"])
def test_nothing_to_pair(tmp_path, change):
    config = write_pairs(tmp_path, count=2)
    words = "no pairs"
    if change in ("no masks", "other names"):
        for path in (tmp_path / "masks/city").iterdir():
            path.rename(path.with_name(f"{path.stem}_mask.png")) if change == "other names" else path.unlink()
    elif change == "no pictures":
        for path in (tmp_path / "images/city").iterdir():
            path.unlink()
        words = "expected pictures"
    elif change == "missing folder":
        config.masks = str(tmp_path / "elsewhere")
        words = "elsewhere: expected a folder"
    else:
        Image.new("RGB", (10, 8)).save(tmp_path / "images/city/00.png")
        words = "one file called 'city/00'"
    with pytest.raises(SegfocusError, match=words):
        pair_folders(config.images or "", config.masks or "")


def test_missing_settings(tmp_path):
    config = write_pairs(tmp_path, count=1)
    with pytest.raises(SegfocusError, match="at least two pairs"):
        open_dataset(config, "train")
    config.val_share = 1.0
    with pytest.raises(SegfocusError, match=r"data.val_share: expected a share"):
        open_dataset(config, "train")
    with pytest.raises(SegfocusError, match=r"got no data.images"):
        open_dataset(DataConfig(), "train")
    with pytest.raises(SegfocusError, match=r"got no data.masks"):
        open_dataset(DataConfig(images=str(tmp_path)), "train")


def test_unknown_names():
    with pytest.raises(SegfocusError, match="unknown dataset 'foldr'; did you mean folder"):
        open_dataset(DataConfig(name="foldr"), "train")
    with pytest.raises(SegfocusError, match="unknown split 'vall' of dataset 'folder'; did you mean val"):
        open_dataset(DataConfig(), "vall")
