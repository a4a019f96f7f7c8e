import numpy as np
import pytest
import torch
from PIL import Image

from segfocus.data import open_dataset
from segfocus.data.classes import Classes
from segfocus.data.dataset import Pair, SegmentationDataset, sample_seed
from segfocus.data.transforms import training_transform
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from tests.data.test_folder import write_pairs

CONFIG = DataConfig(crop=[8, 8])


def test_a_sample(tmp_path):
    dataset = open_dataset(write_pairs(tmp_path), "all")
    sample = dataset[1]
    picture, labels = dataset.read(1)
    assert sample["name"] == "city/01"
    assert (sample["image"].dtype, sample["target"].dtype) == (torch.float32, torch.int64)
    assert type(sample["image"]) is torch.Tensor
    assert type(sample["target"]) is torch.Tensor
    np.testing.assert_allclose(sample["image"].permute(1, 2, 0).numpy(), picture / 255, atol=1e-6)
    np.testing.assert_array_equal(sample["target"].numpy(), labels)
    assert dataset.size(1) == (8, 10)
    assert dataset.one_size()
    with pytest.raises(IndexError):
        _ = dataset[6]


def test_randomness_is_a_function_of_seed_epoch_and_index(tmp_path):
    config = write_pairs(tmp_path, size=(24, 24))
    first = open_dataset(config, "all", training_transform(CONFIG), seed=3)
    again = open_dataset(config, "all", training_transform(CONFIG), seed=3)
    _ = [again[(9, index)] for index in range(3)]  # what was drawn before does not matter
    torch.manual_seed(5)
    for key in ((0, 0), (1, 4), (7, 2)):
        torch.testing.assert_close(first[key]["image"], again[key]["image"], rtol=0, atol=0)
        assert torch.equal(first[key]["target"], again[key]["target"])
    assert torch.equal(first[2]["image"], first[(0, 2)]["image"])
    assert torch.equal(first[-1]["image"], first[5]["image"])
    assert not torch.equal(first[(0, 2)]["image"], first[(1, 2)]["image"])
    other = open_dataset(config, "all", training_transform(CONFIG), seed=4)
    assert not torch.equal(first[(0, 2)]["image"], other[(0, 2)]["image"])


def test_the_caller_s_random_state_stays(tmp_path):
    dataset = open_dataset(write_pairs(tmp_path), "all", training_transform(CONFIG))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    _ = dataset[(2, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_sample_seeds_differ():
    seeds = {sample_seed(seed, epoch, index) for seed in range(5) for epoch in range(20) for index in range(20)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_size_mismatch_names_both_files(tmp_path):
    config = write_pairs(tmp_path)
    Image.new("L", (10, 9)).save(tmp_path / "masks/city/03.png")
    with pytest.raises(SegfocusError, match=r"masks/city/03.png: .*images/city/03.jpg, 8x10 .*got 9x10"):
        open_dataset(config, "all").read(3)


def test_a_pair_without_a_mask_is_all_ignored(tmp_path):
    write_pairs(tmp_path, count=1)
    pair = Pair(tmp_path / "images/city/00.jpg", None, "00")
    dataset = SegmentationDataset([pair], Classes.of(["a", "b"]))
    assert (dataset[0]["target"] == 255).all()
    assert dataset.pixel_counts().tolist() == [0, 0]


def test_all_ignored_masks_survive_training_transforms(tmp_path):
    config = write_pairs(tmp_path, count=2)
    Image.fromarray(np.full((8, 10), 255, np.uint8)).save(tmp_path / "masks/city/00.png")
    sample = open_dataset(config, "all", training_transform(CONFIG))[0]
    assert (sample["target"] == 255).all()
    assert torch.isfinite(sample["image"]).all()


def test_exif_rotated_picture_with_an_upright_mask(tmp_path):
    config = write_pairs(tmp_path, count=2, size=(10, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 8)).save(tmp_path / "images/city/00.jpg", exif=exif)
    dataset = open_dataset(config, "all")
    assert dataset.read(0)[0].shape == (10, 8, 3)
    assert dataset.size(0) == (10, 8)


def test_pixel_counts_against_a_loop(tmp_path):
    dataset = open_dataset(write_pairs(tmp_path, values=(0, 1, 2, 255)), "all")
    expected = [sum(int((dataset.read(index)[1] == train_id).sum()) for index in range(6)) for train_id in range(3)]
    assert dataset.pixel_counts().tolist() == expected


def test_too_many_pixels(tmp_path):
    config = write_pairs(tmp_path)
    config.max_pixels = 79
    with pytest.raises(SegfocusError, match="at most 79 pixels, got 80"):
        open_dataset(config, "all", classes=Classes.of(["a", "b"])).read(0)
