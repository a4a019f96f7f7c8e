"""How the rows of a comparison are trained: all alike, by one packaged recipe."""

from __future__ import annotations

import dataclasses

from segfocus.recipe import ModelConfig, Recipe, load_recipe

RECIPE = "threshnet-maps"
"""the packaged recipe: crops, augmentation, optimiser, batch, windows"""
_MOST_MAPS = 12
"""of single classes in a step of a training: refiners that see one class at a time take as much memory for eleven
classes of one picture as for eleven pictures of two (ThreshNet of quarter width: 0.25 GiB for 256 x 256 px)"""


def batch_for(batch_size: int, num_classes: int) -> int:
    """Pictures a step: `batch_size`, of three or more classes at most as many as have 12 maps of single classes."""
    return batch_size if num_classes == 2 else min(batch_size, max(1, _MOST_MAPS // num_classes))


def row_recipe(method: str, maps: str, masks: str, images: str | None, steps: int, seed: int) -> Recipe:
    """The recipe of one row: `RECIPE` with another method, files, length and seed.

    Args:
        method: name of a trained refiner in `segfocus.methods.METHODS`; ThreshNet keeps the recipe's width.
        maps, masks, images: folders to train on; a share (data.val_share) is held out to choose the best weights.
        steps: of the optimiser.
        seed: of weights, order and augmentation.
    """
    recipe = load_recipe(RECIPE)
    recipe.description = f"{method}, a row of segfocus refine compare"
    recipe.data = dataclasses.replace(recipe.data, maps=maps, masks=masks, images=images)
    options = recipe.model.options if method == recipe.model.method else {}
    recipe.model = ModelConfig(method=method, pretrained=False, options=dict(options))
    recipe.training = dataclasses.replace(recipe.training, steps=steps, epochs=None, minutes=None, seed=seed)
    return recipe
