"""Small pictures inside the page: drawn, shrunk and written as data URLs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError

_QUALITY = 80


@dataclass(frozen=True)
class Entry:
    """One picture of a report."""

    name: str
    """shown as it is, usually the file's relative path"""
    picture: np.ndarray | None
    """uint8 height x width x 3, RGB; None where there is none (errors are then drawn on plain grey)"""
    target: np.ndarray
    """uint8 height x width, train ids, 255 = void"""
    prediction: np.ndarray
    """uint8 height x width, train ids"""
    importance: np.ndarray | None = None
    """float, the method's grid, in [0, 1]"""
    selected: np.ndarray | None = None
    """bool, the same grid: regions that keep the refinement"""
    baseline: np.ndarray | None = None
    """uint8 height x width, train ids: another prediction to compare with"""
    baseline_name: str = "baseline"
    """what the other prediction is called; "initial" is the network's own before it borrowed, "coarse" before it saw
    the context, "base" what a refiner was given"""
    offsets: np.ndarray | None = None
    """float 2 x rows x columns, (x, y) in px on the method's grid: where each cell borrows from"""
    confidence: np.ndarray | None = None
    """float, the same grid, in [0, 1]: how much of the borrowed prediction is taken"""
    regions: np.ndarray | None = None
    """int, the method's grid: region number of each cell, from 0 up"""
    representatives: np.ndarray | None = None
    """bool, the same grid: cells that speak for their region"""
    boundary: np.ndarray | None = None
    """float, the method's grid, in [0, 1]: probability of a class boundary"""
    look_from: Callable[[int, int], np.ndarray | None] | None = None
    """(row, column) of a pixel -> how much each cell of the method's grid enters the prediction there; asked for the
    worst pictures only"""
    base_probabilities: np.ndarray | None = None
    """float32 classes x height x width in [0, 1]: what a refiner was given"""
    probabilities: np.ndarray | None = None
    """the same of the prediction; shown beside `base_probabilities` only"""
    patch: int | None = None
    """side in px of the patches that the refiner looks at; None where it has none"""
    picture_name: str = "picture"
    """what the picture is called, where it is none: "map" for a map in grey"""

    def check(self) -> None:
        """SegfocusError where the parts have different sizes."""
        shapes = {
            **{kind: _shape(getattr(self, kind), 0) for kind in ("picture", "prediction", "baseline")},
            **{kind: _shape(getattr(self, kind), 1) for kind in ("base_probabilities", "probabilities")},
        }
        for kind, shape in shapes.items():
            if shape is not None and shape != self.target.shape:
                raise SegfocusError(
                    f"{self.name}: expected {kind} and labels of one size, got {shape} and {self.target.shape}"
                )


@dataclass(frozen=True)
class Image:
    """A picture of the page."""

    title: str
    source: str
    """data URL"""
    width: int
    height: int
    note: str = ""
    """what the caption says after the title"""


Drawn = list[tuple[str, np.ndarray, bool]]
"""title, RGB picture, and whether it has few flat colours (a label map), which are kept exactly"""


def draw(entry: Entry, classes: Classes) -> Drawn:
    """Picture, truth, baseline if any, prediction, where they differ, confidence if any, at the labels' size."""
    drawn: Drawn = [] if entry.picture is None else [(entry.picture_name, entry.picture, False)]
    drawn.append(("truth", viz.color_map(entry.target, classes), True))
    if entry.baseline is not None:
        drawn.append((entry.baseline_name, _colors(entry.baseline, entry.target, classes), True))
    drawn.append(("prediction", _colors(entry.prediction, entry.target, classes), True))
    if entry.baseline is None:
        drawn.append(("error", viz.error_map(entry.target, entry.prediction, entry.picture), entry.picture is None))
    else:
        changes = viz.change_map(entry.target, entry.baseline, entry.prediction, entry.picture)
        drawn.append(("changes", changes, entry.picture is None))
    if entry.confidence is not None:
        drawn.append(("confidence", viz.heat_map(entry.confidence, entry.target.shape, entry.picture), False))
    return drawn


def embed(title: str, image: np.ndarray, flat: bool, note: str = "") -> Image:
    """An RGB picture as WebP: lossless where `flat`, so that label maps keep their colours."""
    options = [cv2.IMWRITE_WEBP_QUALITY, 101 if flat else _QUALITY]
    done, data = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise SegfocusError(f"report: expected to encode a picture of {image.shape} as WebP, got a refusal of OpenCV")
    source = f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
    return Image(title, source, image.shape[1], image.shape[0], note)


def _shape(values: np.ndarray | None, first: int) -> tuple[int, ...] | None:
    """Height and width, which begin at axis `first`."""
    return None if values is None else values.shape[first : first + 2]


def _colors(prediction: np.ndarray, target: np.ndarray, classes: Classes) -> np.ndarray:
    """What the scores see: a prediction is void where the truth is void."""
    return viz.color_map(np.where(target == 255, np.uint8(255), prediction), classes)
