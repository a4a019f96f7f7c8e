"""How the rows of a comparison are trained: all alike, by one packaged recipe."""

from __future__ import annotations

import dataclasses

from segfocus.recipe import ModelConfig, Recipe, load_recipe

RECIPE = "threshnet-maps"
"""the packaged recipe: crops, augmentation, optimiser, batch, windows"""


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
