"""What a network says about one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8


@dataclass(frozen=True)
class Prediction:
    """What a network says about one picture of height x width pixels."""

    labels: UInt8[np.ndarray, "height width"]
    """train ids: the most probable class"""
    probabilities: Float32[np.ndarray, "classes height width"]
    """in [0, 1], summing to 1 over classes (two classes in a binary task)"""
    importance: Float32[np.ndarray, "rows columns"] | None
    """in [0, 1], on the method's own grid; None where the method has none or no single pass saw the picture whole"""
    selected: Bool[np.ndarray, "rows columns"] | None
    """regions that keep the refinement, on the same grid"""
    name: str
    """what to call it: relative path without extension"""
    picture: UInt8[np.ndarray, "height width 3"]
    """the picture itself, RGB"""
    offsets: Float32[np.ndarray, "2 offset_rows offset_columns"] | None = None
    """(x, y) in px to the pixel that each cell borrows from, on the method's own grid; None as for `importance`"""
    confidence: Float32[np.ndarray, "offset_rows offset_columns"] | None = None
    """in [0, 1], on the same grid: how much of the borrowed prediction is taken"""
    initial_labels: UInt8[np.ndarray, "height width"] | None = None
    """train ids before anything was borrowed or context came in, made like `labels`; None unless asked for, or where
    the method has no such prediction"""
    initial_kind: str | None = None
    """which of `segfocus.inference.predictor.FIRST_PREDICTIONS` the initial labels are, or "base": the maps that a
    refiner was given; None without them"""
    regions: Int32[np.ndarray, "region_rows region_columns"] | None = None
    """region number of each cell, from 0 up, on the method's own grid; None as for `importance`"""
    representatives: Bool[np.ndarray, "region_rows region_columns"] | None = None
    """cells that speak for their region, on the same grid"""
    boundary: Float32[np.ndarray, "boundary_rows boundary_columns"] | None = None
    """probability in [0, 1] of lying on a class boundary, on the method's own grid; None as for `importance`"""
    base_probabilities: Float32[np.ndarray, "classes height width"] | None = None
    """what a refiner was given; None for other methods"""
    patch: int | None = None
    """side in px of the patches that a refiner looks at; None where it has none on the map's own grid"""
    look_from: Callable[[int, int], np.ndarray | None] | None = None
    """(row, column) of a pixel -> what `Segmenter.attention` tells of it, float32, by another pass through the network;
    None where the method has none or no single pass saw the picture whole"""
