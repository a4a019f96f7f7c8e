import pytest
import torch

from segfocus.errors import SegfocusError
from segfocus.inference.sliding import sliding_window

CASES = [
    ((1, 3, 20, 30), (8, 8), None),
    ((2, 3, 23, 31), (10, 12), (3, 5)),
    ((1, 1, 17, 9), (8, 20), (8, 7)),  # wider than the picture
    ((1, 2, 5, 6), (64, 64), None),  # the whole picture fits
    ((1, 3, 16, 16), (8, 8), (8, 8)),  # no overlap
    ((1, 3, 9, 11), (1, 1), (1, 1)),
    ((1, 3, 1, 1), (4, 4), (2, 2)),
]


@pytest.mark.parametrize("blend", ["linear", "constant"])
@pytest.mark.parametrize(("shape", "window", "stride"), CASES)
def test_identity_comes_back_bit_for_bit(shape, window, stride, blend):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 100 - 50
    assert torch.equal(sliding_window(lambda part: part, image, window, stride, blend), image)


@pytest.mark.parametrize("blend", ["linear", "constant"])
def test_equals_the_weighted_mean_written_out(blend):
    image = torch.rand(1, 1, 13, 18, dtype=torch.float64)
    window, stride = (6, 7), (4, 3)
    calls = []

    def position_dependent(part):
        calls.append(part.shape)
        return part + torch.linspace(0, 1, part.shape[-1], dtype=torch.float64) * len(calls)

    found = sliding_window(position_dependent, image, window, stride, blend)
    tops, lefts = [0, 4, 7], [0, 3, 6, 9, 11]
    assert len(calls) == len(tops) * len(lefts)
    assert set(calls) == {(1, 1, 6, 7)}
    total, weights = torch.zeros(13, 18).double(), torch.zeros(13, 18).double()
    tents = torch.tensor([1, 2, 3, 3, 2, 1.0]) / 3, torch.tensor([1, 2, 3, 4, 3, 2, 1.0]) / 4
    weight = torch.outer(*tents) if blend == "linear" else torch.ones(6, 7)
    number = 0
    for top in tops:
        for left in lefts:
            number += 1
            part = image[0, 0, top : top + 6, left : left + 7]
            total[top : top + 6, left : left + 7] += weight * (part + torch.linspace(0, 1, 7).double() * number)
            weights[top : top + 6, left : left + 7] += weight
    torch.testing.assert_close(found[0, 0], total / weights, rtol=1e-5, atol=1e-6)


def test_probabilities_stay_probabilities():
    image = torch.rand(1, 3, 30, 40)
    noisy = torch.nn.Conv2d(3, 5, 3, padding=1)  # answers depend on where the window ends
    with torch.no_grad():
        found = sliding_window(lambda part: noisy(part).softmax(1), image, (12, 12), (5, 7))
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(1), torch.ones(1, 30, 40))


def test_low_precision_is_averaged_in_float32():
    found = sliding_window(lambda part: part.bfloat16(), torch.rand(1, 1, 9, 9), (4, 4))
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("window", "stride", "blend", "words"),
    [
        ((0, 4), None, "linear", "window: expected height and width"),
        ((4,), None, "linear", "window: expected height and width"),
        ((4, 4), (0, 2), "linear", "stride: expected two steps"),
        ((4, 4), (2, 5), "linear", "stride: expected two steps .* 4x4"),
        ((4, 4), None, "gauss", "blend: expected linear or constant, got 'gauss'"),
    ],
)
def test_refuses(window, stride, blend, words):
    # called without the type checks of the suite, which would refuse the wrong blend first
    plain = getattr(sliding_window, "__wrapped__", sliding_window)
    with pytest.raises(SegfocusError, match=words):
        plain(lambda part: part, torch.rand(1, 1, 9, 9), window, stride, blend)


def test_refuses_a_callable_that_changes_the_size():
    with pytest.raises(SegfocusError, match="window's size 4x4, got \\(1, 1, 2, 2\\)"):
        sliding_window(lambda part: part[..., ::2, ::2], torch.rand(1, 1, 9, 9), (4, 4))
