"""What is suggested can be typed."""

import shlex

import numpy as np
import pytest
import yaml

from segfocus.data.classes import Classes
from segfocus.data.doctor import advice, examine
from segfocus.options import add_recipe_options, changed, overrides, parse, verb_parser
from segfocus.recipe import load_recipe
from segfocus.training.checks import check
from segfocus.verbs.training import _one_length
from tests.data.doctor.folders import CLASSES, images_of, masks_of, save, write_scenes

SECTIONS = ("data", "model", "optimizer", "training", "evaluation")


def recipe_of(command: str):
    """The recipe that a suggested command trains."""
    program, verb, name, *options = shlex.split(command)
    assert (program, verb) == ("segfocus", "train")
    parser = verb_parser("train", "", "")
    add_recipe_options(parser, SECTIONS)
    return changed(load_recipe(name), _one_length(overrides(parse(parser, options), SECTIONS)))


def test_the_command_is_one_that_train_takes(tmp_path):
    root = write_scenes(tmp_path / "with space", {"train": 8, "val": 4, "test": 4})
    findings = examine(root / "images", root / "masks")
    recipe = recipe_of(findings.suggestions.command)
    check(recipe)
    assert recipe.data.images == str(root / "images/train")
    assert recipe.data.val_masks == str(root / "masks/val")
    assert recipe.data.classes == "classes.yaml"
    assert recipe.data.crop == [64, 64]
    assert recipe.data.batch_size == 8  # not 16, as there are only 8 pictures
    assert recipe.training.steps == 2000
    assert set(findings.suggestions.settings) <= set(findings.suggestions.reasons)


def test_test_pictures_are_not_trained_on(tmp_path):
    root = write_scenes(tmp_path, {"train": 8, "test": 4})
    recipe = recipe_of(examine(root / "images", root / "masks", CLASSES).suggestions.command)
    assert recipe.data.images == str(root / "images/train")
    assert recipe.data.val_images is None


def test_typed_folders_are_repeated(tmp_path):
    first, second = write_scenes(tmp_path / "a"), write_scenes(tmp_path / "b")
    for path in images_of(second) + masks_of(second):
        path.rename(path.with_name(f"other_{path.name}"))
    folders = [str(root / name / "train") for root in (first, second) for name in ("images", "masks")]
    typed = {"data.classes": "c.yaml", "data.val_images": folders[2], "data.val_masks": folders[3]}
    findings = examine(*folders[:2], CLASSES, val_images=folders[2], val_masks=folders[3], typed=typed)
    assert findings.splits == {"train": 8, "val": 8}
    assert findings.split_by == "validation pictures given"
    assert [problem.code for problem in findings.problems if problem.level == "error"] == ["copies-across-splits"]
    for seed, path in enumerate(images_of(second)):
        save(path, np.random.default_rng(seed).integers(0, 256, (64, 80, 3), np.uint8))
    findings = examine(*folders[:2], CLASSES, val_images=folders[2], val_masks=folders[3], typed=typed)
    recipe = recipe_of(findings.suggestions.command)
    data = recipe.data
    assert [data.images, data.masks, data.val_images, data.val_masks, data.classes] == [*folders, "c.yaml"]


def test_balanced_classes_need_no_weights(tmp_path):
    half = np.zeros((64, 80), np.uint8)
    half[:, 40:] = 1
    for index in range(4):
        noise = np.random.default_rng(index).integers(0, 256, (64, 80, 3), np.uint8)
        save(tmp_path / f"images/{index}.png", noise)
        save(tmp_path / f"masks/{index}.png", half)
    settings = examine(tmp_path / "images", tmp_path / "masks").suggestions.settings
    assert settings["model.class_weights"] == "none"


def test_classes_that_do_not_occur_weigh_nothing():
    seen = [advice.Seen(1, 50, 10, 100, 40), advice.Seen(), advice.Seen(2, 50, 30, 200, 60)]
    weights = advice.class_weights(seen)
    assert all(values[1] == 0 for values in weights.values())
    np.testing.assert_allclose(weights["median_frequency"], [0.375 / 0.5, 0, 0.375 / 0.25])
    np.testing.assert_allclose(weights["median_frequency_edges"], [0.375 / 0.25, 0, 0.375 / 0.5])
    np.testing.assert_allclose(weights["masks"], [1, 0, 1])
    assert all((values == 0).all() for values in advice.class_weights([advice.Seen()] * 2).values())


@pytest.mark.parametrize(
    "table",
    [
        {
            "classes": {0: {"name": "a: b, {c}", "raw": [0]}, 1: {"name": "été", "raw": [1, 7], "thin": True}},
            "ignore": [9],
        },
        {"classes": {0: {"name": "yes", "raw": [[1, 2, 3]]}, 1: {"name": "12", "raw": []}}, "ignore": []},
    ],
)
def test_the_text_of_a_classes_file_reads_back(table):
    text = advice.classes_text(table)
    assert Classes.from_dict(yaml.safe_load(text)) == Classes.from_dict(table)
    assert len(text.splitlines()) == 3 + bool(table["ignore"])
