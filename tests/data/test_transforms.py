import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from segfocus.data.transforms import (
    PAD_COLOR,
    PhotometricJitter,
    RandomScaledCrop,
    evaluation_transform,
    jitter_matrix,
    largest_share,
    training_transform,
)
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig


def coordinates(height, width):
    """A picture whose red and green are its row and column, and a mask that is their sum (below 255)."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    picture = np.stack([rows, columns, np.full_like(rows, 77)])
    return tv_tensors.Image(torch.from_numpy(picture)), tv_tensors.Mask(torch.from_numpy(rows + columns))


def test_without_scaling_a_crop_is_a_window_of_both():
    image, mask = coordinates(40, 50)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        picture, labels = RandomScaledCrop([16, 24], [1.0, 1.0])(image, mask)
        top, left = int(picture[0, 0, 0]), int(picture[1, 0, 0])
        assert torch.equal(picture, image[:, top : top + 16, left : left + 24])
        assert torch.equal(labels, mask[top : top + 16, left : left + 24])
        seen.add((top, left))
    assert len(seen) > 30


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.7, 2.0])
def test_the_window_is_resized_as_the_whole_picture_would_be(scale):
    torch.manual_seed(0)
    noise = tv_tensors.Image(torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.randint(0, 5, (20, 30), dtype=torch.uint8))
    size = [round(20 * scale), round(30 * scale)]
    picture, labels = RandomScaledCrop(size, [scale, scale])(noise, mask)
    expected = F.interpolate(noise[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    assert (picture.float() - expected).abs().max() < 1.1  # 8-bit arithmetic
    nearest = F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0]
    assert torch.equal(labels.float(), nearest.as_subclass(torch.Tensor))


def test_picture_and_mask_stay_aligned():
    columns = torch.arange(64) // 8 % 2
    stripes = columns.repeat(64, 1).to(torch.uint8)
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = tv_tensors.Image((stripes * 255).repeat(3, 1, 1)), tv_tensors.Mask(stripes)
        picture, labels = RandomScaledCrop([48, 48], [0.5, 2.0])(image, mask)
        inside = labels != 255
        agree = (picture[0] > 127)[inside] == (labels == 1)[inside]
        assert agree.float().mean() > 0.94  # a stripe's edge may fall on a pixel's middle


def test_a_small_picture_is_padded():
    image, mask = coordinates(6, 40)
    for seed in range(10):
        torch.manual_seed(seed)
        picture, labels = RandomScaledCrop([16, 24], [1.0, 1.0])(image, mask)
        outside = labels == 255
        assert int((~outside).sum()) == 6 * 24
        assert torch.equal(picture[:, outside], torch.tensor(PAD_COLOR)[:, None].expand(3, 16 * 24 - 6 * 24).byte())
        assert torch.equal((picture[0] + picture[1])[~outside], labels[~outside].as_subclass(torch.Tensor))


def test_one_class_rarely_fills_a_crop():
    labels = np.zeros((40, 200), np.uint8)
    labels[:, 120:] = np.arange(80) % 4
    image, mask = (
        tv_tensors.Image(torch.zeros(3, 40, 200, dtype=torch.uint8)),
        tv_tensors.Mask(torch.from_numpy(labels)),
    )

    def filled(share: float) -> int:
        torch.manual_seed(0)
        crop = RandomScaledCrop([20, 20], [1.0, 1.0], share)
        return sum(largest_share(crop(image, mask)[1].numpy()) > 0.75 for _ in range(100))

    assert filled(1.0) > 40
    assert filled(0.75) <= 5


def test_largest_share_against_counting():
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (30, 30), p=[0.5, 0.2, 0.1, 0.2]).astype(np.uint8)
    counts = [int((labels == train_id).sum()) for train_id in range(3)]
    assert largest_share(labels) == pytest.approx(max(counts) / sum(counts))
    assert largest_share(np.full((3, 3), 255, np.uint8)) > 1


def test_jitter_against_torchvision():
    torch.manual_seed(0)
    image = torch.randint(90, 150, (3, 20, 30), dtype=torch.uint8)  # the middle, where nothing is clipped
    brightness, contrast, saturation = 0.9, 1.2, 0.7
    expected = functional.adjust_brightness(image.float() / 255, brightness)
    expected = functional.adjust_saturation(functional.adjust_contrast(expected, contrast), saturation)
    pixels = image.permute(1, 2, 0).numpy()
    matrix = jitter_matrix(pixels, brightness, contrast, saturation)
    got = pixels.astype(np.float32) @ matrix[:, :3].T + matrix[:, 3]
    np.testing.assert_allclose(got, expected.permute(1, 2, 0).numpy() * 255, atol=0.1)


def test_jitter_changes_the_picture_only():
    image, mask = coordinates(20, 30)
    torch.manual_seed(0)
    picture, labels = PhotometricJitter(0.4)(image, mask)
    assert picture.dtype == torch.uint8
    assert not torch.equal(picture, image)
    assert torch.equal(labels, mask)
    same, _ = PhotometricJitter(0.0)(image, mask)
    assert torch.equal(same, image)


def test_chains():
    image, mask = coordinates(20, 30)
    picture, labels = evaluation_transform()(image, mask)
    assert torch.allclose(picture, image.float() / 255)
    assert torch.equal(labels, mask)
    picture, labels = training_transform(DataConfig())(image, mask)  # no crop: the picture's own size
    assert picture.shape == (3, 20, 30)
    assert labels.shape == (20, 30)
    plain = training_transform(DataConfig(flip=False, jitter=0.0))(image, mask)
    assert torch.allclose(plain[0], image.float() / 255)
    picture, labels = training_transform(DataConfig(crop=[5, 7]))(image, mask)
    assert picture.shape == (3, 5, 7)
    assert labels.shape == (5, 7)
    assert 0 <= picture.min() <= picture.max() <= 1


def test_mirroring_moves_both():
    image, mask = coordinates(4, 6)
    mirrored = 0
    for seed in range(20):
        torch.manual_seed(seed)
        picture, labels = training_transform(DataConfig(jitter=0.0))(image, mask)
        flipped = bool(picture[1, 0, 0] > 0)
        mirrored += flipped
        assert torch.equal(labels, mask.flip(-1) if flipped else mask)
    assert 4 < mirrored < 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": [5]}, "data.crop"),
        ({"crop": [0, 5]}, "data.crop"),
        ({"crop": [5, 5], "scale": [2.0, 0.5]}, "data.scale"),
        ({"crop": [5, 5], "scale": [1.0]}, "data.scale"),
        ({"crop": [5, 5], "max_class_share": 0.0}, "data.max_class_share"),
        ({"jitter": 1.5}, "data.jitter"),
    ],
)
def test_settings_out_of_range(changes, words):
    with pytest.raises(SegfocusError, match=f"{words}: expected"):
        training_transform(DataConfig(**changes))
