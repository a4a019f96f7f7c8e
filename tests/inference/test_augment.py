import pytest
import torch
from torch.nn import functional

from segfocus.errors import SegfocusError
from segfocus.inference.augment import test_time_augmentation as augment


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("flip", [False, True])
def test_identity_comes_back_bit_for_bit(scales, flip):
    image = torch.rand(2, 3, 11, 17)
    assert torch.equal(augment(lambda view: view, image, scales, flip), image)


def test_scales_keep_a_constant_and_the_size():
    image = torch.full((1, 4, 10, 13), 0.25)
    sizes = []

    def predict(view):
        sizes.append(tuple(view.shape[-2:]))
        return view

    found = augment(predict, image, (0.5, 1.0, 1.25, 0.01), flip=True)
    torch.testing.assert_close(found, image, rtol=0, atol=1e-6)
    assert sizes == [(5, 6), (5, 6), (10, 13), (10, 13), (12, 16), (12, 16), (1, 1), (1, 1)]


def test_equals_the_mean_written_out():
    convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
    image = torch.rand(1, 3, 12, 15)

    def predict(view):
        return convolution(view).softmax(1)

    with torch.no_grad():
        found = augment(predict, image, (1.0, 2.0), flip=True)
        large = functional.interpolate(image, size=(24, 30), mode="bilinear", align_corners=False)
        views = [predict(image), predict(image.flip(3)).flip(3)]
        for view in (predict(large), predict(large.flip(3)).flip(3)):
            views.append(functional.interpolate(view, size=(12, 15), mode="bilinear", align_corners=False))
    torch.testing.assert_close(found, torch.stack(views).mean(0))
    torch.testing.assert_close(found.sum(1), torch.ones(1, 12, 15))


def test_the_mirrored_view_is_mirrored_back():
    image = torch.rand(1, 1, 4, 6)
    left = torch.zeros(6)
    left[0] = 1  # marks the view's first column: the last one of the mirrored picture
    found = augment(lambda view: view * 0 + left, image, flip=True)
    assert found[0, 0, 0].tolist() == [0.5, 0, 0, 0, 0, 0.5]


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (float("nan"),), (float("inf"),)])
def test_refuses_scales(scales):
    with pytest.raises(SegfocusError, match="scales: expected numbers above 0"):
        augment(lambda view: view, torch.rand(1, 1, 4, 4), scales)
