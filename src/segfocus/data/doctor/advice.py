"""What to type next: class weights, a classes file, and the settings of `train` that fit these pictures."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from segfocus.data.classes import IGNORE, Classes, Raw
from segfocus.data.doctor.census import Census, Seen
from segfocus.data.doctor.findings import ClassRow, Suggestions
from segfocus.recipe import load_recipe

RECIPE = "fornet-folder"
THIN = 0.8
"""a class with this share of its pixels near its edge is thin"""
_MOST_CLASSES = 254
_FEW_PIXELS = 100  # a few stray pixels lie along outlines by themselves
_STEPS = 2000  # fewer optimiser steps leave a network from scratch far from done
_WINDOW = 4_000_000  # pictures of more pixels are predicted in windows
_MASKS_RANGE = (0.1, 10.0)


def found_classes(census: Census) -> Classes | None:
    """Classes for masks that came without a classes file; None where their values cannot be classes.

    0 and 255 alone are background and foreground; else 255 is ignored and every other value is a class, as `train`
    would have it.  Colours become classes that need names.
    """
    values = set(census.raw)
    if values == {0, IGNORE}:
        return Classes.from_dict({"classes": {0: "background", 1: {"name": "foreground", "raw": [IGNORE]}}})
    colors = any(isinstance(value, tuple) for value in values)
    ignore = [] if colors else [IGNORE]
    kept = sorted((value for value in values if value not in ignore), key=_as_color)
    if census.overflow or not 2 <= len(kept) <= _MOST_CLASSES:
        return None
    table: dict[int, dict[str, Any]] = {}
    for train_id, value in enumerate(kept):
        if colors:
            color = list(_as_color(value))
            table[train_id] = {"name": f"color_{train_id}", "raw": [color], "color": color}
        else:
            table[train_id] = {"name": f"class_{value}", "raw": [value]}
    return Classes.from_dict({"classes": table, "ignore": ignore})


def other_two_values(census: Census) -> bool:
    """The classic: masks of 0 and 255 with classes 0 and 1, of which the second is then never seen."""
    if census.classes is None or not census.only_0_255 or not set(census.raw) <= {0, IGNORE}:
        return False
    used = {value for raw in census.classes.raw for value in raw}
    return not used & {IGNORE, (IGNORE,) * 3}


def class_rows(census: Census, classes: Classes) -> tuple[tuple[ClassRow, ...], ClassRow | None]:
    """A row a class, and one for the ignored values (None where no mask holds any)."""
    keys: list[Raw] = list(range(classes.num_classes))
    void: list[Raw] = [IGNORE]
    if census.classes is None:  # counted by value
        keys = [_key(census, raw[0]) for raw in classes.raw]
        void = list(classes.ignore)
    read_255 = census.classes is None and IGNORE not in classes.ignore
    everywhere = _sum(split.classes for split in census.splits.values())
    labelled = sum(everywhere.get(key, Seen()).pixels for key in keys)
    labelled_edge = sum(everywhere.get(key, Seen()).edge for key in keys)
    in_training = [_training(census).get(key, Seen()) for key in keys]
    weights = class_weights([seen.with_void() for seen in in_training] if read_255 else in_training)
    rows = []
    for index, key in enumerate(keys):
        seen = everywhere.get(key, Seen())
        rows.append(
            ClassRow(
                name=classes.names[index],
                raw=classes.raw[index],
                pixels=seen.pixels,
                share=_ratio(seen.pixels, labelled),
                edge_share=_ratio(seen.edge, labelled_edge),
                thinness=_ratio(seen.edge, seen.pixels),
                files=_files(census, key),
                weights={name: float(values[index]) for name, values in weights.items()},
            )
        )
    ignored = _sum([{IGNORE: everywhere[key]} for key in void if key in everywhere]).get(IGNORE)
    if ignored is None:
        return tuple(rows), None
    total = labelled + ignored.pixels
    files = _files(census, void[0]) if void else {}
    return tuple(rows), ClassRow(
        "ignored", classes.ignore, ignored.pixels, _ratio(ignored.pixels, total), None, None, files
    )


def class_weights(seen: list[Seen]) -> dict[str, np.ndarray]:
    """Weights of the classes for a loss, each way float64 [classes]; 0 for a class that does not occur.

    masks: what `model.class_weights: masks` uses: sqrt(median share / share), between 0.1 and 10.
    median_frequency: median of the frequencies / frequency, where a class's frequency is its share of the labelled
        pixels in the masks that hold it (Eigen and Fergus, ICCV 2015, section 6.3.2).
    median_frequency_edges: the same over pixels within 3 px of another label only.
    enet: 1 / ln(1.02 + share) (Paszke et al., "ENet", 2016, section 5.2).
    """
    pixels = np.array([each.pixels for each in seen], np.float64)
    edge = np.array([each.edge for each in seen], np.float64)
    labelled = np.array([each.labelled for each in seen], np.float64)
    labelled_edge = np.array([each.labelled_edge for each in seen], np.float64)
    shares = pixels / max(1.0, pixels.sum())
    weights = {
        "masks": np.sqrt(_balanced(shares)).clip(*_MASKS_RANGE),
        "median_frequency": _balanced(pixels / labelled.clip(min=1)),
        "median_frequency_edges": _balanced(edge / labelled_edge.clip(min=1)),
        "enet": 1 / np.log(1.02 + shares),
    }
    return {name: np.where(pixels > 0, values, 0).round(4) for name, values in weights.items()}


def is_thin(row: ClassRow) -> bool:
    """Whether hardly a pixel of the class lies over 3 px from an edge, in enough masks to tell."""
    return (row.thinness or 0) >= THIN and sum(row.files.values()) >= 3


def classes_text(values: Mapping[str, Any]) -> str:
    """A classes file, one class a line."""
    lines = ["classes:"]
    for train_id, entry in values["classes"].items():
        flow = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000).strip()
        lines.append(f"  {train_id}: {flow}")
    if values.get("ignore"):
        lines.append(f"ignore: {yaml.safe_dump(values['ignore'], default_flow_style=True, width=10_000).strip()}")
    return "\n".join(lines) + "\n"


def suggest(
    census: Census, classes: Classes | None, rows: tuple[ClassRow, ...], folders: Mapping[str, str], ready: bool
) -> Suggestions:
    """Suggestions for `train`.

    Args:
        classes: given, or found in the masks; None where there are none.
        rows: the table of `classes`.
        folders: recipe keys of the data section -> what was typed (data.images, data.masks, data.classes, ...).
        ready: whether training would start: only then a command is given.
    """
    reasons: dict[str, str] = {}
    written = None
    if census.classes is None and classes is not None:
        written = _as_file(classes, rows)
        reasons["classes"] = "one class for each mask value"
    if census.classes is not None and census.classes.num_classes == 2 and other_two_values(census):
        written = _with_255(census.classes)
        reasons["classes"] = "255 is the second class"
    ignore, why = _ignored_values(census)
    if why:
        reasons["ignore"] = why
    advised = _settings(census, rows)
    settings = {key: value for key, (value, _) in advised.items()}
    reasons |= {key: why for key, (_, why) in advised.items()}
    command = ""
    if ready:
        typed = {**folders, **({"data.classes": "classes.yaml"} if written else {}), **settings}
        words = [word for key, value in typed.items() for word in (f"--{key}", *_words(value))]
        command = shlex.join(["segfocus", "train", RECIPE, *words])
    return Suggestions(written, ignore, settings, reasons, command)


def _settings(census: Census, rows: tuple[ClassRow, ...]) -> dict[str, tuple[Any, str]]:
    """Recipe key -> (value, why), where the recipe's own value does not fit."""
    recipe = load_recipe(RECIPE)
    if not census.sizes:
        return {}
    found: dict[str, tuple[Any, str]] = {}
    sizes = np.repeat(np.array(list(census.sizes)), list(census.sizes.values()), axis=0)
    crop = [int(np.clip(side // 32 * 32, 64, 512)) for side in np.median(sizes, axis=0)]
    if crop != recipe.data.crop:
        found["data.crop"] = (crop, f"pictures are {_extent(census)} (height x width)")
    own = recipe.data.batch_size * int(np.prod(recipe.data.crop or crop))
    training = _split_names(census)[0]
    pictures = max(1, census.splits[training].usable)
    batch = int(np.clip(2 ** round(np.log2(own / np.prod(crop))), 2, 16))
    batch = max(1, min(batch, pictures))
    if batch != recipe.data.batch_size:
        why = "as many pixels a step as in the recipe" if batch < pictures else "no more pictures than there are"
        found["data.batch_size"] = (batch, why)
    steps = pictures / batch * (recipe.training.epochs or 0)
    if steps < _STEPS:
        found["training.steps"] = (_STEPS, f"its {recipe.training.epochs:g} epochs would be only {round(steps)} steps")
    weights = [row.weights["masks"] for row in rows if row.pixels]
    if weights and max(weights) < 1.25 * min(weights):
        found["model.class_weights"] = ("none", "the classes are about equally frequent")
    largest = max(height * width for height, width in census.sizes)
    if largest > recipe.data.max_pixels:
        found["data.max_pixels"] = (largest, "the largest picture")
    if largest > _WINDOW:
        found["evaluation.window"] = ([1024, 1024], f"pictures of up to {largest / 1e6:.0f} Mpx need much memory whole")
    return found


def _ignored_values(census: Census) -> tuple[tuple[Raw, ...], str]:
    """Values that look like void, and why: 255 by custom, or values of no class that only lie along outlines."""
    if census.classes is None:
        if IGNORE not in census.raw or set(census.raw) == {0, IGNORE} or len(census.raw) < 2:
            return (), ""
        share = _ratio(census.raw[IGNORE].edge, census.raw[IGNORE].pixels) or 0
        return (IGNORE,), "void by custom" + (f"; {share:.0%} of it lies along outlines" if share > 0.5 else "")
    if other_two_values(census):
        return (), ""
    outlines = [
        value
        for value, seen in census.unmapped.items()
        if value != IGNORE and seen.pixels >= _FEW_PIXELS and seen.edge >= 0.9 * seen.pixels
    ]
    by_custom = [IGNORE] if IGNORE in census.unmapped else []
    reasons = ["in no class, and only along outlines"] * bool(outlines) + ["255 is void by custom"] * bool(by_custom)
    return (*outlines, *by_custom), "; ".join(reasons)


def _as_file(classes: Classes, rows: tuple[ClassRow, ...]) -> dict[str, Any]:
    thin = tuple(is_thin(row) for row in rows)
    values = dataclasses.replace(classes, thin=thin).to_dict()
    kept = ("name", "raw", "color") if classes.reads_colors else ("name", "raw")
    table = {}
    for train_id, entry in values["classes"].items():
        table[train_id] = {key: entry[key] for key in kept} | ({"thin": True} if entry["thin"] else {})
    return {"classes": table, "ignore": values["ignore"]}


def _with_255(classes: Classes) -> dict[str, Any]:
    """The same two classes, the second of value 255."""
    ignore = tuple(value for value in classes.ignore if value not in (IGNORE, (IGNORE,) * 3))
    mended = dataclasses.replace(classes, raw=(classes.raw[0], (IGNORE,)), ignore=ignore).to_dict()
    kept = [{key: value for key, value in entry.items() if value} for entry in mended["classes"].values()]
    return {"classes": dict(enumerate(kept)), "ignore": mended["ignore"]}


def _training(census: Census) -> dict[Raw, Seen]:
    return census.splits[_split_names(census)[0]].classes


def _split_names(census: Census) -> list[str]:
    """The splits, the one to train on first."""
    return sorted(census.splits, key=lambda split: split != "train")


def _files(census: Census, key: Raw) -> dict[str, int]:
    return {name: split.classes.get(key, Seen()).files for name, split in census.splits.items()}


def _sum(tables: Any) -> dict[Raw, Seen]:
    total: dict[Raw, Seen] = {}
    for table in tables:
        for key, seen in table.items():
            total[key] = total.get(key, Seen()) + seen
    return total


def _key(census: Census, value: Raw) -> Raw:
    """The value as the census has it: a grey colour is counted as an integer."""
    return value if value in census.raw or isinstance(value, int) else value[0]


def _as_color(value: Raw) -> tuple[int, int, int]:
    return value if isinstance(value, tuple) else (value, value, value)


def _balanced(frequencies: np.ndarray) -> np.ndarray:
    """Median of those above 0 / frequency; 0 where that is 0."""
    present = frequencies > 0
    result = np.zeros_like(frequencies)
    if present.any():
        result[present] = np.median(frequencies[present]) / frequencies[present]
    return result


def _extent(census: Census) -> str:
    heights, widths = zip(*census.sizes, strict=True)
    if len(census.sizes) == 1:
        return f"{heights[0]}x{widths[0]}"
    return f"{min(heights)}x{min(widths)} to {max(heights)}x{max(widths)}"


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _words(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
