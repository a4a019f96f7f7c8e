"""Predictions from files: whatever way they are stored, the same train ids and probabilities come out."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from segfocus.data.classes import Classes
from segfocus.data.predictions import PredictionReader, refuse_foreign
from segfocus.data.probabilities import most_probable
from segfocus.errors import SegfocusError

RNG = np.random.default_rng(0)
SIZE = (6, 9)
FIVE = Classes.of(["a", "b", "c", "d", "e"])
TWO = Classes.of(["ground", "crack"])
GAPS = Classes.from_dict(
    {
        "classes": {
            0: {"name": "road", "raw": [7]},
            1: {"name": "pole", "raw": [17, 4]},
            2: {"name": "car", "raw": [2]},
        },
        "ignore": [0, 1, 3, 5, 6, *range(8, 17), 18, 255],
    }
)
"""raw values that are neither in order nor without gaps"""


def soft(channels: int, size=SIZE) -> np.ndarray:
    values = RNG.random((channels, *size)).astype(np.float32) ** 3 + 1e-3
    return values / values.sum(0)


PROBABILITIES = soft(5)
LABELS = PROBABILITIES.argmax(0).astype(np.uint8)
FOREGROUND = RNG.random(SIZE).astype(np.float32)


def save(path, values, **options):
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **{options.get("name", "probabilities"): values})
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric=options.get("photometric", "minisblack"))
    else:
        Image.fromarray(values).save(path)
    return path


def assert_refused(path, match, classes=FIVE, size=SIZE, **options):
    with pytest.raises(SegfocusError, match=match) as caught:
        PredictionReader(classes, **options).read(path, size)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class TestLabels:
    @pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.npy"])
    def test_8_bit(self, tmp_path, name):
        found = PredictionReader(FIVE).read(save(tmp_path / name, LABELS), SIZE)
        np.testing.assert_array_equal(found.labels, LABELS)
        assert found.probabilities is None
        assert found.described == "labels (uint8, train ids)"

    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint32])
    def test_wider_integers(self, tmp_path, dtype):
        found = PredictionReader(FIVE).read(save(tmp_path / "a.npy", LABELS.astype(dtype)[None]), SIZE)
        np.testing.assert_array_equal(found.labels, LABELS)
        assert found.probabilities is None
        assert found.labels.dtype == np.uint8

    def test_16_bit_picture_of_more_than_two_classes(self, tmp_path):
        found = PredictionReader(FIVE).read(save(tmp_path / "a.png", LABELS.astype(np.uint16)), SIZE)
        np.testing.assert_array_equal(found.labels, LABELS)

    def test_palette_as_our_predict_writes_it(self, tmp_path):
        image = Image.fromarray(LABELS, mode="P")
        image.putpalette([value for color in FIVE.colors for value in color])
        image.save(tmp_path / "a.png")
        np.testing.assert_array_equal(PredictionReader(FIVE).read(tmp_path / "a.png", SIZE).labels, LABELS)

    def test_npz_called_labels(self, tmp_path):
        found = PredictionReader(FIVE).read(save(tmp_path / "a.npz", LABELS, name="labels"), SIZE)
        np.testing.assert_array_equal(found.labels, LABELS)

    def test_booleans_are_labels_of_two_classes(self, tmp_path):
        found = PredictionReader(TWO).read(save(tmp_path / "a.npy", FOREGROUND > 0.5), SIZE)
        np.testing.assert_array_equal(found.labels, FOREGROUND > 0.5)
        assert found.probabilities is None

    def test_floats_where_asked(self, tmp_path):
        path = save(tmp_path / "a.npy", LABELS.astype(np.float32))
        np.testing.assert_array_equal(PredictionReader(FIVE, kind="labels").read(path, SIZE).labels, LABELS)
        assert_refused(path, r"got one value a pixel \[6, 9\]; try --prediction-kind labels")
        for bad in (0.5, np.nan):
            save(path, np.full(SIZE, bad))
            assert_refused(path, "got fractions or NaN; try --prediction-kind probabilities", kind="labels")

    def test_raw_values_with_gaps(self, tmp_path):
        labels = RNG.integers(0, 3, SIZE).astype(np.uint8)
        labels[0, 0] = 255
        for name, dtype in (("a.png", np.uint8), ("b.png", np.uint16), ("c.npy", np.int64)):
            raw = np.where(labels == 255, 3, np.asarray([7, 4, 2])[labels % 255]).astype(dtype)
            path = save(tmp_path / name, raw)
            np.testing.assert_array_equal(PredictionReader(GAPS, ids="raw").read(path, SIZE).labels, labels)
            raw[1, 1] = 99
            save(path, raw)
            assert_refused(path, "got the value 99", GAPS, ids="raw")

    def test_colors_are_raw_values(self, tmp_path):
        colors = [[255, 0, 0], [0, 255, 0], [9, 9, 9]]
        table = {index: {"name": str(index), "raw": [color]} for index, color in enumerate(colors)}
        classes = Classes.from_dict({"classes": table})
        labels = RNG.integers(0, 3, SIZE).astype(np.uint8)
        image = Image.fromarray(labels, mode="P")
        image.putpalette(np.asarray(colors, np.uint8).tobytes())
        image.save(tmp_path / "palette.png")
        save(tmp_path / "rgb.png", np.asarray(colors, np.uint8)[labels])
        for name in ("palette.png", "rgb.png"):
            found = PredictionReader(classes, ids="raw").read(tmp_path / name, SIZE)
            np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(PredictionReader(classes).read(tmp_path / "palette.png", SIZE).labels, labels)
        assert_refused(tmp_path / "rgb.png", "try --prediction-ids raw for colours", classes)

    def test_values_outside_8_bits_are_refused_and_others_kept(self, tmp_path):
        path = save(tmp_path / "a.npy", np.full(SIZE, 77, np.int16))
        assert (PredictionReader(FIVE).read(path, SIZE).labels == 77).all()
        for value in (-1, 300):
            save(path, np.full(SIZE, value, np.int16))
            assert_refused(path, rf"expected train ids below 5 or 255, got values from {value}")

    def test_probabilities_where_labels_are_expected(self, tmp_path):
        assert_refused(save(tmp_path / "a.npy", PROBABILITIES), "expected labels, one value a pixel", kind="labels")


class TestProbabilities:
    @pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.tif"])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.uint16])
    @pytest.mark.parametrize("last", [False, True])
    def test_every_type_and_order(self, tmp_path, name, dtype, last):
        scale = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
        stored = np.rint(PROBABILITIES * scale).astype(dtype) if scale > 1 else PROBABILITIES.astype(dtype)
        expected = stored.astype(np.float64) / scale
        path = save(tmp_path / name, np.ascontiguousarray(np.moveaxis(stored, 0, 2)) if last else stored)
        found = PredictionReader(FIVE).read(path, SIZE)
        np.testing.assert_allclose(found.probabilities, expected, rtol=1e-6)
        np.testing.assert_array_equal(found.labels, found.probabilities.argmax(0))
        assert found.described == f"probabilities ({np.dtype(dtype)}, train ids)"

    def test_both_orders_fit(self, tmp_path):
        square = soft(5, (5, 5))
        found = PredictionReader(FIVE).read(save(tmp_path / "a.npy", square), (5, 5))
        np.testing.assert_array_equal(found.probabilities, square)
        tall = soft(5, (5, 7))  # [5, 5, 7] is [classes, height, width] alone; [5, 7, 5] is decided by the size
        found = PredictionReader(FIVE).read(save(tmp_path / "a.npy", np.moveaxis(tall, 0, 2)), (5, 7))
        np.testing.assert_array_equal(found.probabilities, tall)

    def test_pictures_one_pixel_wide_or_high(self, tmp_path):
        for size in ((1, 9), (6, 1), (1, 1), (5, 1), (1, 5)):
            values = soft(5, size)
            for stored in (values, np.moveaxis(values, 0, 2)):
                found = PredictionReader(FIVE).read(save(tmp_path / "a.npy", stored), size)
                np.testing.assert_array_equal(found.probabilities, values)

    @pytest.mark.parametrize(
        ("name", "dtype", "kind"),
        [
            ("a.png", np.uint16, "auto"),
            ("a.png", np.uint8, "probabilities"),
            ("a.tif", np.uint16, "auto"),
            ("a.tif", np.float32, "auto"),
            ("a.npz", np.uint8, "auto"),
            ("a.npz", np.float16, "auto"),
            ("a.npy", np.float64, "auto"),
        ],
    )
    def test_foreground_of_two_classes(self, tmp_path, name, dtype, kind):
        scale = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
        stored = (FOREGROUND * scale).astype(dtype)
        path = save(tmp_path / name, stored)
        found = PredictionReader(TWO, kind=kind).read(path, SIZE)
        np.testing.assert_allclose(found.probabilities[1], stored.astype(float) / scale, rtol=1e-6)
        np.testing.assert_allclose(found.probabilities.sum(0), 1, rtol=1e-6)
        np.testing.assert_array_equal(found.labels, stored.astype(float) / scale > 0.5)

    def test_foreground_with_an_axis_of_one(self, tmp_path):
        for stored in (FOREGROUND[None], FOREGROUND[..., None], FOREGROUND[None, None]):
            found = PredictionReader(TWO).read(save(tmp_path / "a.npy", stored), SIZE)
            np.testing.assert_array_equal(found.probabilities[1], FOREGROUND)

    def test_half_is_background(self, tmp_path):
        values = np.asarray([[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0, 1]], np.float32)
        found = PredictionReader(TWO).read(save(tmp_path / "a.npy", values), (1, 4))
        assert found.labels.tolist() == [[0, 1, 0, 1]]

    def test_16_bit_zeros_and_ones_may_be_either(self, tmp_path):
        path = save(tmp_path / "a.png", (FOREGROUND > 0.5).astype(np.uint16))
        assert_refused(path, "which may be labels; try --prediction-kind labels", TWO)
        found = PredictionReader(TWO, kind="labels").read(path, SIZE)
        np.testing.assert_array_equal(found.labels, FOREGROUND > 0.5)
        assert not PredictionReader(TWO, kind="probabilities").read(path, SIZE).labels.any()

    def test_channels_in_raw_order(self, tmp_path):
        values = soft(19)
        expected = np.stack([values[7], values[17] + values[4], values[2]])
        expected /= expected.sum(0)
        found = PredictionReader(GAPS, ids="raw").read(save(tmp_path / "a.npy", values), SIZE)
        np.testing.assert_allclose(found.probabilities, expected, rtol=1e-5)
        np.testing.assert_array_equal(found.labels, expected.argmax(0))
        found = PredictionReader(GAPS, ids="raw").read(save(tmp_path / "a.npy", np.moveaxis(values, 0, 2)), SIZE)
        np.testing.assert_allclose(found.probabilities, expected, rtol=1e-5)

    def test_pixels_of_ignored_channels_alone_are_void(self, tmp_path):
        values = soft(19)
        values[:, 2, 3] = 0
        values[5, 2, 3] = 1
        found = PredictionReader(GAPS, ids="raw").read(save(tmp_path / "a.npy", values), SIZE)
        assert found.labels[2, 3] == 255
        assert (found.labels == 255).sum() == 1
        assert not found.probabilities[:, 2, 3].any()

    def test_empty_raw_channels_need_no_class(self, tmp_path):
        few = Classes.from_dict({"classes": {0: {"name": "a", "raw": [3]}, 1: {"name": "b", "raw": [40]}}})
        values = np.zeros((41, *SIZE), np.float32)
        values[3], values[40] = 0.25, 0.75
        path = tmp_path / "a.npy"
        found = PredictionReader(few, ids="raw").read(save(path, values), SIZE)
        assert (found.probabilities == np.float32([0.25, 0.75])[:, None, None]).all()
        values[9, 0, 0], values[3, 0, 0] = 0.25, 0
        save(path, values)
        assert_refused(path, r"channels of probabilities \(in raw order\).*got the value 9", few, ids="raw")

    def test_raw_channels_that_do_not_fit(self, tmp_path):
        path = save(tmp_path / "a.npy", soft(3))
        assert_refused(path, "expected probabilities of the raw values 0 to 17 or more", GAPS, ids="raw")
        save(path, soft(22))
        assert_refused(path, r"channels of probabilities \(in raw order\).*got the values 19, 20, 21", GAPS, ids="raw")
        colors = Classes.from_dict({"classes": {0: "a", 1: {"name": "b", "raw": [[1, 2, 3]]}}})
        with pytest.raises(SegfocusError, match=r"got colours in the classes file; try --prediction-ids train"):
            PredictionReader(colors, ids="raw").read(path, SIZE)

    def test_rounding_is_forgiven(self, tmp_path):
        values = PROBABILITIES.copy()
        values *= 1.004  # as far off as bfloat16
        assert PredictionReader(FIVE).read(save(tmp_path / "a.npy", values), SIZE).probabilities is not None
        values = np.where(FOREGROUND > 0.5, 1 + 1e-5, -1e-5)
        found = PredictionReader(TWO).read(save(tmp_path / "a.npy", values), SIZE).probabilities
        assert found.min() == 0
        assert found.max() == 1

    def test_pixels_without_any_probability_are_void(self, tmp_path):
        values = PROBABILITIES.copy()
        values[:, 0] = 0
        found = PredictionReader(FIVE).read(save(tmp_path / "a.npy", values), SIZE)
        assert (found.labels[0] == 255).all()
        np.testing.assert_array_equal(found.labels[1:], LABELS[1:])


class TestRefused:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path, bad):
        values = PROBABILITIES.copy()
        values[3, 2, 1] = bad
        assert_refused(
            save(tmp_path / "a.npy", values), "NaN or infinity 1 times, first in channel 3 at row 2, column 1"
        )

    def test_logits(self, tmp_path):
        assert_refused(save(tmp_path / "a.npy", 8 * PROBABILITIES - 4), r"in \[0, 1\], got -.*these may be logits")
        assert_refused(save(tmp_path / "a.npy", np.rint(PROBABILITIES * 255)), r"try 8-bit integers, or values / 255")
        assert_refused(save(tmp_path / "a.npy", np.full((5, *SIZE), 1e300)), r"infinity")

    def test_sums_far_from_one(self, tmp_path):
        assert_refused(save(tmp_path / "a.npy", np.full((5, *SIZE), 0.9)), r"sum to 1 .* got 4\.500 .*try softmax")
        values = PROBABILITIES.copy()
        values[:, 4, 5] *= 0.5
        assert_refused(save(tmp_path / "a.npy", values), r"got 0\.500 at row 4, column 5 \(1\.9% of all pixels")
        assert_refused(save(tmp_path / "a.npy", np.full((5, *SIZE), 60, np.uint8)), r"got 1\.176")

    def test_channels_that_are_not_the_classes(self, tmp_path):
        assert_refused(save(tmp_path / "a.npy", soft(7)), r"of 5 classes .* got an array \[7, 6, 9\]")
        assert_refused(save(tmp_path / "a.npz", LABELS), r"of 5 classes, got one value a pixel")
        assert_refused(save(tmp_path / "a.tif", soft(7)), r"of 5 classes")

    def test_types_that_are_no_probabilities(self, tmp_path):
        assert_refused(
            save(tmp_path / "a.npy", np.zeros((5, *SIZE), np.int64)), "as floats, 8-bit or 16-bit values, got int64"
        )
        path = save(tmp_path / "a.png", RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
        assert_refused(path, "got a colour picture", kind="probabilities")

    @pytest.mark.parametrize("option", ["ids", "kind", "resize"])
    def test_options(self, option):
        with pytest.raises(SegfocusError, match=f"unknown {option} 'trian'"):
            PredictionReader(FIVE, **{option: "trian"})


class TestSize:
    def test_another_size_is_refused(self, tmp_path):
        for path in (save(tmp_path / "a.png", LABELS), save(tmp_path / "a.npy", PROBABILITIES)):
            assert_refused(path, "expected the label's size 12x18, got 6x9; try --resize nearest", size=(12, 18))
            assert_refused(path, "height and width look swapped", size=(9, 6))
            assert_refused(path, "height and width look swapped", size=(9, 6), resize="nearest")

    def test_nearest(self, tmp_path):
        reader = PredictionReader(FIVE, resize="nearest")
        expected = LABELS.repeat(2, 0).repeat(3, 1)
        found = reader.read(save(tmp_path / "a.png", LABELS), (12, 27))
        np.testing.assert_array_equal(found.labels, expected)
        found = reader.read(save(tmp_path / "a.npy", PROBABILITIES), (12, 27))
        np.testing.assert_array_equal(found.labels, expected)
        np.testing.assert_array_equal(found.probabilities, PROBABILITIES.repeat(2, 1).repeat(3, 2))
        found = reader.read(save(tmp_path / "a.png", expected), SIZE)
        np.testing.assert_array_equal(found.labels, LABELS)

    def test_bilinear(self, tmp_path):
        reader = PredictionReader(FIVE, resize="bilinear")
        found = reader.read(save(tmp_path / "a.npy", PROBABILITIES), (12, 18))
        # pixel centres: the new pixel 2i + 1 lies a quarter of the way from i to i + 1
        blended = 0.75 * PROBABILITIES[:, :, :-1] + 0.25 * PROBABILITIES[:, :, 1:]
        expected = 0.75 * blended[:, :-1] + 0.25 * blended[:, 1:]
        np.testing.assert_allclose(found.probabilities[:, 1:-1:2, 1:-1:2], expected, atol=1e-6)
        np.testing.assert_array_equal(found.labels, found.probabilities.argmax(0))
        assert_refused(save(tmp_path / "a.png", LABELS), "got labels; try nearest", size=(12, 18), resize="bilinear")


def test_values_that_are_no_class_count_only_where_the_truth_is_labelled(tmp_path):
    labels, target = np.asarray([[0, 9, 255, 1]], np.uint8), np.asarray([[0, 255, 255, 1]], np.uint8)
    path = tmp_path / "a.png"
    refuse_foreign(labels, target, FIVE, path)
    for classes, values, match in (
        (
            FIVE,
            [0, 9, 255, 7],
            r"a\.png: expected train ids 0 to 4, got 7 at 1 labelled pixels; try --prediction-ids raw",
        ),
        (FIVE, [255, 9, 9, 255], "got 255 at 2 labelled pixels; try a class for every pixel"),
        (TWO, [0, 0, 0, 255], "got 255 at 1 labelled pixels; try --prediction-ids raw, or --prediction-kind prob"),
    ):
        with pytest.raises(SegfocusError, match=match):
            refuse_foreign(np.asarray([values], np.uint8), target, classes, path)


def test_most_probable_is_argmax():
    for channels in (2, 3, 19):
        values = RNG.integers(0, 4, (channels, 40, 30)).astype(np.float32)  # many equal ones
        values[0] += values.sum(0) == 0
        np.testing.assert_array_equal(most_probable(values), values.argmax(0))


@pytest.mark.real_data
def test_a_public_networks_files(shared_data):
    folder = shared_data / "camvid_espnet"
    reader = PredictionReader(Classes.of([str(index) for index in range(11)]))
    for path in sorted((folder / "labels" / "val").glob("*.png"))[::20]:
        labels = reader.read(path, (360, 480)).labels
        found = reader.read(folder / "probabilities" / "val" / f"{path.stem}.npz", (360, 480))
        most = found.probabilities.max(0)
        assert (found.labels != labels).mean() < 0.005  # rounding to 8 bits made ties
        np.testing.assert_array_equal(np.take_along_axis(found.probabilities, labels[None].astype(int), 0)[0], most)
