"""Values of one mask, and how they meet the classes."""

import numpy as np
import pytest

from segfocus.data.classes import Classes
from segfocus.data.doctor.listing import Item
from segfocus.data.doctor.look import UNMAPPED, count_values, look_at
from segfocus.errors import SegfocusError
from tests.data.doctor.folders import CLASSES, save

RNG = np.random.default_rng(0)
TABLE = {
    "classes": {
        0: {"name": "a", "raw": [0, [9, 9, 9], 300]},
        1: {"name": "b", "raw": [[1, 2, 3], 4]},
        2: {"name": "c", "raw": [[4, 4, 5]]},
    },
    "ignore": [255, [7, 0, 7], 11],
}
COLORS = [(0, 0, 0), (9, 9, 9), (1, 2, 3), (4, 4, 4), (4, 4, 5), (255, 255, 255), (7, 0, 7), (11, 11, 11), (8, 8, 8)]


def encoded(classes: Classes, value) -> int:
    """What `Classes.encode` makes of one value; -1 where it refuses."""
    mask = np.array([[value]], np.uint8) if isinstance(value, tuple) else np.array([[value]], np.int64)
    try:
        return int(classes.encode(mask)[0, 0])
    except SegfocusError:
        return UNMAPPED


@pytest.mark.parametrize("color", COLORS)
def test_train_ids_are_those_of_encode_for_colours(color):
    classes = Classes.from_dict(TABLE)
    values = count_values(np.full((4, 5, 3), color, np.uint8), classes)
    assert values.train_ids.tolist() == [encoded(classes, color)]
    assert values.raw == ((color[0],) if len(set(color)) == 1 else (color,))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_train_ids_are_those_of_encode_for_integers(kind):
    classes = Classes.from_dict(TABLE)
    choices = [value for value in (0, 4, 9, 11, 255, 8, 300) if value < 256 or kind is not np.uint8]
    mask = RNG.choice(choices, (20, 30)).astype(kind)
    values = count_values(mask, classes)
    assert values.raw == tuple(np.unique(mask).tolist())
    assert values.pixels.tolist() == [int((mask == value).sum()) for value in values.raw]
    assert values.train_ids.tolist() == [encoded(classes, value) for value in values.raw]


def test_more_values_than_labels_still_count():
    mask = np.arange(600).reshape(20, 30).astype(np.uint16)
    values = count_values(mask, None)
    assert len(values.raw) == 600
    assert values.edge.sum() == 0
    full = Classes.of([f"c{index}" for index in range(254)])
    values = count_values(np.arange(256, dtype=np.uint8).reshape(16, 16), full)
    assert values.train_ids.tolist() == [*range(254), UNMAPPED, 255]


def test_the_frame_is_no_edge_and_tiny_masks_have_values():
    assert count_values(np.zeros((12, 9), np.uint8), None).edge.tolist() == [0]
    assert count_values(np.array([[3]], np.uint8), None).pixels.tolist() == [1]
    assert count_values(np.array([[3, 4]], np.uint8), None).edge.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("ending", "options", "lossy", "kind"),
    [
        ("png", {}, False, "8-bit PNG"),
        ("jpg", {}, True, "8-bit JPEG"),
        ("webp", {"lossless": True}, False, "RGB WebP"),
        ("webp", {"quality": 80}, True, "RGB lossy WebP"),
        ("tif", {}, False, "8-bit TIFF"),
        ("bmp", {}, False, "8-bit BMP"),
    ],
)
def test_kinds_of_files_are_told_by_their_content(tmp_path, ending, options, lossy, kind):
    mask = save(tmp_path / f"mask.{ending}", np.zeros((16, 16), np.uint8), **options)
    renamed = mask.rename(tmp_path / "renamed.png")
    look = look_at(Item("a", renamed, renamed), CLASSES, 10**6)
    assert (look.lossy, look.mask_kind) == (lossy, kind)
    assert look.broken == ()
