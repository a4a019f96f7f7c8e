import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segfocus.data.arrays import read_array
from segfocus.data.map_files import open_map
from segfocus.errors import SegfocusError
from segfocus.inference import map_writers
from segfocus.inference.map_writers import labels_suffix, map_suffix, write_labels, write_map

SIZE = (41, 30)


def random_classes(count, seed=0):
    values = np.random.default_rng(seed).random((count, *SIZE)).astype(np.float32) + 0.01
    return values / values.sum(0)


def write_in_rows(path, like, values, step=7):
    with write_map(path, like) as write:
        for first in range(0, SIZE[0], step):
            rows = slice(first, min(first + step, SIZE[0]))
            write(rows, values[:, rows])


def map_like(tmp_path, suffix, dtype, layout, classes, **options):
    """A map file of another content, whose format is to be kept."""
    values = random_classes(classes, 9)
    values = values[1] if layout == "HW" else values if layout == "CHW" else np.moveaxis(values, 0, 2)
    if np.dtype(dtype).kind == "u":
        values = (values * np.iinfo(dtype).max).round()
    path = tmp_path / f"like.{suffix}"
    values = np.ascontiguousarray(values).astype(dtype)
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "npz":
        np.savez_compressed(path, scores=values)
    elif suffix == "tif":
        tifffile.imwrite(path, values, **({"photometric": "minisblack"} | options))
    else:
        cv2.imwrite(str(path), values)
    return open_map(path, classes)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("suffix", "layout", "classes"),
    [
        ("npy", "HW", 2),
        ("npy", "CHW", 2),
        ("npy", "HWC", 5),
        ("npy", "CHW", 5),
        ("npz", "HW", 2),
        ("npz", "CHW", 5),
        ("npz", "HWC", 5),
        ("tif", "HW", 2),
        ("tif", "CHW", 5),
    ],
)
def test_a_map_comes_back_in_its_own_format(tmp_path, suffix, layout, classes, dtype):
    like = map_like(tmp_path, suffix, dtype, layout, classes)
    values = random_classes(classes)
    out = tmp_path / f"out{map_suffix(like.path)}"
    write_in_rows(out, like, values)
    found, before = read_array(out, stack=True), read_array(like.path, stack=True)
    assert (found.values.shape, found.values.dtype, found.called) == (before.values.shape, dtype, before.called)
    step = 0.5 / np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else np.finfo(dtype).eps
    whole = open_map(out, classes).read(slice(0, 41), slice(0, 30))
    np.testing.assert_allclose(whole, values, rtol=0, atol=step + 3e-7)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([like.path.name, out.name])


@pytest.mark.parametrize("bits", [8, 16])
def test_png_becomes_16_bits(tmp_path, bits):
    like = map_like(tmp_path, "png", f"uint{bits}", "HW", 2)
    values = random_classes(2)
    write_in_rows(tmp_path / "out.png", like, values)
    expected = np.rint(values[1] * np.float32(65535)).astype(np.uint16)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED), expected)
    with Image.open(tmp_path / "out.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)


def test_booleans_become_8_bits(tmp_path):
    np.save(tmp_path / "like.npy", random_classes(2)[1] > 0.5)
    write_in_rows(tmp_path / "out.npy", open_map(tmp_path / "like.npy", 2), random_classes(2))
    expected = np.rint(random_classes(2)[1] * np.float32(255)).astype(np.uint8)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_labels(tmp_path, suffix):
    labels = np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    with write_labels(path, SIZE) as write:
        for first, last in ((0, 1), (1, 40), (40, 41)):
            write(slice(first, last), labels[first:last])
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), labels)
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_of_many_strips_in_every_reader(tmp_path, monkeypatch, big, channels):
    monkeypatch.setattr(map_writers, "_STRIP_BYTES", 500)
    if big:
        monkeypatch.setattr(map_writers, "_CLASSIC_BYTES", 100)
    classes = 2 if channels == 1 else 3
    like = map_like(tmp_path, "tif", "uint16", "HW" if channels == 1 else "CHW", classes)
    values = random_classes(classes)
    write_in_rows(tmp_path / "out.tif", like, values, step=11)
    expected = np.rint(values[-channels:] * np.float32(65535)).astype(np.uint16)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.is_bigtiff == big
        assert len(file.pages) == channels
        assert len(file.pages[0].dataoffsets) == 6  # 8 rows each
        np.testing.assert_array_equal(file.asarray().reshape(expected.shape), expected)
    if not big:
        with Image.open(tmp_path / "out.tif") as picture:
            assert picture.n_frames == channels
            for number in range(channels):
                picture.seek(number)
                np.testing.assert_array_equal(np.asarray(picture), expected[number])
    pages = cv2.imreadmulti(str(tmp_path / "out.tif"), flags=cv2.IMREAD_UNCHANGED)[1]
    np.testing.assert_array_equal(np.stack(pages), expected)


def test_one_strip_and_one_pixel(tmp_path):
    for suffix in (".png", ".tif"):
        with write_labels(tmp_path / f"a{suffix}", (1, 1)) as write:
            write(slice(0, 1), np.array([[7]], np.uint8))
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"a{suffix}"), cv2.IMREAD_UNCHANGED), [[7]])


@pytest.mark.parametrize("suffix", ["npy", "npz", "tif", "png"])
def test_nothing_stays_when_the_block_fails(tmp_path, suffix):
    like = map_like(tmp_path, suffix, "uint16", "HW", 2)
    out = tmp_path / "to" / f"out{map_suffix(like.path)}"

    def write_parts(*parts):
        with write_map(out, like) as write:
            for part in parts:
                write(part, random_classes(2)[:, part] if part.stop else {}["no rows"])

    with pytest.raises(KeyError):
        write_parts(slice(0, 5), slice(0, 0))
    assert list((tmp_path / "to").iterdir()) == []
    write_in_rows(out, like, random_classes(2))
    before = out.read_bytes()
    with pytest.raises(SegfocusError, match="expected 41 rows, got 5"):
        write_parts(slice(0, 5))
    assert out.read_bytes() == before
    with pytest.raises(SegfocusError, match="from 5 to at most 41, got 4 to 9"):
        write_parts(slice(0, 5), slice(4, 9))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_endings():
    assert [map_suffix(f"a.{end}") for end in ("npy", "NPZ", "tif", "TIFF", "png", "bmp", "webp")] == [
        ".npy", ".npz", ".tif", ".tif", ".png", ".png", ".png",
    ]  # fmt: skip
    assert labels_suffix((10_000, 10_000)) == ".png"
    assert labels_suffix((20_000, 20_000)) == ".tif"
