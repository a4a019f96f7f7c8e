"""A network in numbers, built on the meta device: no weights in memory, nothing fetched."""

from __future__ import annotations

import dataclasses
from typing import Any

import segfocus
from segfocus.data import dataset_classes
from segfocus.errors import SegfocusError
from segfocus.options import changed
from segfocus.recipe import Recipe, load_recipe
from segfocus.shipped import checkpoint_path

DEFAULT_SIZE = (512, 1024)
"""height and width in pixels where neither the user nor the recipe says one"""
DEFAULT_CLASSES = 19
"""assumed where a recipe leaves its classes to the user's classes file"""
DEFAULT_REFINER_SIZE, DEFAULT_REFINER_CLASSES = (512, 512), 2
"""the same for refiners"""


def described_recipe(
    what: str, changes: dict[str, dict[str, Any]], num_classes: int | None = None
) -> tuple[Recipe, int | None]:
    """Recipe and number of classes of a recipe name, a recipe file or a checkpoint.

    The number is None where only the user's own classes file could tell it.

    Raises:
        SegfocusError: `num_classes` below two, or given for a checkpoint.
    """
    _check_classes(num_classes)
    if checkpoint_path(what).suffix == ".safetensors":
        from segfocus.checkpoint import read_metadata

        metadata = read_metadata(what)
        if num_classes is not None:
            raise SegfocusError(
                f"--num-classes: expected none with a checkpoint, which says its own, got {num_classes}; "
                f"{what} has {metadata.classes.num_classes}"
            )
        return changed(metadata.recipe, changes), metadata.classes.num_classes
    recipe = changed(load_recipe(what), changes)
    if num_classes is not None:
        return recipe, num_classes
    if recipe.data.name in ("folder", "maps") and recipe.data.classes is None:
        return recipe, None
    return recipe, dataset_classes(recipe.data).num_classes


def describe(recipe: Recipe, num_classes: int | None = None, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Parameters, multiply-adds and output maps of a recipe's network for one picture.

    Args:
        recipe: only its model section is built; pretrained weights are never fetched.
        num_classes: two or more; 19 when None, of a refiner 2.
        size: height and width in pixels; the recipe's crop when None, else 512 x 1024, of a refiner 512 x 512.

    Returns:
        JSON-safe: `parameters`, `gmac` (10^9 multiply-adds of convolutions and matrix products, evaluation mode,
        batch 1), `size`, `num_classes`, `classes_assumed`, `outputs` {name: [channels, height, width]}, `recipe`,
        `segfocus` (version).
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from segfocus.methods import build, method_class

    _check_classes(num_classes)
    refines = method_class(recipe.model.method).takes == "maps"
    height, width = size or recipe.data.crop or (DEFAULT_REFINER_SIZE if refines else DEFAULT_SIZE)
    classes = num_classes or (DEFAULT_REFINER_CLASSES if refines else DEFAULT_CLASSES)
    with torch.device("meta"):
        model = build(recipe.model, classes, fetch=False).eval()
    weights = dict([*model.named_parameters(), *model.named_buffers()])
    # the forward pass believes to be on the CPU: autocast and some timm models do not know the meta device
    with FakeTensorMode(), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        state = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in weights.items()}
        seen = (torch.zeros(1, 3, height, width),)
        if refines:
            seen = (torch.zeros(1, classes, height, width), *seen)
        output = torch.func.functional_call(model, state, seen)
    maps = {
        item.name: list(value.shape[1:])
        for item in dataclasses.fields(output)
        if isinstance(value := getattr(output, item.name), torch.Tensor)
    }
    maps |= {f"aux_logits[{name}]": list(value.shape[1:]) for name, value in output.aux_logits.items()}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gmac": counter.get_total_flops() / 2e9,
        "size": [height, width],
        "num_classes": classes,
        "classes_assumed": num_classes is None,
        "outputs": maps,
        "recipe": recipe.to_dict(),
        "segfocus": segfocus.__version__,
    }


def _check_classes(num_classes: int | None) -> None:
    if num_classes is not None and num_classes < 2:
        raise SegfocusError(f"--num-classes: expected two or more, got {num_classes}")


def text_of(found: dict[str, Any]) -> str:
    """What `describe` found, for reading."""
    height, width = found["size"]
    assumed = " (assumed; --num-classes N says otherwise)" if found["classes_assumed"] else ""
    lines = [
        Recipe.from_dict(found["recipe"]).to_yaml().rstrip(),
        "",
        f"classes     {found['num_classes']}{assumed}",
        f"parameters  {found['parameters']:,}",
        f"GMAC        {found['gmac']:.3f} for one picture of {height} x {width}",
        "output maps (channels x height x width)",
    ]
    widest = max(map(len, found["outputs"]))
    lines += [f"  {name:<{widest}}  {' x '.join(map(str, shape))}" for name, shape in found["outputs"].items()]
    return "\n".join(lines)
