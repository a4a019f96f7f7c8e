"""What a refiner did on the page: probabilities before and after, and thresholds of patches, best and implied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.metrics.confusion import VOID
from segfocus.metrics.patch_thresholds import class_thresholds
from segfocus.report import charts
from segfocus.report.images import Entry, Image, embed
from segfocus.report.tables import count, dig, known, percent, whole_percent

Scores = Mapping[str, Any]
_PLACES = 4
"""figures behind the point that thresholds are compared with"""


def draw_maps(entry: Entry, classes: Classes, longest_side: int) -> list[Image]:
    """Probabilities before and after of one class, and its thresholds, as far as the entry has them."""
    index = class_shown(entry)
    return [
        embed(title, viz.fit(drawn, longest_side), flat=False, note=_of_class(index, classes))
        for title, drawn in _maps(entry, index, entry.picture)
    ]


def draw_part_of_maps(entry: Entry, classes: Classes, inside: tuple[slice, slice], factor: int) -> list[Image]:
    """`draw_maps` of a part of the entry, of the class that changed most in it, enlarged by a whole number."""
    index = class_shown(entry, inside)

    def part(drawn: np.ndarray) -> np.ndarray:
        enlarged = cv2.resize(drawn[inside], None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        return np.asarray(enlarged, np.uint8)

    return [
        embed(title, part(drawn), flat=False, note=_of_class(index, classes))
        for title, drawn in _maps(entry, index, entry.picture)
    ]


def class_shown(entry: Entry, inside: tuple[slice, slice] = (slice(None), slice(None))) -> int:
    """The foreground of two classes; of more the one with the most pixels that changed, then the most wrong ones, then
    the most; of equals the first."""
    number = 0 if entry.base_probabilities is None else len(entry.base_probabilities)
    if number <= 2:
        return 1
    target, after = entry.target[inside], entry.prediction[inside]
    before = after if entry.baseline is None else entry.baseline[inside]
    labelled = target != VOID
    for first, second in ((before, after), (target, after), (np.full_like(after, VOID), after)):
        differ = labelled & (first != second)
        counts = sum(np.bincount(labels[differ], minlength=256)[:number] for labels in (first, second))
        if np.any(counts):
            return int(np.argmax(counts))
    return 0


def _maps(entry: Entry, index: int, picture: np.ndarray | None) -> list[tuple[str, np.ndarray]]:
    base, refined = entry.base_probabilities, entry.probabilities
    if base is None:
        return []
    if refined is None:
        drawn = [("probability before", viz.heat_map(base[index]))]
    else:
        before, after = viz.probability_pair(base[index], refined[index])
        drawn = [("probability before", before), ("probability after", after)]
    if entry.patch is not None:
        found = class_thresholds(index, entry.target, base[index], entry.prediction, entry.patch)
        for title, thresholds in (("best thresholds", found.best), ("implied thresholds", found.implied)):
            drawn.append((title, viz.threshold_heat_map(thresholds, entry.patch, entry.target.shape, picture)))
    return drawn


def _of_class(index: int, classes: Classes) -> str:
    """Nothing where there is but one foreground."""
    return f"of {classes.names[index]}" if classes.num_classes > 2 else ""


def thresholds(scores: Scores) -> dict[str, Any] | None:
    """Sentences and a chart about `segfocus.metrics.patch_thresholds`; None where no patch was counted."""
    part = scores.get("thresholds") or {}
    if not part.get("patches") or not part.get("thresholds"):
        return None
    patches = part["patches"]
    shares = {kind: [value / patches for value in part[kind]] for kind in ("best", "implied")}
    middle = [round(float(value), _PLACES) for value in part["thresholds"]].index(0.5)
    chart = charts.thresholds_chart(
        "chart-thresholds", "Thresholds of patches", part["thresholds"], shares["best"], shares["implied"], middle
    )
    words = [
        f"{count(patches)} patches of {part['patch']} px in which the map rises above 0.05.",
        f"The truth asks for another threshold than 0.5 in {whole_percent(part.get('best_off'))} % of them, the "
        f"refined masks amount to another one in {whole_percent(part.get('implied_off'))} %.",
        _followed(part),
        _explained(part),
    ]
    return {"words": [text for text in words if text], "chart": chart}


def threshold_words(scores: Scores) -> tuple[str, str] | None:
    """How far the refiner goes the way of the best thresholds, in one sentence: what stands out, and the rest."""
    part = scores.get("thresholds") or {}
    off, followed = part.get("best_off"), part.get("followed")
    if not known(off) or not known(followed):
        return None
    lead = f"In {whole_percent(off)} % of the patches another threshold than 0.5 is best:"
    return lead, f"refining goes that way in {whole_percent(followed)} % of these."


def _followed(part: Scores) -> str:
    if not known(part.get("followed")):
        return ""
    return f"Where the best one is not 0.5, refining goes the same way in {whole_percent(part['followed'])} %."


def _explained(part: Scores) -> str:
    if not known(part.get("explained")):
        return ""
    return (
        f"Of the {count(part.get('changed'))} px that refining changed, one threshold a patch would change "
        f"{percent(dig(part, 'explained'), 0)} % alike; the others it moved, drew or erased by itself."
    )
