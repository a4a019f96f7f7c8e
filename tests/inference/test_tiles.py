import itertools

import numpy as np
import pytest
import torch

from segfocus.errors import SegfocusError
from segfocus.inference.tiles import check_tiles, refine_array, refine_tiled

CASES = [
    ((20, 30), (8, 8), None, 4),
    ((23, 31), (12, 8), (4, 8), 4),
    ((17, 9), (8, 24), (8, 16), 8),  # narrower than the window
    ((5, 6), (64, 64), None, 16),  # smaller than one patch
    ((16, 16), (8, 8), (8, 8), 8),  # no overlap
    ((9, 11), (1, 1), (1, 1), 1),
    ((1, 1), (8, 8), None, 4),
    ((2, 41), (16, 16), (4, 12), 4),
    ((33, 19), None, None, 8),
]


def random_map(size, classes=2, seed=0):
    return np.random.default_rng(seed).random((classes, *size), dtype=np.float32)


def slow_mean(refine, maps, window, stride, grid, shifts):
    """The whole map, mirrored generously, tile by tile into full arrays: means of each pass, then of the passes."""
    height, width = maps.shape[1:]
    results = []
    for down, across in itertools.product((0, grid // 2) if shifts else (0,), repeat=2):
        tall, wide = height + down, width + across
        side = [
            min(window[0], -(-tall // grid) * grid) if window else tall,
            min(window[1], -(-wide // grid) * grid) if window else wide,
        ]
        room = max(side)
        padded = np.pad(maps, ((0, 0), (down, room), (across, room)), mode="symmetric").astype(np.float64)
        total, weights = np.zeros_like(padded), np.zeros(padded.shape[1:])
        weight = np.outer(*(1 - np.cos(2 * np.pi * (np.arange(length) + 0.5) / length) for length in side))
        top = 0
        while True:
            left = 0
            while True:
                part = (slice(top, top + side[0]), slice(left, left + side[1]))
                found = refine(torch.from_numpy(padded[:, *part].astype(np.float32))[None])[0].numpy()
                total[:, *part] += weight * found
                weights[part] += weight
                if left + side[1] >= wide:
                    break
                left += stride[1] if left + stride[1] + side[1] <= wide else -(-(wide - side[1]) // grid) * grid - left
            if top + side[0] >= tall:
                break
            top += stride[0] if top + stride[0] + side[0] <= tall else -(-(tall - side[0]) // grid) * grid - top
        inside = (slice(down, down + height), slice(across, across + width))
        results.append(total[:, *inside] / weights[inside])
    return np.mean(results, axis=0)


@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize(("size", "window", "stride", "grid"), CASES)
def test_identity_comes_back_bit_for_bit(size, window, stride, grid, shifts):
    maps = random_map(size, classes=3)
    found = refine_array(
        lambda tile, picture: tile, maps, window=window, stride=stride, grid=grid, shifts=shifts and grid > 1
    )
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, maps)


@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize(("size", "window", "stride", "grid"), CASES)
def test_equals_the_means_of_full_arrays(size, window, stride, grid, shifts):
    maps = random_map(size, seed=1)

    def by_place(tile, picture=None):
        """Depends on the place in the tile, on its neighbours and on the whole tile."""
        rows, columns = torch.arange(tile.shape[2])[:, None], torch.arange(tile.shape[3])
        return (tile + tile.roll(1, 2) * tile.roll(2, 3)) * (rows + 0.3 * columns) + tile.mean()

    filled = check_tiles(window, stride, grid)[1]
    expected = slow_mean(by_place, maps, window, filled, grid, shifts)
    found = refine_array(by_place, maps, window=window, stride=stride, grid=grid, shifts=shifts)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(("moved", "shifts"), [((0,), False), ((0, 4), True)])
def test_patches_are_those_of_the_whole_map(moved, shifts):
    """A refiner that sees patches alone gives the same in tiles as on the whole map."""
    maps = random_map((29, 50))

    def patch_mean(tile, picture=None):
        assert tile.shape[2] % 8 == tile.shape[3] % 8 == 0
        return torch.nn.functional.avg_pool2d(tile, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)

    expected = []
    for down, across in itertools.product(moved, moved):
        padded = np.pad(maps, ((0, 0), (down, 8), (across, 8)), mode="symmetric")
        padded = padded[:, : padded.shape[1] // 8 * 8, : padded.shape[2] // 8 * 8]
        whole = patch_mean(torch.from_numpy(padded.copy())[None])[0].numpy()
        expected.append(whole[:, down : down + 29, across : across + 50])
    for window, stride in (((8, 8), None), ((16, 24), (8, 16)), ((64, 64), None)):
        found = refine_array(patch_mean, maps, window=window, stride=stride, grid=8, shifts=shifts)
        np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-6)


def test_the_picture_is_cut_like_the_map():
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (21, 34, 3)).astype(np.uint8)
    maps = np.stack([picture[:, :, 0] / np.float32(255), picture[:, :, 2] / np.float32(255)])
    shapes = set()

    def compare(tile, look):
        shapes.add(tuple(look.shape))
        torch.testing.assert_close(look[:, [0, 2]], tile)
        return look

    found = refine_array(compare, maps, picture, window=(16, 8), grid=4, shifts=True)
    assert shapes == {(1, 3, 16, 8)}
    np.testing.assert_allclose(found, np.moveaxis(picture, 2, 0) / 255, rtol=1e-6)


def test_rows_are_read_and_written_in_bands():
    height, width = 100, 24
    maps = random_map((height, width))
    read_rows, written = [], []

    def read(rows, columns):
        assert (columns.start, columns.stop) == (0, width)
        read_rows.append((rows.start, rows.stop))
        return maps[:, rows, columns], None

    def write(rows, values):
        assert values.shape == (2, rows.stop - rows.start, width)
        written.append((rows, values))

    refine_tiled(lambda tile, _: tile * 0.5, read, (height, width), write, window=(16, 16), stride=(8, 8), grid=8)
    assert all(stop - start <= 16 for start, stop in read_rows)
    assert len(read_rows) == 12
    assert all(values.shape[1] <= 16 for _, values in written)
    assert [rows.start for rows, _ in written] == [0, *(rows.stop for rows, _ in written[:-1])]
    np.testing.assert_array_equal(np.concatenate([values for _, values in written], 1), maps * np.float32(0.5))


def test_low_precision_is_averaged_in_float32():
    found = refine_array(lambda tile, _: tile.bfloat16(), random_map((9, 9)), window=(4, 4))
    assert found.dtype == np.float32


def test_other_numbers_of_channels_come_out():
    maps = random_map((10, 11), classes=2)
    found = refine_array(lambda tile, _: tile[:, 1:], maps, window=(4, 4), stride=(3, 2))
    np.testing.assert_array_equal(found, maps[1:])


@pytest.mark.parametrize(
    ("window", "stride", "grid", "expected"),
    [
        (None, None, 64, (None, None)),
        ((512, 512), None, 64, ((512, 512), (384, 384))),
        ((64, 128), None, 64, ((64, 128), (64, 64))),
        ([10, 7], None, 1, ((10, 7), (7, 5))),
        ([32, 32], [16, 32], 16, ((32, 32), (16, 32))),
    ],
)
def test_strides_are_filled_in(window, stride, grid, expected):
    assert check_tiles(window, stride, grid) == expected


@pytest.mark.parametrize(
    ("window", "stride", "grid", "words"),
    [
        ((500, 512), None, 64, r"window: .* multiples of 64 px .*, got \[500, 512\]; try 512x512"),
        ((0, 4), None, 1, r"window: expected .* whole numbers from 1 px, got \[0, 4\]; try 1x4"),
        ((4,), None, 1, "window: expected"),
        ((64, 64), (32, 64), 64, r"stride: .* multiples of 64 px .*64x64, got \[32, 64\]; try 64x64"),
        ((64, 64), (128, 64), 64, "stride: expected two steps"),
        (None, (4, 4), 1, "stride: expected a window with it"),
        ((4, 4), None, 0, "grid: expected a side"),
    ],
)
def test_refuses_tiles(window, stride, grid, words):
    with pytest.raises(SegfocusError, match=words) as caught:
        check_tiles(window, stride, grid)
    assert "\n" not in str(caught.value)


def test_refuses_maps_and_callables_of_another_size():
    maps = random_map((9, 9))
    with pytest.raises(SegfocusError, match=r"tile's size 4x4, got \(1, 2, 2, 2\)"):
        refine_array(lambda tile, _: tile[..., ::2, ::2], maps, window=(4, 4))
    with pytest.raises(SegfocusError, match="picture of the map's size 9x9, got 9x8"):
        refine_array(lambda tile, _: tile, maps, np.zeros((9, 8, 3), np.uint8), window=(4, 4))
    with pytest.raises(SegfocusError, match="at least 1x1 px, got 0x9"):
        refine_array(lambda tile, _: tile, maps[:, :0], window=(4, 4))
    with pytest.raises(SegfocusError, match="expected 4x9 px from read, got 2x9"):
        refine_tiled(
            lambda tile, _: tile, lambda rows, columns: (maps[:, :2], None), (9, 9), print, window=(4, 4), stride=(4, 4)
        )
