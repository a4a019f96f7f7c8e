"""The reader of maps: pairing, splits, augmentation of map, mask and picture alike, bad files."""

import cv2
import numpy as np
import pytest
import torch

from segfocus.data import dataset_classes, open_dataset
from segfocus.data.classes import IGNORE
from segfocus.data.maps import MapsDataset, MapTransform, grey_rendering, resized
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from tests.data.map_folders import blobs, shifted_map, write_map_folders


def config(folders, **changes) -> DataConfig:
    maps, masks, images = map(str, folders)
    values = {"name": "maps", "maps": maps, "masks": masks, "images": images, "scale": [1.0, 1.0], "jitter": 0.0}
    return DataConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_map_folders(tmp_path_factory.mktemp("maps"))


def test_samples_hold_the_map_the_mask_and_the_picture(folders):
    dataset = open_dataset(config(folders), "all")
    sample = dataset[2]
    assert dataset.classes.names == ("background", "foreground")
    assert sample["name"] == "p2"
    expected = shifted_map(blobs(2), 2)
    np.testing.assert_allclose(sample["probabilities"].numpy(), np.stack([1 - expected, expected]), atol=1e-6)
    assert torch.equal(sample["target"], torch.from_numpy(blobs(2)).long())
    np.testing.assert_allclose(sample["image"][0].numpy() * 255, 60 + 120 * blobs(2), atol=1e-3)
    assert dataset.size(2) == (96, 128)


def test_without_pictures_the_map_is_shown_in_grey(folders):
    dataset = open_dataset(config(folders, images=None), "all")
    picture, target = dataset.read(1)
    assert np.array_equal(target, blobs(1))
    assert np.array_equal(picture, grey_rendering(dataset.read_map(1)))
    assert np.array_equal(picture[:, :, 1], (shifted_map(blobs(1), 1) * 255).round().astype(np.uint8))


def test_a_share_is_held_out_by_names(folders):
    names = {split: {pair.name for pair in open_dataset(config(folders, val_share=0.3), split).pairs} for split in
             ("train", "val", "all")}  # fmt: skip
    assert names["train"] | names["val"] == names["all"] == {f"p{index}" for index in range(6)}
    assert names["train"]
    assert names["val"]
    assert not names["train"] & names["val"]


def test_masks_of_other_pictures_are_left_out_and_missing_ones_listed(tmp_path):
    folders = write_map_folders(tmp_path / "a", 3)
    cv2.imwrite(str(folders[1] / "more.png"), blobs(9) * 255)
    assert len(open_dataset(config(folders), "all")) == 3
    (folders[1] / "p1.png").unlink()
    with pytest.raises(SegfocusError, match=r"--masks .*expected a file for each of 3 maps, got none for 1: p1"):
        open_dataset(config(folders), "all")
    (folders[2] / "p0.png").unlink()
    cv2.imwrite(str(folders[1] / "p1.png"), blobs(1) * 255)
    with pytest.raises(SegfocusError, match=r"--images .*expected a file for each of 3 maps, got none for 1: p0"):
        open_dataset(config(folders), "all")


@pytest.mark.parametrize(("missing", "option"), [("maps", "data.maps"), ("masks", "data.masks")])
def test_folders_must_be_given(folders, missing, option):
    with pytest.raises(SegfocusError, match=f"got no {option}; try --{option} FOLDER"):
        open_dataset(config(folders, **{missing: None}), "all")


def test_sizes_that_differ_are_refused(tmp_path):
    folders = write_map_folders(tmp_path / "a", 3)
    cv2.imwrite(str(folders[1] / "p1.png"), blobs(1, (50, 128)) * 255)
    dataset = open_dataset(config(folders), "all")
    with pytest.raises(SegfocusError, match=r"p1.png: expected the size of its map .*p1.npy, 96x128 .*got 50x128"):
        dataset[1]
    cv2.imwrite(str(folders[2] / "p2.png"), np.zeros((96, 60, 3), np.uint8))
    with pytest.raises(SegfocusError, match=r"images.*p2.png: expected the size of its map .*got 96x60"):
        dataset[2]
    with pytest.raises(SegfocusError, match="expected at most 100 pixels, got 128x96"):
        MapsDataset(dataset.pairs, dataset.classes, max_pixels=100).read_map(0)


@pytest.mark.parametrize("turn", [False, True])
def test_map_mask_and_picture_move_together(folders, turn):
    """A map that says where each pixel was: each of the three gives the same place."""
    settings = config(folders, crop=[64, 64], turn=turn)
    place = torch.arange(96 * 128, dtype=torch.float32).reshape(96, 128) / (96 * 128)
    target = (torch.arange(96 * 128).reshape(96, 128) % 251).to(torch.uint8)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        image = target[None].repeat(3, 1, 1)
        probabilities, picture, mask = MapTransform(settings)(torch.stack([1 - place, place]), image, target)
        index = (probabilities[1] * 96 * 128).round().long()
        assert torch.equal(index % 251, mask.long())
        assert torch.equal(picture[0], mask)
        steps = (int(index[0, 1] - index[0, 0]), int(index[1, 0] - index[0, 0]))
        seen.add(steps)
    straight = {(1, 128), (-1, 128)}
    turned = {(across, down) for across in (1, -1) for down in (128, -128)}
    assert seen == (turned | {(b, a) for a, b in turned} if turn else straight)


def test_a_map_smaller_than_the_crop_goes_on_mirrored_with_void(folders):
    settings = config(folders, crop=[6, 4], flip=False)
    values = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    probabilities, _, mask = MapTransform(settings)(
        torch.stack([1 - values, values]), torch.zeros(3, 2, 3, dtype=torch.uint8), torch.ones(2, 3, dtype=torch.uint8)
    )
    rows, columns = [0, 1, 1, 0, 0, 1], [0, 1, 2, 2]
    assert torch.equal(probabilities[1], values[rows][:, columns])
    expected = torch.full((6, 4), IGNORE, dtype=torch.uint8)
    expected[:2, :3] = 1
    assert torch.equal(mask, expected)


def test_resizing_takes_means_of_areas_and_half_of_them_for_a_label():
    probabilities = torch.arange(16, dtype=torch.float32).reshape(1, 4, 4).repeat(2, 1, 1) / 16
    target = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1], [255, 255, 0, 0], [255, 255, 0, 0]], dtype=torch.uint8)
    values, picture, mask = resized(probabilities, torch.zeros(3, 4, 4, dtype=torch.uint8), target, (2, 2))
    assert torch.allclose(values[1] * 16, torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    assert mask.tolist() == [[1, 0], [255, 0]]
    assert picture.shape == (3, 2, 2)


def test_other_scales_and_bad_sizes_are_refused(folders):
    with pytest.raises(SegfocusError, match=r"data.scale: expected 1 1 for maps"):
        MapTransform(config(folders, scale=[0.5, 2.0]))
    with pytest.raises(SegfocusError, match=r"data.crop: expected height and width in pixels, got \[5\]"):
        MapTransform(config(folders, crop=[5]))


def test_a_sample_depends_on_seed_and_epoch_alone(folders):
    settings = config(folders, crop=[32, 32], turn=True, jitter=0.4)
    first, second = (open_dataset(settings, "all", lambda *parts: parts, seed) for seed in (3, 3))
    torch.manual_seed(1)
    one = first[2, 4]
    torch.manual_seed(2)
    assert all(torch.equal(value, second[2, 4][key]) for key, value in one.items() if key != "name")
    assert not torch.equal(one["probabilities"], second[3, 4]["probabilities"])


def test_logits_are_read_where_they_are_said_to_be(tmp_path):
    folders = write_map_folders(tmp_path / "a", 2)
    value = shifted_map(blobs(0), 0)
    np.save(folders[0] / "p0.npy", np.log(value / (1 - value)))
    read = open_dataset(config(folders, logits=True), "all").read_map(0)
    np.testing.assert_allclose(read[1], value, atol=1e-5)
    with pytest.raises(SegfocusError, match=r"p0\.npy"):
        open_dataset(config(folders), "all").read_map(0)


def test_classes_come_from_the_masks_or_a_classes_file(folders):
    assert dataset_classes(config(folders)).names == ("background", "foreground")
    named = dataset_classes(config(folders, classes="camvid"))
    assert named.num_classes == 11
