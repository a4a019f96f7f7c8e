import numpy as np
import pytest
from PIL import Image

from segfocus.data import dataset_classes, open_dataset
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

NAMES = ["0001TP_006690", "0001TP_006720", "0006R0_f00930", "0016E5_00390"]


def write_camvid(root, layout, ending="png", names=NAMES, split="train"):
    folders = (f"images/{split}", f"masks/{split}") if layout == "images" else (split, f"{split}annot")
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for name in names:
        Image.new("RGB", (8, 6)).save(root / folders[0] / f"{name}.{ending}")
        Image.fromarray(np.resize(np.arange(12, dtype=np.uint8), (6, 8))).save(root / folders[1] / f"{name}.png")
    return DataConfig(name="camvid", root=str(root))


@pytest.mark.parametrize("layout", ["images", "annot"])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_both_layouts(tmp_path, layout, ending):
    dataset = open_dataset(write_camvid(tmp_path, layout, ending), "train")
    assert [pair.name for pair in dataset.pairs] == NAMES
    labels = dataset.read(0)[1]
    assert labels[0].tolist() == list(range(8))
    assert labels[1].tolist() == [8, 9, 10, 255, 0, 1, 2, 3]


def test_tuning_splits_divide_train_by_clip(tmp_path):
    config = write_camvid(tmp_path, "images")
    assert [pair.name for pair in open_dataset(config, "holdout").pairs] == NAMES[:2]
    assert [pair.name for pair in open_dataset(config, "fit").pairs] == NAMES[2:]


@pytest.mark.parametrize(
    "line", ["{}", "{}.png", "/SegNet/CamVid/train/{0}.png /SegNet/CamVid/trainannot/{0}.png;", "train\\{}.PNG"]
)
def test_lists_choose_and_order(tmp_path, line):
    config = write_camvid(tmp_path, "annot")
    (tmp_path / "train.txt").write_text("\n".join(line.format(name) for name in NAMES[:0:-1]) + "\n\n")
    assert [pair.name for pair in open_dataset(config, "train").pairs] == NAMES[:0:-1]
    assert [pair.name for pair in open_dataset(config, "holdout").pairs] == NAMES[1:2]


def test_classes():
    classes = dataset_classes(DataConfig(name="camvid"))
    assert classes.num_classes == 11
    assert classes.ignore == (11, 255)
    assert [name for name, thin in zip(classes.names, classes.thin, strict=True) if thin] == ["pole"]
    assert classes.colors[classes.names.index("pavement")] == (60, 40, 222)


def test_refusals(tmp_path):
    with pytest.raises(SegfocusError, match=r"try --data.root DIR"):
        open_dataset(DataConfig(name="camvid"), "train")
    with pytest.raises(SegfocusError, match=r"expected data.root to be a folder"):
        open_dataset(DataConfig(name="camvid", root=str(tmp_path / "none")), "train")
    config = write_camvid(tmp_path, "images", names=NAMES[2:])
    with pytest.raises(SegfocusError, match="images/val and masks/val, or val and valannot, got neither"):
        open_dataset(config, "val")
    with pytest.raises(SegfocusError, match="split holdout, got none"):
        open_dataset(config, "holdout")
    (tmp_path / "train.txt").write_text("other\n")
    with pytest.raises(SegfocusError, match=r"train.txt: .*'other', which is not"):
        open_dataset(config, "train")
    with pytest.raises(SegfocusError, match="did you mean holdout"):
        open_dataset(config, "hold_out")


@pytest.mark.real_data
def test_the_real_thing(shared_data):
    config = DataConfig(name="camvid", root=str(shared_data / "camvid"))
    lengths = {split: len(open_dataset(config, split)) for split in ("train", "val", "fit", "holdout")}
    assert lengths == {"train": 367, "val": 101, "fit": 305, "holdout": 62}
    dataset = open_dataset(config, "val")
    assert dataset.one_size()
    counts = dataset.pixel_counts()
    shares = dict(zip(dataset.classes.names, 100 * counts / counts.sum(), strict=True))
    # Shares of the labelled pixels as published beside the data.
    assert shares["sky"] == pytest.approx(9.34, abs=0.01)
    assert shares["pole"] == pytest.approx(0.57, abs=0.01)
    assert shares["bicyclist"] == pytest.approx(2.26, abs=0.01)
    assert dataset[0]["image"].shape == (3, 360, 480)
