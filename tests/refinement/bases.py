"""A tiny data set of cracks and a base for it, of which every test of maps begins."""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from segfocus import checkpoint
from segfocus.data import dataset_classes
from segfocus.methods import build
from segfocus.recipe import Recipe
from tests.training.scenes import tiny_recipe

TRAIN = [f"{photograph}-{part}" for photograph in range(4) for part in (1, 2)]
TEST = ["x", "y-1", "y-2"]


def write_cracks(root: Path) -> Path:
    """DeepCrack's layout, 32 x 40 px: a bright line on noise."""
    draw = np.random.default_rng(0)
    for split, names in (("train", TRAIN), ("test", TEST)):
        for name in names:
            mask = np.zeros((32, 40), np.uint8)
            ends = draw.integers(0, 32, 4).tolist()
            cv2.line(mask, (ends[0], ends[1]), (39, ends[3]), 255, 3)
            picture = draw.integers(0, 120, (32, 40, 3)).astype(np.uint8) + (mask // 4 * 2)[:, :, None]
            for kind, values in (("images", picture), ("masks", mask)):
                path = root / kind / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    return root


def plain_recipe(**training) -> Recipe:
    """`tiny_recipe` with the quickest network there is."""
    recipe = tiny_recipe(**training)
    recipe.model.method, recipe.model.options = "plain", {"base": {"kind": "light"}}
    return recipe


def crack_recipe(root: Path) -> Recipe:
    """Two steps on fit, validated on holdout."""
    recipe = plain_recipe(steps=2, validate_every=4.0)
    recipe.data.name, recipe.data.root = "deepcrack", str(root)
    recipe.data.train_split, recipe.data.val_split = "fit", "holdout"
    recipe.data.crop, recipe.data.scale = [32, 32], [1.0, 1.0]
    recipe.data.max_class_share = 1.0
    recipe.data.batch_size = 2
    return recipe


def save_untrained(path: Path, recipe: Recipe) -> Path:
    """A checkpoint of the recipe's network with the weights it starts from."""
    classes = dataset_classes(recipe.data)
    torch.manual_seed(1)
    checkpoint.save(path, build(recipe.model, classes.num_classes, fetch=False), recipe, classes)
    return path
