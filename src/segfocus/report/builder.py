"""Builds the report: scores, classes and the worst pictures, as one HTML page that needs no network.

Pictures stream through: of each only its counts stay, and of the worst few their small renderings, so the memory
does not grow with the number or the size of the pictures.
"""

from __future__ import annotations

import base64
import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import segfocus
from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.files import write_text
from segfocus.metrics.confusion import confusion_matrix, ratio, scores_from_confusion

_SHOWN_CONFUSIONS = 8


@dataclass(frozen=True)
class Entry:
    """One picture of a report."""

    name: str
    """shown as it is, usually the file's relative path"""
    picture: np.ndarray
    """uint8 height x width x 3, RGB"""
    target: np.ndarray
    """uint8 height x width, train ids, 255 = void"""
    prediction: np.ndarray
    """uint8 height x width, train ids"""
    importance: np.ndarray | None = None
    """float, the method's grid, in [0, 1]"""
    selected: np.ndarray | None = None
    """bool, the same grid: regions that keep the refinement"""


@dataclass(frozen=True)
class _Card:
    """What stays of one of the worst pictures."""

    name: str
    error_share: float
    miou: float
    confusions: list[dict[str, Any]]
    images: list[dict[str, str]]


class Pictures:
    """Takes pictures one by one and keeps their counts and the renderings of the worst."""

    def __init__(self, classes: Classes, worst: int = 12, image_size: int = 640) -> None:
        """Keep the `worst` pictures with the largest share of wrong pixels, `image_size` pixels on the longer side."""
        self.classes = classes
        self.worst = worst
        self.image_size = image_size
        self.confusion = np.zeros((classes.num_classes, classes.num_classes), np.int64)
        self.seen = 0
        self._heap: list[tuple[float, int, _Card]] = []

    def add(self, entry: Entry) -> None:
        """Count one picture, and render it when it is among the worst so far.

        Raises:
            SegfocusError: labels that are no classes, or sizes that differ.
        """
        if entry.picture.shape[:2] != entry.target.shape:
            raise SegfocusError(
                f"{entry.name}: expected picture and labels of one size, got {entry.picture.shape[:2]} and "
                f"{entry.target.shape}"
            )
        counts = confusion_matrix(entry.target, entry.prediction, self.classes.num_classes)
        self.confusion += counts
        self.seen += 1
        labelled = int(counts.sum())
        if labelled == 0 or self.worst < 1:
            return
        error_share = 1 - int(counts.trace()) / labelled
        # equal shares: the earlier picture counts as worse, so that the page depends on the order alone
        rank = (error_share, -self.seen)
        if len(self._heap) < self.worst or rank > self._heap[0][:2]:
            item = (*rank, _card(entry, counts, error_share, self.classes, self.image_size))
            if len(self._heap) < self.worst:
                heapq.heappush(self._heap, item)
            else:
                heapq.heapreplace(self._heap, item)

    def cards(self) -> list[_Card]:
        """The worst pictures, worst first."""
        return [card for *_, card in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


def build_report(
    out: str | Path,
    title: str,
    scores: Mapping[str, Any],
    entries: Iterable[Entry],
    classes: Classes,
    made: Mapping[str, str] | None = None,
    worst: int = 12,
    image_size: int = 640,
) -> Path:
    """Go once through `entries` (may be empty), write the page and return its path: see `Pictures`, `write_report`."""
    pictures = Pictures(classes, worst, image_size)
    for entry in entries:
        pictures.add(entry)
    return write_report(out, title, scores, pictures, made)


def write_report(
    out: str | Path,
    title: str,
    scores: Mapping[str, Any],
    pictures: Pictures,
    made: Mapping[str, str] | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        out: a file ending in .html, or a folder that gets `report.html`.
        title: heading of the page.
        scores: the scores JSON (`miou`, `per_class`, `pixel_accuracy`, `mean_accuracy`, `boundary_iou`, ...);
            keys that are missing are left out of the page.
        pictures: what was collected.
        made: how the numbers were made (checkpoint, recipe, split, ...), shown in this order.

    Raises:
        SegfocusError: the file cannot be written.
    """
    out = Path(out)
    path = out if out.suffix.lower() in {".html", ".htm"} else out / "report.html"
    classes, matrix = pictures.classes, pictures.confusion
    boundary = dict(scores.get("boundary_iou") or {})
    page = _template().render(
        title=title,
        headline=_headline(scores, boundary),
        distances=list(boundary),
        rows=_class_rows(scores, boundary, matrix, classes),
        cards=pictures.cards(),
        seen=pictures.seen,
        confusions=_confusions(matrix, classes, _SHOWN_CONFUSIONS, of_class=True),
        legend=dict(zip(classes.names, map(_hex, classes.colors), strict=True)),
        wrong=_hex(viz.WRONG),
        made={**(made or {}), "segfocus": segfocus.__version__, "page made": date.today().isoformat()},
        n_pictures=scores.get("n_pictures"),
        scores_json=json.dumps(dict(scores), indent=2, default=str),
    )
    write_text(path, page)
    return path


def _template():
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("segfocus.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["data"] = _data
    return environment.get_template("template.html")


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.{digits}f}"


def _data(value: float | None) -> str:
    """A number for sorting and bar lengths; absent values come last."""
    return "-1" if value is None or np.isnan(value) else f"{value:.6f}"


def _hex(color: Iterable[int]) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in color)


def _headline(scores: Mapping[str, Any], boundary: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [
        ("mIoU", "mean over classes of intersection / union", "miou"),
        ("Pixel accuracy", "correct share of the labelled pixels", "pixel_accuracy"),
        ("Mean accuracy", "mean over classes of the share found", "mean_accuracy"),
    ]
    tiles = [{"name": name, "about": about, "value": scores[key]} for name, about, key in found if key in scores]
    for distance, value in boundary.items():
        about = f"mean IoU within {distance} px of the classes' edges"
        tiles.append({"name": "Boundary IoU", "about": about, "value": value})
    return tiles


def _class_rows(
    scores: Mapping[str, Any], boundary: Mapping[str, Any], matrix: np.ndarray, classes: Classes
) -> list[dict[str, Any]]:
    per_class = scores.get("per_class") or {}
    per_distance = scores.get("boundary_iou_per_class") or {}
    shares = ratio(matrix.sum(1), np.full(classes.num_classes, matrix.sum()))
    return [
        {
            "name": name,
            "color": _hex(color),
            "iou": per_class.get(name),
            "boundary": [(per_distance.get(distance) or {}).get(name) for distance in boundary],
            "share": float(shares[index]),
        }
        for index, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
    ]


def _card(entry: Entry, counts: np.ndarray, error_share: float, classes: Classes, size: int) -> _Card:
    shown = [
        ("picture", entry.picture, ".jpg"),
        ("truth", viz.color_map(entry.target, classes), ".png"),
        ("prediction", viz.color_map(_void_like(entry.prediction, entry.target), classes), ".png"),
        ("error", viz.error_map(entry.target, entry.prediction, entry.picture), ".jpg"),
    ]
    if entry.importance is not None:
        # drawn at the picture's own size, where the grid's cells are squares of whole pixels; shrunk with the others
        drawn = viz.heat_map(entry.importance, picture=entry.picture)
        if entry.selected is not None:
            drawn = viz.outline(drawn, entry.selected)
        shown.append(("importance", drawn, ".jpg"))
    return _Card(
        name=entry.name,
        error_share=error_share,
        miou=scores_from_confusion(counts)["miou"],
        confusions=_confusions(counts, classes, 3),
        images=[{"title": name, "source": _embed(viz.fit(image, size), kind)} for name, image, kind in shown],
    )


def _void_like(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """What the scores see: a prediction is void where the truth is void."""
    return np.where(target == 255, np.uint8(255), prediction)


def _embed(image: np.ndarray, kind: str) -> str:
    options = [cv2.IMWRITE_JPEG_QUALITY, 85] if kind == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    done, data = cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise SegfocusError(f"report: expected to encode a picture of {image.shape} as {kind}, got a refusal of OpenCV")
    media = "image/jpeg" if kind == ".jpg" else "image/png"
    return f"data:{media};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"


def _confusions(matrix: np.ndarray, classes: Classes, most: int, of_class: bool = False) -> list[dict[str, Any]]:
    """The largest entries off the diagonal: share of all labelled pixels, or with `of_class` also of the true class."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    total = max(int(matrix.sum()), 1)
    found = []
    for truth, guess in zip(*np.unravel_index(order, wrong.shape), strict=True):
        pixels = int(wrong[truth, guess])
        if pixels:
            found.append(
                {
                    "truth": classes.names[truth],
                    "truth_color": _hex(classes.colors[truth]),
                    "guess": classes.names[guess],
                    "guess_color": _hex(classes.colors[guess]),
                    "share": pixels / total,
                    "of_class": pixels / int(matrix[truth].sum()) if of_class else None,
                }
            )
    return found
