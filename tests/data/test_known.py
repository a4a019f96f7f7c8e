import pytest
from cityscapesscripts.helpers.labels import labels

from segfocus.data import dataset_classes, open_dataset
from segfocus.data.classes import Classes
from segfocus.data.known import known_classes, load_classes
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig


def test_every_set_has_its_classes():
    counts = {name: load_classes(name).num_classes for name in known_classes()}
    assert counts == {"ade20k": 150, "camvid": 11, "cityscapes": 19, "coco_stuff": 171, "pascal_context": 60}


def test_cityscapes_is_the_official_table():
    classes = load_classes("cityscapes")
    for label in labels:
        if label.id < 0:
            continue
        if label.trainId in (255, -1):
            assert label.id in classes.ignore
            continue
        place = label.trainId
        found = (classes.names[place], classes.raw[place], classes.colors[place], classes.category[place])
        assert found == (label.name, (label.id,), label.color, label.category)
        assert classes.instances[place] == label.hasInstances


def test_ade20k_leaves_out_other_and_shifts_nothing():
    classes = load_classes("ade20k")
    assert classes.ignore == (0,)
    assert classes.raw == tuple((value,) for value in range(1, 151))
    assert (classes.names[0], classes.names[12], classes.names[149]) == ("wall", "person", "flag")


def test_coco_stuff_is_numbered_as_published():
    classes = load_classes("coco_stuff")
    absent = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    assert [raw for (raw,) in classes.raw] == [raw for raw in range(1, 183) if raw not in absent]
    known = {1: "person", 13: "stop sign", 44: "bottle", 90: "toothbrush", 92: "banner", 124: "grass", 182: "wood"}
    assert {raw: classes.names[classes.raw.index((raw,))] for raw in known} == known
    assert 0 in classes.ignore


def test_pascal_context_has_59_categories_and_background():
    classes = load_classes("pascal_context")
    assert classes.raw == tuple((value,) for value in range(60))
    assert classes.names[0] == "background"
    assert list(classes.names[1:]) == sorted(classes.names[1:])


def test_a_file_does_as_well_and_a_wrong_name_offers_the_nearest(tmp_path):
    (tmp_path / "mine").write_text("classes: {0: a, 1: b}")
    assert load_classes(tmp_path / "mine") == Classes.of(["a", "b"], ignore=[])
    with pytest.raises(SegfocusError, match="got 'cityscape'; did you mean cityscapes"):
        load_classes("cityscape")
    with pytest.raises(SegfocusError, match="does not exist"):
        load_classes(tmp_path / "none.yaml")


def test_sets_without_a_reader_know_their_classes_and_say_so():
    config = DataConfig(name="cityscapes", classes="cityscapes")
    assert dataset_classes(config).num_classes == 19
    with pytest.raises(SegfocusError, match=r"no reader for cityscapes yet; try --data\.name folder"):
        open_dataset(config, "train")
    assert dataset_classes(DataConfig(name="folder", classes="ade20k")).num_classes == 150
