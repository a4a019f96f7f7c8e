import json

import numpy as np
import pytest
import yaml

from segfocus.data.classes import Classes, default_color
from segfocus.errors import SegfocusError

ISSUE = """
classes:
  0: sky
  1: {name: building, raw: [1, 17], color: [128, 0, 0]}
  2: {name: pole, raw: [[192, 192, 128]], thin: true}
ignore: [11, 255]
"""


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(ISSUE)
    return Classes.load(path)


def test_the_documented_file(classes):
    assert classes.names == ("sky", "building", "pole")
    assert classes.num_classes == 3
    assert classes.raw == ((0,), (1, 17), ((192, 192, 128),))
    assert classes.colors[1] == (128, 0, 0)
    assert classes.thin == (False, False, True)
    assert classes.category == (None, None, None)
    assert classes.instances == (False, False, False)
    assert classes.ignore == (11, 255)
    assert classes.reads_colors


def test_round_trips_through_json_and_yaml(classes):
    assert Classes.from_dict(classes.to_dict()) == classes
    assert Classes.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes
    assert Classes.from_dict(yaml.safe_load(yaml.safe_dump(classes.to_dict()))) == classes


def test_optional_keys(tmp_path):
    entry = {"name": "car", "raw": 7, "category": "vehicle", "instances": True}
    classes = Classes.from_dict({"classes": {"0": "road", "1": entry}})
    assert (classes.raw[1], classes.category[1], classes.instances[1]) == ((7,), "vehicle", True)
    assert classes.ignore == ()
    assert Classes.of(["a", "b"], thin=["b"]).thin == (False, True)


def test_default_colors_differ():
    assert len({default_color(index) for index in range(60)}) == 60
    assert default_color(3, "Background") == (0, 0, 0)


def slow_encode(classes: Classes, mask: np.ndarray) -> np.ndarray:
    table = {value: index for index, raw in enumerate(classes.raw) for value in raw}
    table |= dict.fromkeys(classes.ignore, 255)
    out = np.zeros(mask.shape[:2], np.uint8)
    for row, column in np.ndindex(out.shape):
        value = mask[row, column]
        key = tuple(int(channel) for channel in value) if mask.ndim == 3 else int(value)
        if key not in table and mask.ndim == 3 and len(set(key)) == 1:
            key = key[0]
        out[row, column] = table[key]
    return out


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_encode_integers_against_a_loop(classes, kind):
    mask = np.random.default_rng(0).choice([0, 1, 17, 11, 255], (13, 17)).astype(kind)
    np.testing.assert_array_equal(classes.encode(mask), slow_encode(classes, mask))


def test_encode_colors_against_a_loop(classes):
    choices = np.array([[0, 0, 0], [17, 17, 17], [192, 192, 128], [255, 255, 255]], np.uint8)
    mask = choices[np.random.default_rng(0).integers(0, 4, (9, 11))]
    np.testing.assert_array_equal(classes.encode(mask), slow_encode(classes, mask))


def test_encode_values_above_8_bits():
    classes = Classes.from_dict({"classes": {0: {"name": "a", "raw": [1000]}, 1: {"name": "b", "raw": [70000]}}})
    mask = np.array([[1000, 70000]], np.int32)
    assert classes.encode(mask).tolist() == [[0, 1]]
    assert classes.decode(np.array([[1, 0]], np.uint8)).tolist() == [[70000, 1000]]


def test_decode_gives_the_first_raw_value():
    classes = Classes.from_dict({"classes": {0: "a", 1: {"name": "b", "raw": [5, 6]}}, "ignore": [9]})
    labels = np.array([[0, 1, 255]], np.uint8)
    assert classes.decode(labels).tolist() == [[0, 5, 9]]
    np.testing.assert_array_equal(classes.encode(classes.decode(labels)), labels)
    with pytest.raises(SegfocusError, match="below 2 or 255, got 7"):
        classes.decode(np.array([[7]], np.uint8))


def test_decode_colors(classes):
    assert classes.decode(np.array([[2, 0]], np.uint8)).tolist() == [[[192, 192, 128], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.array([[0, 42]], np.uint8), "value 42"),
        (np.array([[0, 300]], np.uint16), "value 300"),
        (np.array([[[1, 2, 3], [0, 0, 0]]], np.uint8), r"value \(1, 2, 3\)"),
        (np.arange(200, dtype=np.uint8)[None], "lossy"),
    ],
)
def test_an_unmapped_value_names_the_file_and_the_value(classes, mask, words):
    with pytest.raises(SegfocusError, match=f"street/b.png: .*{words}") as caught:
        classes.encode(mask, "street/b.png")
    assert "\n" not in str(caught.value)


def test_255_as_foreground():
    classes = Classes.from_dict({"classes": {0: "background", 1: {"name": "crack", "raw": [255]}}})
    assert classes.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    with pytest.raises(SegfocusError, match=r"raw: \[255\]"):
        Classes.from_dict({"classes": {0: "background", 1: "crack"}}).encode(np.array([[0, 255]], np.uint8))


def test_an_empty_mask_is_fine(classes):
    assert (classes.encode(np.full((3, 4), 255, np.uint8)) == 255).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes: {0: sky}", "at least two, got 1"),
        ("classes: {}", "at least two"),
        ("- 1", "expected a mapping"),
        ("classes: {0: a, 2: b}", "train ids 0 to 1"),
        ("classes: {0: a, b: c}", "as keys, got 'b'"),
        ("classes: {0: a, 1: a}", "'a' more than once"),
        ("classes: {0: a, 0: b}", "key 0 twice"),
        ("classes: {0: a, 1: {name: b, raw: [0]}}", "got 0 more than once"),
        ("classes: {0: a, 1: {name: b, raw: [[0, 0, 0]]}}", "got 0 more than once"),
        ("classes: {0: a, 1: b}\nignore: [1]", "got 1 more than once"),
        ("classes: {0: a, 1: {name: b, colour: [1, 2, 3]}}", "'colour'; did you mean color"),
        ("classes: {0: a, 1: {name: b, color: [1, 2]}}", "0 to 255"),
        ("classes: {0: a, 1: {name: b, raw: x}}", "list of raw mask values"),
        ("classes: {0: a, 1: {name: b, raw: [-1]}}", "integers from 0"),
        ("classes: {0: a, 1: {name: b, thin: 3}}", "true or false"),
        ("classes: {0: a, 1: {name: b, category: 3}}", "category to be text"),
        ("classes: {0: a, 1: 7}", "expected a name"),
        ("classes: {0: a, 1: b}\nignored: [3]", "'ignored'; did you mean ignore"),
        ("classes: [", "expected YAML"),
    ],
)
def test_refusals_name_the_file(tmp_path, text, words):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(SegfocusError, match=words) as caught:
        Classes.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_too_many_classes(tmp_path):
    with pytest.raises(SegfocusError, match="does not exist"):
        Classes.load(tmp_path / "none.yaml")
    assert Classes.of(map(str, range(254)), ignore=()).num_classes == 254
    with pytest.raises(SegfocusError, match="at most 254, got 255"):
        Classes.of(map(str, range(255)), ignore=())


def test_a_classes_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {0: a, 1: b}")

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "read_text", denied)
    with pytest.raises(SegfocusError, match=r"classes.yaml: expected YAML, got .*Permission denied"):
        Classes.load(path)
