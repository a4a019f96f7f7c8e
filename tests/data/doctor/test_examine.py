"""The examination: its counts against slow twins, and what it says of copies broken in every way."""

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from segfocus.data import dataset_classes
from segfocus.data.classes import Classes
from segfocus.data.doctor import Place, examine
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig
from tests.data.doctor.folders import (
    CLASSES,
    images_of,
    labels_of,
    masks_of,
    picture_of,
    save,
    two_classes,
    write_scenes,
)


def examined(root, classes=CLASSES, **options):
    return examine(root / "images", root / "masks", classes, **options)


def codes(findings, level=None):
    return {problem.code for problem in findings.problems if level in (None, problem.level)}


def the(findings, code):
    """The one problem of a code."""
    (found,) = [problem for problem in findings.problems if problem.code == code]
    return found


def slow_edges(labels: np.ndarray) -> np.ndarray:
    """Pixels with another label at most 3 px away, one by one."""
    near = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        near[y, x] = (labels[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] != labels[y, x]).any()
    return near


# --------------------------------------------------------------------------------------------------- what it counts


def test_a_good_data_set_passes_with_the_right_counts(tmp_path):
    findings = examined(write_scenes(tmp_path))
    assert findings.passed
    assert codes(findings) == {"thin-classes"}
    assert "wire" in the(findings, "thin-classes").text
    assert findings.splits == {"train": 8, "val": 4}
    assert findings.split_by == "folders train/, val/"
    assert findings.pictures == {"sizes": [[64, 80, 12]], "kinds": {"RGB PNG": 12}}
    assert findings.masks["kinds"] == {"8-bit PNG": 12}
    masks = [labels_of(seed) for seed in range(12)]
    edges = [slow_edges(mask) for mask in masks]
    for index, row in enumerate(findings.classes):
        pixels = sum(int((mask == index).sum()) for mask in masks)
        on_edge = sum(int(((mask == index) & edge).sum()) for mask, edge in zip(masks, edges, strict=True))
        assert row.pixels == pixels
        assert row.share == pytest.approx(pixels / sum(int((mask != 255).sum()) for mask in masks))
        all_edges = sum(int(((mask != 255) & edge).sum()) for mask, edge in zip(masks, edges, strict=True))
        assert row.edge_share == pytest.approx(on_edge / all_edges)
        assert row.thinness == pytest.approx(on_edge / pixels)
        assert row.files == {
            "train": sum((mask == index).any() for mask in masks[:8]),
            "val": sum((mask == index).any() for mask in masks[8:]),
        }
    assert findings.ignored is not None
    assert findings.ignored.pixels == 12 * 45
    assert findings.ignored.files == {"train": 8, "val": 4}
    values = {value: (pixels, files) for value, pixels, files in findings.masks["values"]}
    assert values[1] == (findings.classes[1].pixels, sum((mask == 1).any() for mask in masks))
    assert sum(pixels for pixels, _ in values.values()) == 12 * 64 * 80


def test_weights_come_from_the_training_masks(tmp_path):
    from segfocus.training.run import class_weights

    findings = examined(write_scenes(tmp_path))
    masks = [labels_of(seed) for seed in range(8)]
    edges = [slow_edges(mask) for mask in masks]
    counts = np.array([sum((mask == index).sum() for mask in masks) for index in range(3)])
    assert [row.weights["masks"] for row in findings.classes] == class_weights(counts)

    def frequencies(chosen):
        """Share of a class within the pictures that hold it (Eigen and Fergus)."""
        found = []
        for index in range(3):
            holding = [(m, c) for m, c in zip(masks, chosen, strict=True) if (m == index).any()]
            part = sum(((m == index) & c).sum() for m, c in holding)
            found.append(part / sum(((m != 255) & c).sum() for m, c in holding))
        return np.array(found)

    for name, chosen in (("median_frequency", [m < 256 for m in masks]), ("median_frequency_edges", edges)):
        share = frequencies(chosen)
        np.testing.assert_allclose([r.weights[name] for r in findings.classes], np.median(share) / share, atol=1e-4)
    enet = 1 / np.log(1.02 + counts / counts.sum())
    np.testing.assert_allclose([row.weights["enet"] for row in findings.classes], enet, atol=1e-4)


@pytest.mark.parametrize("table", [(0, 1, 2), (7, 40, 3)])
def test_without_a_classes_file_it_finds_what_training_would(tmp_path, table):
    write_scenes(tmp_path, table=table)
    findings = examined(tmp_path, None)
    assert findings.passed
    suggested = Classes.from_dict(findings.suggestions.classes)
    trained = dataset_classes(DataConfig(images=str(tmp_path / "images"), masks=str(tmp_path / "masks")))
    assert (suggested.names, suggested.raw, suggested.ignore) == (trained.names, trained.raw, trained.ignore)
    with_file = examined(tmp_path, suggested)
    assert [row.weights for row in with_file.classes] == [row.weights for row in findings.classes]
    assert [row.pixels for row in with_file.classes] == [row.pixels for row in findings.classes]
    assert [name for name, thin in zip(suggested.names, suggested.thin, strict=True) if thin] == [f"class_{table[2]}"]


def test_0_and_255_without_a_classes_file_are_background_and_foreground(tmp_path):
    findings = examined(two_classes(tmp_path), None)
    assert findings.passed
    suggested = Classes.from_dict(findings.suggestions.classes)
    assert suggested.raw == ((0,), (255,))
    assert findings.suggestions.ignore == ()
    with_file = examined(tmp_path, suggested)
    assert [row.weights for row in with_file.classes] == [row.weights for row in findings.classes]


def test_merged_raw_values_have_no_edge_between_them(tmp_path):
    write_scenes(tmp_path)
    merged = Classes.from_dict(
        {"classes": {0: {"name": "all", "raw": [0, 1, 2]}, 1: {"name": "none", "raw": [9]}}, "ignore": [255]}
    )
    row = examined(tmp_path, merged).classes[0]
    labels = [np.where(labels_of(seed) == 255, 255, 0) for seed in range(12)]
    edge = sum(int((slow_edges(each) & (each == 0)).sum()) for each in labels)
    assert row.thinness == pytest.approx(edge / row.pixels)


def test_threads_change_nothing(tmp_path):
    write_scenes(tmp_path)
    save(masks_of(tmp_path)[2], np.zeros((3, 4), np.uint8))
    one, four = (examined(tmp_path, threads=count).to_dict() for count in (1, 4))
    assert json.dumps(one, allow_nan=False) == json.dumps(four, allow_nan=False)


# ---------------------------------------------------------------------------------------------- five ways to break it


@pytest.mark.parametrize("ignore", [(), (255,)])
def test_0_and_255_with_classes_0_and_1(tmp_path, ignore):
    two_classes(tmp_path)
    findings = examined(tmp_path, Classes.of(["background", "crack"], ignore=ignore))
    assert codes(findings, "error") == {"masks-0-255"}
    found = the(findings, "masks-0-255")
    assert found.count == 12
    assert "'crack' would never be learnt; try raw: [255]" in found.text
    assert ("ignores 255" in found.text) == bool(ignore)
    mended = Classes.from_dict(findings.suggestions.classes)
    assert mended.names == ("background", "crack")
    assert examined(tmp_path, mended).passed


def test_two_ways_of_writing_a_class(tmp_path):
    two_classes(tmp_path)
    for path in masks_of(tmp_path, "val"):
        save(path, (np.array(Image.open(path)) > 0).astype(np.uint8))
    findings = examined(tmp_path, None)
    assert codes(findings, "warning") == {"masks-0-1-255", "classes-missing-from-train"}
    assert the(findings, "masks-0-1-255").count == 8
    mask = np.array(Image.open(masks_of(tmp_path, "val")[0]))
    mask[:, 0] = 255  # void beside the class: 255 has a meaning of its own
    save(masks_of(tmp_path, "val")[0], mask)
    assert "masks-0-1-255" not in codes(examined(tmp_path, None))


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_jpeg_masks(tmp_path, classes):
    write_scenes(tmp_path, table=(0, 100, 200))
    if classes is not None:
        classes = Classes.from_dict(
            {"classes": {0: "a", 1: {"name": "b", "raw": [100]}, 2: {"name": "c", "raw": [200]}}, "ignore": [255]}
        )
    for path in masks_of(tmp_path, "val"):
        Image.open(path).save(path.with_suffix(".JPG"), format="JPEG", quality=90)
        path.unlink()
    findings = examined(tmp_path, classes)
    assert codes(findings, "error") == {"lossy-mask"}
    found = the(findings, "lossy-mask")
    assert (found.level, found.count) == ("error", 4)
    assert found.places[0].file.endswith("masks/val/i.JPG")
    assert "try to export them again as PNG" in found.text
    assert findings.classes[0].files == {"train": 8, "val": 0}  # what JPEG made of it is not counted


def test_jpeg_masks_with_right_values_are_a_warning(tmp_path):
    two_classes(tmp_path)
    for path in masks_of(tmp_path):
        save(path, np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((32, 40), np.uint8)))
        Image.open(path).save(path.with_suffix(".jpg"), quality=100)  # whole blocks of one value stay as they are
        path.unlink()
    findings = examined(tmp_path, None)
    assert findings.passed
    assert the(findings, "lossy-mask").count == 12


def test_smoothly_resized_masks(tmp_path):
    root = two_classes(tmp_path)
    for path in masks_of(root, "train"):
        mask = np.array(Image.open(path))
        save(path, cv2.resize(cv2.resize(mask, (40, 32), interpolation=cv2.INTER_AREA), (80, 64)))
    for classes in (None, Classes.from_dict({"classes": {0: "a", 1: {"name": "b", "raw": [255]}}})):
        findings = examined(root, classes)
        found = the(findings, "smoothed-mask")
        assert (found.level, found.count) == ("error", 8)
        assert "most pixels are 0: " in found.text


def test_sizes_that_differ(tmp_path):
    write_scenes(tmp_path)
    first, second = masks_of(tmp_path)[:2]
    save(first, np.zeros((32, 40), np.uint8))
    save(second, np.ascontiguousarray(labels_of(1).T))
    found = the(examined(tmp_path), "size-mismatch")
    assert (found.level, found.count) == ("error", 2)
    assert [place.why for place in found.places] == ["32x40, its picture 64x80", "80x64, its picture 64x80 (turned)"]


def test_files_that_cannot_be_read(tmp_path):
    write_scenes(tmp_path)
    pictures, masks = images_of(tmp_path), masks_of(tmp_path)
    pictures[0].write_bytes(pictures[0].read_bytes()[:300])
    pictures[1].write_bytes(b"")
    pictures[2].write_text("no picture")
    masks[3].write_bytes(masks[3].read_bytes()[:60])
    masks[4].unlink()
    save(tmp_path / "masks/train/other.png", labels_of(0))
    shutil.copy(pictures[5], pictures[5].with_suffix(".bmp"))
    findings = examined(tmp_path)
    assert codes(findings, "error") == {
        "unreadable-picture",
        "unreadable-mask",
        "picture-without-mask",
        "same-name-twice",
    }
    unreadable = the(findings, "unreadable-picture")
    assert [place.file for place in unreadable.places] == [str(path) for path in pictures[:3]]
    assert "truncated or damaged" in unreadable.places[0].why
    assert "0 bytes" in unreadable.places[1].why
    assert the(findings, "unreadable-mask").places[0].file == str(masks[3])
    assert the(findings, "mask-without-picture").level == "warning"
    assert findings.splits == {"train": 7, "val": 4}
    assert findings.suggestions.command == ""
    assert findings.classes[0].files == {
        "train": 6,
        "val": 4,
    }  # masks of broken pictures are counted


def test_values_without_a_class(tmp_path):
    write_scenes(tmp_path)
    for path in masks_of(tmp_path)[:3]:
        labels = np.array(Image.open(path))
        labels[30:50, 30:60] = 77
        labels[10] = 200  # one line: nothing but edge
        labels[60, 7] = 78  # a stray pixel is no outline
        save(path, labels)
    findings = examined(tmp_path)
    found = the(findings, "unmapped-values")
    assert (found.level, found.count) == ("error", 3)
    assert f"77 ({3 * 600 / (12 * 64 * 80):.2%}), 200 ({3 * 80 / (12 * 64 * 80):.2%}), 78" in found.text
    assert found.places[0].why == "77, 78, 200"
    assert findings.suggestions.ignore == (200,)
    assert findings.suggestions.reasons["ignore"] == "in no class, and only along outlines"


def test_values_shifted_by_one(tmp_path):
    write_scenes(tmp_path, table=(1, 2, 3))
    assert "off by one?" in the(examined(tmp_path), "unmapped-values").text


def test_classes_missing_from_a_split(tmp_path):
    write_scenes(tmp_path)
    for path in masks_of(tmp_path, "val"):
        labels = np.array(Image.open(path))
        save(path, np.where(labels == 2, 0, labels).astype(np.uint8))
    findings = examined(tmp_path, Classes.of(["ground", "house", "wire", "boat"]))
    assert findings.passed
    assert the(findings, "classes-missing-from-val").text.endswith("mean IoU there: wire")
    assert "boat" in the(findings, "classes-that-never-occur").text
    for path in masks_of(tmp_path, "train"):
        save(path, np.minimum(np.array(Image.open(path)), 0).astype(np.uint8))
    found = the(examined(tmp_path), "classes-missing-from-train")
    assert "cannot be learnt: house" in found.text


def test_copies(tmp_path):
    write_scenes(tmp_path)
    train, val = images_of(tmp_path, "train"), images_of(tmp_path, "val")
    shutil.copy(train[0], val[0])
    Image.open(train[1]).resize((160, 128)).resize((80, 64)).save(val[1])
    shutil.copy(train[2], train[3])
    findings = examined(tmp_path)
    assert codes(findings, "error") == {"copies-across-splits"}
    assert the(findings, "copies-across-splits").places == (Place(str(val[0]), f"also {train[0]}"),)
    near = the(findings, "near-copies-across-splits")
    assert near.level == "warning"
    assert [place.file for place in near.places] == [str(val[1])]
    assert str(train[1]) in near.places[0].why
    assert the(findings, "copies-within-split").count == 1
    assert the(findings, "copies-with-other-masks").count == 2


# ------------------------------------------------------------------------------------------------------ other findings


def test_frames_of_one_recording_in_two_splits(tmp_path):
    write_scenes(tmp_path)
    for files in (images_of(tmp_path), masks_of(tmp_path)):
        for index, path in enumerate(files):
            path.rename(path.with_name(f"clip07_{index:05d}.png"))
    found = the(examined(tmp_path), "recordings-across-splits")
    assert found.level == "warning"
    assert "clip07_* (train 8, val 4)" in found.text


def test_masks_without_labels_and_several_kinds(tmp_path):
    write_scenes(tmp_path)
    save(masks_of(tmp_path)[0], np.full((64, 80), 255, np.uint8))
    save(masks_of(tmp_path)[1], labels_of(1).astype(np.uint16))
    pictures = images_of(tmp_path)
    picture = picture_of(labels_of(2), 2)
    save(pictures[2], np.dstack([picture, np.full((64, 80), 255, np.uint8)]))
    save(pictures[3], picture_of(labels_of(3), 3)[..., 0])
    cv2.imwrite(str(pictures[4]), picture_of(labels_of(4), 4).astype(np.uint16) * 257)
    findings = examined(tmp_path)
    assert findings.passed
    assert the(findings, "nothing-labelled").places[0].file == str(masks_of(tmp_path)[0])
    notes = {"several-kinds-of-masks", "transparency", "deep-pictures", "grey-and-colour", "thin-classes"}
    assert codes(findings, "note") == notes
    assert findings.pictures["kinds"] == {"RGB PNG": 9, "RGBA PNG": 1, "grey PNG": 1, "RGB 16-bit PNG": 1}


def test_pictures_with_too_many_pixels(tmp_path):
    write_scenes(tmp_path)
    save(images_of(tmp_path)[0], np.zeros((70, 80, 3), np.uint8))
    found = the(examined(tmp_path, max_pixels=64 * 80), "too-large")
    assert (found.level, found.count) == ("error", 1)
    assert "5600 (70x80)" in found.places[0].why


def test_colour_masks(tmp_path):
    write_scenes(tmp_path)
    colors = np.zeros((256, 3), np.uint8)
    colors[[0, 1, 2, 255]] = [[0, 0, 0], [200, 10, 10], [10, 200, 10], [255, 255, 255]]
    for path in masks_of(tmp_path):
        save(path, colors[np.array(Image.open(path))])
    findings = examined(tmp_path, None)
    assert codes(findings, "error") == {"colours-without-classes"}
    suggested = Classes.from_dict(json.loads(json.dumps(findings.suggestions.classes)))
    assert set(suggested.colors) == {(0, 0, 0), (200, 10, 10), (10, 200, 10), (255, 255, 255)}
    again = examined(tmp_path, suggested)
    assert again.passed
    assert sorted(row.pixels for row in again.classes) == sorted(row.pixels for row in findings.classes)
    assert min(row.pixels for row in again.classes) == 12 * 45


def test_instance_ids_and_too_many_values(tmp_path):
    write_scenes(tmp_path)
    for path in masks_of(tmp_path):
        save(path, labels_of(0).astype(np.uint16) * 1000)
    assert "instance-ids" in codes(examined(tmp_path, None), "warning")
    save(masks_of(tmp_path)[0], np.arange(64 * 80).reshape(64, 80).astype(np.uint16))
    assert "too-many-values" in codes(examined(tmp_path, None), "error")
    for index, path in enumerate(masks_of(tmp_path)):  # few in each, too many in all
        save(path, (np.arange(64 * 80).reshape(64, 80) // 50 + 103 * index).astype(np.uint16))
    assert "got over 999 (" in the(examined(tmp_path, None), "no-classes").text


@pytest.mark.parametrize(("value", "words"), [(0, r"got 1 (0)"), (255, "got 0 (255)")])
def test_masks_of_one_value(tmp_path, value, words):
    write_scenes(tmp_path)
    for path in masks_of(tmp_path):
        save(path, np.full((64, 80), value, np.uint8))
    findings = examined(tmp_path, None)
    assert words in the(findings, "no-classes").text
    assert findings.suggestions.classes is None


def test_a_single_pair_is_too_few(tmp_path):
    write_scenes(tmp_path, {"one": 1})
    assert "single-pair" in codes(examined(tmp_path), "error")


def test_what_cannot_be_examined_is_refused(tmp_path):
    write_scenes(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "masks"
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegfocusError, match="nothing there"):
        examine(tmp_path / "none", masks)
    with pytest.raises(SegfocusError, match=r"empty: expected pictures \(.*got none"):
        examine(images, tmp_path / "empty")
    with pytest.raises(SegfocusError, match=r"in two folders.*--mask-suffix where masks lie beside"):
        examine(images, images)
    with pytest.raises(SegfocusError, match="--val-masks"):
        examine(images, masks, val_images=images)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("camvid", {"recordings-across-splits"}),
        ("deepcrack", {"recordings-across-splits", "near-copies-across-splits"}),
        ("drive", set()),
        ("nuclei_dsb2018", set()),
    ],
)
def test_on_real_data(shared_data, name, warnings):
    findings = examine(shared_data / name / "images", shared_data / name / "masks")
    assert findings.passed
    assert codes(findings, "warning") == warnings
    assert findings.suggestions.classes is not None
    assert "/images/train " in findings.suggestions.command
