import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segfocus.data.map_files import open_map, open_picture
from segfocus.errors import SegfocusError

SIZE = (37, 53)
WINDOWS = [(slice(0, 37), slice(0, 53)), (slice(5, 21), slice(0, 53)), (slice(30, 37), slice(17, 18))]


def random_classes(count, size=SIZE, seed=0):
    values = np.random.default_rng(seed).random((count, *size)).astype(np.float32) + 0.01
    return values / values.sum(0)


def assert_windows_are(file, expected, tolerance=0.0):
    assert file.size == expected.shape[1:]
    for rows, columns in WINDOWS:
        found = file.read(rows, columns)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:, rows, columns], rtol=0, atol=tolerance)


DTYPES = ["uint8", "uint16", ">u2", "float16", "float32", ">f8"]


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [*((suffix, dtype) for suffix in ("npy", "npz", "tif") for dtype in DTYPES), ("npy", "bool"), ("npz", "bool")],
)
def test_foreground_alone(tmp_path, suffix, dtype):
    """One value a pixel is the probability of the second of two classes."""
    values = np.random.default_rng(1).random(SIZE)
    scale = 1
    if dtype == "bool":
        values = values > 0.5
    elif np.dtype(dtype).kind == "u":
        scale = np.iinfo(dtype).max
        values = (values * scale).round()
    values = values.astype(dtype)
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "npz":
        np.savez(path, values)
    else:
        tifffile.imwrite(path, values, byteorder=">" if dtype.startswith(">") else "<")
    file = open_map(path, 2)
    assert (file.channels, file.layout, file.streamed) == (1, "HW", suffix != "npz")
    assert file.dtype == np.dtype(dtype).newbyteorder("=")
    foreground = values.astype(np.float32) / np.float32(scale)
    assert_windows_are(file, np.stack([1 - foreground, foreground]), 1e-7)


@pytest.mark.parametrize("shape", ["[c h w]", "[h w c]", "[1 c h w]"])
@pytest.mark.parametrize("classes", [2, 5])
def test_a_channel_a_class(tmp_path, classes, shape):
    values = random_classes(classes)
    stored = {"[c h w]": values, "[h w c]": np.moveaxis(values, 0, 2), "[1 c h w]": values[None]}[shape]
    np.save(tmp_path / "a.npy", stored)
    np.savez_compressed(tmp_path / "b.npz", probabilities=stored, other=np.zeros(3))
    np.save(tmp_path / "c.npy", np.asfortranarray(stored))
    for name in ("a.npy", "b.npz", "c.npy"):
        file = open_map(tmp_path / name, classes)
        assert file.channels == classes
        assert_windows_are(file, values)


def test_one_channel_with_an_axis_of_its_own(tmp_path):
    foreground = random_classes(2)[1:]
    expected = np.concatenate([1 - foreground, foreground])
    for name, stored in (("a", foreground), ("b", foreground[0, :, :, None])):
        np.save(tmp_path / f"{name}.npy", stored)
        assert_windows_are(open_map(tmp_path / f"{name}.npy", 2), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_png(tmp_path, bits):
    top = 2**bits - 1
    values = np.random.default_rng(2).integers(0, top + 1, SIZE).astype(f"uint{bits}")
    cv2.imwrite(str(tmp_path / "a.png"), values)
    file = open_map(tmp_path / "a.png", 2)
    assert not file.streamed
    assert_windows_are(file, np.stack([1 - values / np.float32(top), values / np.float32(top)]), 1e-7)


def test_one_bit_pictures_are_zero_and_one(tmp_path):
    values = np.random.default_rng(2).random(SIZE) > 0.5
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "b.tif")
    for name in ("a.png", "b.tif"):
        assert_windows_are(open_map(tmp_path / name, 2), np.stack([~values, values]).astype(np.float32))


TIFF_KINDS = {
    "plain": {},
    "pages": {"photometric": "minisblack", "metadata": {"axes": "CYX"}},
    "strips": {"rowsperstrip": 5},
    "deflated strips": {"rowsperstrip": 5, "compression": "zlib"},
    "tiles": {"tile": (16, 32), "compression": "zlib"},
    "plain tiles": {"tile": (16, 16)},
    "big": {"bigtiff": True, "rowsperstrip": 7, "compression": "zlib"},
    "planes": {"photometric": "minisblack", "planarconfig": "separate", "tile": (16, 16), "compression": "zlib"},
}


@pytest.mark.parametrize("kind", TIFF_KINDS)
def test_tiff_is_read_in_parts(tmp_path, kind):
    values = random_classes(5)
    options = TIFF_KINDS[kind]
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    file = open_map(tmp_path / "a.tif", 5)
    assert file.streamed
    assert_windows_are(file, values)
    samples = {**options, "photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(tmp_path / "b.tif", np.ascontiguousarray(np.moveaxis(values, 0, 2)), **samples)
    file = open_map(tmp_path / "b.tif", 5)
    assert (file.streamed, file.layout) == (True, "HWC")
    assert_windows_are(file, values)


def test_a_part_of_a_tiff_touches_its_own_strips_alone(tmp_path, monkeypatch):
    values = random_classes(2, (256, 40))[1]
    tifffile.imwrite(tmp_path / "a.tif", values, rowsperstrip=8, compression="zlib")
    file = open_map(tmp_path / "a.tif", 2)
    seen = []
    decode = zlib.decompress
    monkeypatch.setattr(zlib, "decompress", lambda *given: seen.append(len(given[0])) or decode(*given))
    np.testing.assert_array_equal(file.read(slice(100, 120), slice(3, 20))[1], values[100:120, 3:20])
    assert len(seen) == 3  # of 32 strips


def test_tiff_that_only_pillow_decodes_is_read_whole(tmp_path):
    values = np.random.default_rng(3).integers(0, 256, SIZE).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.tif", compression="tiff_lzw")
    file = open_map(tmp_path / "a.tif", 2)
    assert_windows_are(file, np.stack([1 - values / np.float32(255), values / np.float32(255)]), 1e-7)


def test_turned_and_inverted_tiffs_are_left_to_pillow(tmp_path):
    values = np.random.default_rng(3).integers(0, 256, SIZE).astype(np.uint8)
    expected = np.stack([1 - values / np.float32(255), values / np.float32(255)])
    tifffile.imwrite(tmp_path / "white.tif", 255 - values, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "turned.tif", values[::-1, ::-1].copy(), extratags=[(274, 3, 1, 3, True)])
    for name in ("white.tif", "turned.tif"):
        assert_windows_are(open_map(tmp_path / name, 2), expected, 1e-7)


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_no_limit_of_pixels_where_parts_are_read(tmp_path, suffix):
    values = random_classes(2)[1]
    if suffix == "npy":
        np.save(tmp_path / "a.npy", values)
    else:
        tifffile.imwrite(tmp_path / "a.tif", values, compression="zlib", rowsperstrip=4)
    assert open_map(tmp_path / f"a.{suffix}", 2, max_pixels=10).size == SIZE
    cv2.imwrite(str(tmp_path / "b.png"), values)
    with pytest.raises(SegfocusError, match="at most 10 pixels, got 1961"):
        open_map(tmp_path / "b.png", 2, max_pixels=10)


def test_logits(tmp_path):
    logits = np.random.default_rng(4).normal(0, 20, (5, *SIZE)).astype(np.float16)
    np.save(tmp_path / "a.npy", logits)
    exact = np.exp(logits.astype(np.float64))
    assert_windows_are(open_map(tmp_path / "a.npy", 5, logits=True), exact / exact.sum(0), 1e-6)
    np.save(tmp_path / "b.npy", logits[0])
    foreground = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
    assert_windows_are(open_map(tmp_path / "b.npy", 2, logits=True), np.stack([1 - foreground, foreground]), 1e-6)
    small = open_map(tmp_path / "b.npy", 2, logits=True).read(*WINDOWS[0])[1]
    np.testing.assert_allclose(small, foreground, rtol=1e-5)  # small ones too: no difference to 1


def save_and_read(path, values, classes=2, **options):
    np.save(path, values)
    return open_map(path, classes, **options).read(slice(2, values.shape[-2]), slice(1, values.shape[-1]))


@pytest.mark.parametrize(
    ("values", "classes", "logits", "words"),
    [
        (np.full((4, 5), 1.5), 2, False, r"in \[0, 1\], got 1.5 to 1.5; try --logits"),
        (np.full((4, 5), -0.5), 2, False, r"got -0.5 to -0.5; try --logits"),
        (np.where(np.eye(4, 5, 1) > 0, np.nan, 0.5), 2, False, "NaN or infinity 2 times, .*row 2, column 3"),
        (np.where(np.eye(4, 5, 1) > 0, np.inf, 0.5), 2, True, "NaN or infinity 2 times, .*row 2, column 3"),
        (np.full((3, 4, 5), 0.5), 3, False, "sum to 1 at each pixel, got 1.500 at row 2, column 1"),
        (np.full((4, 4, 5), 0.25), 3, False, r"map of 3 classes as \[3, height, width\], got an array \[4, 4, 5\]"),
        (np.full((4, 5), 0.25), 3, False, r"map of 3 classes .* got an array \[4, 5\]"),
        (np.full((3, 4, 5), 0.25), 2, False, r"\[2, height, width\] or \[height, width\], got an array \[3, 4, 5\]"),
        (np.zeros((4, 5, 3), np.uint8), 2, False, "looks like a colour picture"),
        (np.zeros((4, 5), np.int64), 2, False, "got int64, which may be labels"),
        (np.zeros((4, 5), np.uint8), 2, True, "expected logits as floats, got uint8; try without --logits"),
        (np.zeros((4, 5), complex), 2, False, "expected numbers"),
        (np.zeros((0, 5)), 2, False, "expected an array"),
        (np.zeros(5), 2, False, "expected an array"),
    ],
)
def test_refuses_with_one_line(tmp_path, values, classes, logits, words):
    with pytest.raises(SegfocusError, match=words) as caught:
        save_and_read(tmp_path / "a.npy", values, classes, logits=logits)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.npy") in str(caught.value)


def test_a_bad_pixel_outside_the_part_is_not_seen(tmp_path):
    values = np.full((6, 5), 0.5)
    values[0, 0] = np.nan
    assert save_and_read(tmp_path / "a.npy", values).shape == (2, 4, 4)


def test_files_that_are_no_maps(tmp_path):
    picture = np.random.default_rng(5).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "rgb.png")
    Image.fromarray(picture).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    tifffile.imwrite(tmp_path / "rgb.tif", picture, photometric="rgb")
    tifffile.imwrite(tmp_path / "packed.tif", picture, photometric="rgb", compression="zlib", rowsperstrip=8)
    for name in ("rgb.png", "palette.png", "rgb.tif", "packed.tif"):
        with pytest.raises(SegfocusError, match="colour picture"):
            open_map(tmp_path / name, 2)
    with pytest.raises(SegfocusError, match="sum to 1"):
        open_map(tmp_path / "rgb.tif", 3).read(*WINDOWS[1])
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.tif").write_text("no picture")
    np.save(tmp_path / "short.npy", random_classes(2))
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-100])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("empty.npy", "text.npy", "text.tif", "short.npy", "objects.npy", "none.npy", "none.tif"):
        with pytest.raises(SegfocusError, match=f"{name}: expected") as caught:
            open_map(tmp_path / name, 2)
        assert "\n" not in str(caught.value)


def test_a_tiff_damaged_further_down(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_classes(2)[1], rowsperstrip=4, compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as opened:
        offset = opened.pages[0].dataoffsets[5]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[offset : offset + 10] = b"\xff" * 10
    (tmp_path / "a.tif").write_bytes(content)
    file = open_map(tmp_path / "a.tif", 2)
    assert file.read(slice(0, 20), slice(0, 53)).shape == (2, 20, 53)
    with pytest.raises(SegfocusError, match=r"a\.tif: expected a complete TIFF file"):
        file.read(slice(18, 30), slice(0, 53))


@pytest.mark.parametrize("kind", ["plain", "tiles", "planes", "gray", "four"])
def test_pictures_by_window(tmp_path, kind):
    picture = np.random.default_rng(6).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    stored, options = picture, {"photometric": "rgb"}
    if kind == "tiles":
        options |= {"tile": (16, 16), "compression": "zlib"}
    elif kind == "planes":
        stored = np.ascontiguousarray(np.moveaxis(picture, 2, 0))
        options |= {"planarconfig": "separate", "compression": "zlib"}
    elif kind == "gray":
        stored, options = picture[:, :, 0], {}
        picture = np.repeat(stored[:, :, None], 3, 2)
    elif kind == "four":
        stored = np.concatenate([picture, picture[:, :, :1]], 2)
        options |= {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    file = open_picture(tmp_path / "a.tif", max_pixels=10)
    assert file.picture is None
    assert file.size == SIZE
    for rows, columns in WINDOWS:
        np.testing.assert_array_equal(file.read(rows, columns), picture[rows, columns])


def test_other_pictures_are_read_whole(tmp_path):
    picture = np.random.default_rng(6).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", picture.astype(np.uint16) * 257, photometric="rgb")
    for name in ("a.png", "b.tif"):
        file = open_picture(tmp_path / name)
        np.testing.assert_array_equal(file.read(slice(3, 9), slice(4, 50)), picture[3:9, 4:50])
    with pytest.raises(SegfocusError, match="at most 10 pixels"):
        open_picture(tmp_path / "a.png", max_pixels=10)
    with pytest.raises(SegfocusError, match="no such file"):
        open_picture(tmp_path / "none.tif")
