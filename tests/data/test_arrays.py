"""Files of every kind come back as stored, and every damaged one is named in one line."""

import sys
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from segfocus.data.arrays import read_array
from segfocus.errors import SegfocusError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, (6, 9)).astype(np.uint8)
STACK = RNG.random((5, 6, 9)).astype(np.float32)


def assert_read_as(path, values, axes, **options):
    stored = read_array(path, **options)
    np.testing.assert_array_equal(stored.values, values)
    assert stored.values.dtype == values.dtype
    assert stored.axes == axes
    return stored


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64])
def test_numpy(tmp_path, dtype):
    np.save(tmp_path / "labels.npy", LABELS.astype(dtype))
    assert_read_as(tmp_path / "labels.npy", LABELS.astype(dtype), "HW")
    np.save(tmp_path / "stack.npy", STACK.astype(dtype))
    assert_read_as(tmp_path / "stack.npy", STACK.astype(dtype), "unknown")


def test_npz_by_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, STACK)
    assert assert_read_as(path, STACK, "unknown").called == "arr_0"
    np.savez_compressed(path, labels=LABELS, other=STACK)
    assert assert_read_as(path, LABELS, "HW").called == "labels"
    np.savez_compressed(path, labels=LABELS, probabilities=STACK)
    assert assert_read_as(path, STACK, "unknown").called == "probabilities"
    np.savez(path, a=LABELS, b=STACK)
    with pytest.raises(SegfocusError, match=r"a\.npz: expected one array or one called 'probabilities', got a, b"):
        read_array(path)


def test_leading_axes_of_one(tmp_path):
    np.save(tmp_path / "a.npy", STACK[None, None])
    assert_read_as(tmp_path / "a.npy", STACK, "unknown")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures(tmp_path, dtype):
    path = tmp_path / "a.png"
    Image.fromarray(LABELS.astype(dtype)).save(path)
    assert_read_as(path, LABELS.astype(dtype), "HW")


def test_palette_and_colors(tmp_path):
    palette = np.asarray([[0, 0, 0], [128, 0, 0], [0, 128, 0], [1, 2, 3], [9, 9, 8]], np.uint8)
    image = Image.fromarray(LABELS, mode="P")
    image.putpalette(palette.tobytes())
    for name in ("a.png", "a.tif", "a.gif"):
        image.save(tmp_path / name)
        assert_read_as(tmp_path / name, palette[LABELS], "colors", colors=True)
        if name != "a.gif":  # whose writer renumbers the palette
            assert_read_as(tmp_path / name, LABELS, "HW")
    Image.fromarray(palette[LABELS]).save(tmp_path / "rgb.tif")
    assert_read_as(tmp_path / "rgb.tif", palette[LABELS], "colors")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_stacks(tmp_path, dtype, compression):
    path = tmp_path / "a.tif"
    stack = (STACK * 200).astype(dtype)
    tifffile.imwrite(path, stack, compression=compression)  # one page a channel, unless it was [height, width, channel]
    assert_read_as(path, stack, "unknown")
    with tifffile.TiffWriter(path) as writer:
        for page in stack:
            writer.write(page, compression=compression, contiguous=False, metadata=None)
    assert_read_as(path, stack, "CHW")
    tifffile.imwrite(path, stack, photometric="minisblack", planarconfig="separate", compression=compression)
    assert_read_as(path, stack, "CHW")
    samples = np.ascontiguousarray(stack.transpose(1, 2, 0))
    tifffile.imwrite(path, samples, photometric="minisblack", planarconfig="contig", compression=compression)
    assert_read_as(path, samples, "HWC")


def test_tiff_of_three_8_bit_samples_is_colors_or_a_stack(tmp_path):
    path = tmp_path / "a.tif"
    values = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    tifffile.imwrite(path, values, photometric="rgb")
    assert_read_as(path, values, "colors")
    assert_read_as(path, values, "HWC", stack=True)


@pytest.mark.parametrize("values", [LABELS, LABELS.astype(np.uint16), LABELS.astype(np.int32), STACK[0]])
def test_plain_tiff(tmp_path, values):
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert_read_as(tmp_path / "a.tif", values, "HW")


def test_compression_that_only_pillow_knows(tmp_path):
    Image.fromarray(LABELS).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert_read_as(tmp_path / "a.tif", LABELS, "HW")


def assert_refused(path, match, **options):
    with pytest.raises(SegfocusError, match=match) as caught:
        read_array(path, **options)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def problem_of(path):
    try:
        read_array(path)
    except SegfocusError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.tif", "a.png"])
def test_damaged_files(tmp_path, name):
    path = tmp_path / name
    assert_refused(path, "no such file")
    path.mkdir()
    assert_refused(path, "a folder")
    path.rmdir()
    path.write_bytes(b"")
    assert_refused(path, "0 bytes")
    path.write_text("no array at all, whatever its name says")
    assert_refused(path, "expected")
    {
        "a.npy": lambda: np.save(path, STACK),
        "a.npz": lambda: np.savez_compressed(path, STACK),
        "a.tif": lambda: tifffile.imwrite(path, STACK),
        "a.png": lambda: Image.fromarray(np.tile(LABELS, (50, 50))).save(path),
    }[name]()
    whole = path.read_bytes()
    for length in (1, 20, len(whole) // 3, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        problem = problem_of(path)
        if length < len(whole) - 5 or problem:  # some formats end with bytes that a reader can do without
            assert str(path) in problem
            assert "\n" not in problem


def test_damage_inside_a_compressed_file(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, STACK)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "expected a complete NumPy file")


def test_arrays_that_are_no_picture(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.asarray([["a", "b"]]))
    assert_refused(path, "expected numbers")
    np.save(path, np.zeros((2, 2), complex))
    assert_refused(path, "expected numbers")
    np.save(path, np.asarray([{}, 1], object), allow_pickle=True)
    assert_refused(path, "expected a complete NumPy file")
    for shape in ((4,), (0, 4), (2, 3, 4, 5)):
        np.save(path, np.zeros(shape))
        assert_refused(path, r"expected an array \[height, width\]")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert_refused(tmp_path / "a.npz", "expected")
    with zipfile.ZipFile(tmp_path / "a.npz", "w"):
        pass
    assert_refused(tmp_path / "a.npz", "got none")


def test_larger_pictures_are_refused(tmp_path):
    Image.fromarray(LABELS).save(tmp_path / "a.png")
    assert_refused(tmp_path / "a.png", "expected at most 50 pixels", max_pixels=50)


def test_without_tifffile(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", STACK)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert_refused(tmp_path / "a.tif", "pip install tifffile")
