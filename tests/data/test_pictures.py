import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from segfocus.data.pictures import list_pictures, mask_kind, picture_size, read_mask, read_picture
from segfocus.errors import SegfocusError

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (12, 20, 3), np.uint8)
GRAY = RNG.integers(0, 256, (12, 20), np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.png"


def test_rgb_and_its_size(path):
    Image.fromarray(COLORS).save(path)
    np.testing.assert_array_equal(read_picture(path), COLORS)
    assert picture_size(path) == (12, 20)


def test_gray(path):
    Image.fromarray(GRAY).save(path)
    np.testing.assert_array_equal(read_picture(path), np.stack([GRAY] * 3, -1))


def test_rgba_drops_transparency(path):
    Image.fromarray(np.dstack([COLORS, GRAY])).save(path)
    np.testing.assert_array_equal(read_picture(path), COLORS)


@pytest.mark.parametrize("transparency", [None, bytes(range(256))])
def test_palette(path, transparency):
    image = Image.fromarray(COLORS).quantize(256)
    image.save(path, **({} if transparency is None else {"transparency": transparency}))
    np.testing.assert_array_equal(read_picture(path), np.array(image.convert("RGB")))


def test_one_bit(path):
    Image.fromarray(GRAY > 127).save(path)
    np.testing.assert_array_equal(read_picture(path)[..., 0], np.where(GRAY > 127, 255, 0))
    np.testing.assert_array_equal(read_mask(path), GRAY > 127)
    assert mask_kind(path) == "1-bit"


def test_cmyk(tmp_path):
    path = tmp_path / "a.tif"
    image = Image.fromarray(COLORS).convert("CMYK")
    image.save(path)
    np.testing.assert_array_equal(read_picture(path), np.array(image.convert("RGB")))
    with pytest.raises(SegfocusError, match="got mode CMYK"):
        read_mask(path)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit(tmp_path, ending, channels):
    path = tmp_path / f"a.{ending}"
    deep = RNG.integers(0, 65536, (12, 20, channels)).astype(np.uint16)
    assert cv2.imwrite(str(path), deep)  # channels in the order blue, green, red, alpha
    expected = np.round(deep / 257).astype(np.uint8)
    expected = np.repeat(expected, 3, -1) if channels == 1 else expected[..., 2::-1]
    np.testing.assert_array_equal(read_picture(path), expected)


def test_16_bit_mask(path):
    deep = RNG.integers(0, 65536, (12, 20)).astype(np.uint16)
    Image.fromarray(deep).save(path)
    mask = read_mask(path)
    assert mask_kind(path) == "16-bit"
    np.testing.assert_array_equal(mask, deep)


@pytest.mark.parametrize("values", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70000, np.int32)])
def test_other_depths_are_refused(tmp_path, values):
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(SegfocusError, match="8- or 16-bit"):
        read_picture(path)


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, ending):
    from PIL import ImageOps

    path = tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLORS).save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as stored:
        expected = np.array(ImageOps.exif_transpose(stored).convert("RGB"))
    np.testing.assert_array_equal(read_picture(path), expected)
    assert picture_size(path) == expected.shape[:2]


def test_exif_behind_the_pixels_of_a_png(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLORS).save(path)
    data = exif.tobytes().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    content = path.read_bytes()
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert read_picture(path).shape == (20, 12, 3)
    assert picture_size(path) == (20, 12)


def test_palette_mask_as_indices_or_colors(path):
    image = Image.new("P", (20, 12))
    image.putpalette([0, 0, 0, 255, 0, 0, 1, 2, 3])
    image.putdata((GRAY % 3).ravel().tolist())
    image.save(path)
    np.testing.assert_array_equal(read_mask(path), GRAY % 3)
    np.testing.assert_array_equal(read_mask(path, colors=True), np.array([[0, 0, 0], [255, 0, 0], [1, 2, 3]])[GRAY % 3])
    assert mask_kind(path) == "palette"


def test_color_masks(path):
    Image.fromarray(np.dstack([COLORS, GRAY])).save(path)
    np.testing.assert_array_equal(read_mask(path), COLORS)
    assert mask_kind(path) == "RGB"
    Image.fromarray(np.dstack([GRAY] * 3)).save(path)
    np.testing.assert_array_equal(read_mask(path), GRAY)
    Image.fromarray(GRAY).convert("LA").save(path)
    np.testing.assert_array_equal(read_mask(path), GRAY)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_truncated(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_picture, read_mask):
        with pytest.raises(SegfocusError, match=r"a.*: expected a .*picture") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_picture, read_mask, picture_size])
def test_refused_files(tmp_path, read):
    with pytest.raises(SegfocusError, match="no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(SegfocusError, match="got a folder"):
        read(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(SegfocusError, match=r"empty.png: .* 0 bytes"):
        read(tmp_path / "empty.png")
    (tmp_path / "words.png").write_text("no picture at all")
    with pytest.raises(SegfocusError, match=r"words.png: expected a picture file"):
        read(tmp_path / "words.png")


def test_pixel_limit(path):
    Image.fromarray(GRAY).save(path)
    assert read_picture(path, max_pixels=240).shape == (12, 20, 3)
    with pytest.raises(SegfocusError, match=r"at most 239 pixels, got 240 \(12x20\); --max-pixels raises it"):
        read_picture(path, max_pixels=239)


def test_pillow_s_own_limit_does_not_interfere(path):
    head = b"IHDR" + struct.pack(">IIBBBBB", 20000, 9500, 1, 0, 0, 0, 0)  # 190 Mpx: above Pillow's limit of 179 Mpx
    chunks = [head, b"IDAT" + zlib.compress(b""), b"IEND"]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
    before = Image.MAX_IMAGE_PIXELS
    assert picture_size(path) == (9500, 20000)
    with pytest.raises(SegfocusError, match="--max-pixels raises it"):
        read_picture(path)
    assert before == Image.MAX_IMAGE_PIXELS


def test_list_pictures(tmp_path):
    for name in ("b.JPG", "a/c.png", "a/notes.txt", ".hidden/d.png", ".e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_pictures(tmp_path) == [tmp_path / "a/c.png", tmp_path / "b.JPG"]
    with pytest.raises(SegfocusError, match="expected a folder of pictures, got nothing there"):
        list_pictures(tmp_path / "none")
    with pytest.raises(SegfocusError, match="got a file"):
        list_pictures(tmp_path / "b.JPG")
