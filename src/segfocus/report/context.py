"""Pictures of a network that looks at regions: which ones, where it sees boundaries, where it looks from a pixel."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.metrics.confusion import VOID
from segfocus.report.images import Drawn, Entry, Image, embed


def draw_regions(entry: Entry) -> Drawn:
    """Regions with their representatives, and the boundary map, as far as the entry has them, at the labels' size."""
    drawn: Drawn = []
    size = entry.target.shape
    if entry.regions is not None:
        colored = viz.region_colors(entry.regions, entry.picture, size)
        if entry.representatives is not None:
            colored = viz.representative_dots(colored, entry.representatives)
        drawn.append(("regions", colored, entry.picture is None))
    if entry.boundary is not None:
        drawn.append(("boundary", viz.heat_map(entry.boundary, size, entry.picture), False))
    return drawn


def draw_part_of_regions(
    entry: Entry, inside: tuple[slice, slice], factor: int, picture: UInt8[np.ndarray, "_ _ 3"] | None
) -> Drawn:
    """`draw_regions` of a part of the entry, enlarged by a whole number; `picture` is that part, enlarged already."""

    def part(grid: np.ndarray) -> np.ndarray:
        cut = viz.enlarge(grid, entry.target.shape)[inside]
        return np.repeat(np.repeat(cut, factor, 0), factor, 1)

    drawn: Drawn = []
    if entry.regions is not None:
        # colours by the whole picture, so that a region has the same one in all of its parts
        colored = viz.region_colors(part(entry.regions), picture, colors=viz.region_palette(entry.regions))
        if entry.representatives is not None:
            corner = [axis.start for axis in inside]
            centres = viz.cell_centres(entry.representatives, entry.target.shape) - corner
            colored = viz.dots(colored, (centres + 0.5) * factor - 0.5, radius=factor)
        drawn.append(("regions", colored, picture is None))
    if entry.boundary is not None:
        drawn.append(("boundary", viz.heat_map(part(entry.boundary), picture=picture), False))
    return drawn


def attention_image(entry: Entry, classes: Classes, longest_side: int) -> Image | None:
    """Where the network looks from the middle of the largest mistake; None where it has no attention."""
    if entry.look_from is None:
        return None
    row, column = middle_of_the_largest_mistake(entry.target, entry.prediction)
    attention = entry.look_from(row, column)
    if attention is None:
        return None
    drawn = viz.attention_map(attention, row, column, entry.picture, entry.target.shape)
    return embed("attention", viz.fit(drawn, longest_side), False, _seen_from(entry, row, column, classes))


def _seen_from(entry: Entry, row: int, column: int, classes: Classes) -> str:
    truth, guess = int(entry.target[row, column]), int(entry.prediction[row, column])
    where = f"from row {row}, column {column}"
    if truth in (VOID, guess):
        return where
    return f"{where}: {classes.names[truth]} taken for {classes.names[guess]}"


def middle_of_the_largest_mistake(
    target: UInt8[np.ndarray, "height width"], prediction: UInt8[np.ndarray, "height width"]
) -> tuple[int, int]:
    """(row, column) of the pixel deepest inside the largest connected group of wrong pixels (8 neighbours), the first
    in raster order; the picture's middle where nothing is wrong."""
    wrong = ((prediction != target) & (target != VOID)).astype(np.uint8)
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(wrong, connectivity=8)
    if count < 2:
        return target.shape[0] // 2, target.shape[1] // 2
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    left, top, width, height = (int(value) for value in stats[largest, :4])
    alone = (numbers[top : top + height, left : left + width] == largest).astype(np.uint8)
    framed = cv2.copyMakeBorder(alone, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return top + int(row) - 1, left + int(column) - 1
