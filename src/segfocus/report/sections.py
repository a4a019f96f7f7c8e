"""The tables of the report: scores dictionary in, `Table`s out; None or nothing where the scores are missing.

Nothing here computes a score; it chooses, names and rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segfocus.data.classes import Classes
from segfocus.metrics.confusion import ratio
from segfocus.report.before import before
from segfocus.report.pictures import confusions_of
from segfocus.report.tables import (
    MISSING,
    Cell,
    Column,
    Table,
    change_cell,
    count,
    dig,
    hex_color,
    known,
    name_cell,
    percent,
    percent_cell,
    points_span,
    span,
    unbroken,
)

Scores = Mapping[str, Any]
_ABSENT_MOST = 5
"""absent classes that get a row each"""
_MATRIX_MOST = 20
"""classes whose confusion matrix fits on the page"""


def main_distance(scores: Scores) -> str | None:
    """The Boundary IoU to show where there is room for one: at 3 px, or the middle one."""
    distances = list(scores.get("boundary_iou") or {})
    if not distances:
        return None
    return "3" if "3" in distances else distances[len(distances) // 2]


def distance_words(distance: str) -> str:
    """'3' -> '3 px', '2%' -> '2 % of the diagonal'."""
    return f"{distance[:-1]} % of the diagonal" if distance.endswith("%") else f"{distance} px"


def tiles(scores: Scores) -> list[dict[str, Any]]:
    """The few scores at the top: name, definition, value, interval, change against the baseline."""
    distance = main_distance(scores)
    wanted: list[tuple[str, str, tuple[str, ...]]] = [
        ("mIoU", "miou", ("miou",)),
        ("Foreground IoU", "foreground_iou", ("binary", "foreground_iou")),
        (f"Boundary IoU, {distance_words(distance or '')}", "boundary_iou", ("boundary_iou", distance or "")),
        ("Pixel accuracy", "pixel_accuracy", ("pixel_accuracy",)),
        ("iIoU, objects", "iiou", ("instance", "iiou")),
        ("Calibration error", "ece", ("calibration", "ece")),
        ("Mean accuracy", "mean_accuracy", ("mean_accuracy",)),
    ]
    found = []
    for name, define, path in wanted:
        value = dig(scores, *path)
        if known(value) or (value is None and path[0] == "miou" and "miou" in scores):
            found.append(
                {
                    "name": name,
                    "define": define,
                    "value": percent(value),
                    "interval": span(dig(scores, "intervals", *path)),
                    "change": _change(scores, path),
                    "change_interval": points_span(dig(scores, "baseline", "difference", *path, "interval")),
                }
            )
    return found[:6]


def _change(scores: Scores, path: Sequence[str]) -> Cell | None:
    difference = dig(scores, "baseline", "difference", *path)
    return change_cell(difference) if difference is not None else None


def all_scores(scores: Scores) -> Table:
    """Every single number, with interval, baseline and change where there are."""
    columns = [
        Column("Score"),
        Column("%"),
        Column("95 % interval", "interval"),
        Column(before(scores).column, before(scores).define),
        Column("Change", "difference"),
    ]
    rows = []
    for name, define, path in _score_paths(scores):
        value = dig(scores, *path)
        if known(value):
            raw = path[-1] in ("brier", "nll")
            rows.append(
                [
                    name_cell(name, define=define),
                    Cell(f"{value:.3f} (not %)", value) if raw else percent_cell(value),
                    Cell(span(dig(scores, "intervals", *path))),
                    percent_cell(dig(scores, "baseline", "scores", *path)),
                    _change(scores, path) or Cell(MISSING),
                ]
            )
    return Table(columns, rows).without_empty_columns()


def _score_paths(scores: Scores) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, definition and place of every number that the scores can have, in reading order."""

    def each(key: str, *path: str) -> list[str]:
        return list(dig(scores, key, *path) or {})

    thin = [(f"clDice: {name}", "cldice", ("thin", name, "cldice")) for name in each("thin")]
    binary = [
        ("Foreground IoU", "foreground_iou", "foreground_iou"),
        ("Foreground IoU, mean over pictures", "foreground_iou", "foreground_iou_per_picture"),
        ("Dice (F1)", "dice", "dice"),
        ("MAE", "mae", "mae"),
        ("MAE, mean over pictures", "mae", "mae_per_picture"),
        ("Max F", "max_f", "max_f"),
        ("Max F, mean over pictures", "max_f", "max_f_per_picture"),
    ]
    return [
        ("mIoU", "miou", ("miou",)),
        ("Pixel accuracy", "pixel_accuracy", ("pixel_accuracy",)),
        ("Mean accuracy", "mean_accuracy", ("mean_accuracy",)),
        ("Frequency-weighted IoU", "frequency_weighted_iou", ("frequency_weighted_iou",)),
        ("mIoU of categories", "category_iou", ("category_miou",)),
        *((f"Boundary IoU, {distance_words(d)}", "boundary_iou", ("boundary_iou", d)) for d in each("boundary_iou")),
        *((f"Boundary F, {d} px", "boundary_f", ("boundary_f", d)) for d in each("boundary_f")),
        *((f"Trimap mIoU, {d} px", "trimap", ("trimap", "miou", d)) for d in each("trimap", "miou")),
        ("Mean boundary accuracy", "mba", ("mba",)),
        ("iIoU of classes", "iiou", ("instance", "iiou")),
        ("iIoU of categories", "iiou", ("instance", "category_iiou")),
        *thin,
        *((name, define, ("binary", key)) for name, define, key in binary),
        ("Mean confidence", "confidence", ("calibration", "mean_confidence")),
        ("Calibration error (ECE)", "ece", ("calibration", "ece")),
        ("Brier score", "brier", ("calibration", "brier")),
        ("Negative log-likelihood", "nll", ("calibration", "nll")),
    ]


def class_table(scores: Scores, matrix: np.ndarray, classes: Classes) -> Table:
    """One row a class, the lowest IoU first; absent classes last, or left out: see `absent_classes`."""
    distance, compared = main_distance(scores), dig(scores, "baseline", "difference") is not None
    hits, truth, guess = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    shares = {
        "recall": ratio(hits, truth),
        "precision": ratio(hits, guess),
        "pixels": ratio(truth, np.full_like(truth, matrix.sum())),
        "errors": ratio(truth - hits, np.full_like(truth, (truth - hits).sum())),
    }
    columns = [
        Column("Class"),
        Column("IoU", "iou"),
        Column("95 % interval", "interval", wide=True),
        Column("Change", "difference"),
        Column(f"Boundary IoU, {distance_words(distance or '')}", "boundary_iou", wide=compared),
        Column("Boundary F, 3 px", "boundary_f", wide=True),
        Column("Recall", "recall", wide=True),
        Column("Precision", "precision", wide=True),
        Column("Share of pixels", "share_of_pixels", wide=True),
        Column("Share of errors", "share_of_errors"),
        Column("Mostly taken for", "taken_for", wide=True, words=True),
    ]
    rows, absent = [], set(absent_classes(matrix, classes))
    for index, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True)):
        if name in absent:
            continue
        change = dig(scores, "baseline", "difference", "per_class", name)
        rows.append(
            [
                name_cell(name, hex_color(color)),
                percent_cell(dig(scores, "per_class", name), bar=True),
                Cell(span(dig(scores, "intervals", "per_class", name))),
                change_cell(change) if change is not None else Cell(MISSING),
                percent_cell(dig(scores, "boundary_iou_per_class", distance or "", name)),
                # beside a change there is no room for it
                percent_cell(None if compared else dig(scores, "boundary_f_per_class", "3", name)),
                *(percent_cell(float(shares[key][index])) for key in ("recall", "precision")),
                *(percent_cell(float(shares[key][index])) for key in ("pixels", "errors")),
                Cell(_taken_for(matrix, index, classes.names)),
            ]
        )
    rows.sort(key=lambda row: row[1].value if known(row[1].value) else 2)
    return Table(columns, rows).without_empty_columns()


def absent_classes(matrix: np.ndarray, classes: Classes) -> list[str]:
    """Classes neither in the truth nor in a prediction, where they are so many that rows for them say little."""
    seen = matrix.sum(0) + matrix.sum(1) > 0
    absent = [name for name, here in zip(classes.names, seen, strict=True) if not here]
    return absent if seen.any() and len(absent) > _ABSENT_MOST else []


def _taken_for(matrix: np.ndarray, index: int, names: Sequence[str], most: int = 2) -> str:
    missed = matrix[index].copy()
    missed[index] = 0
    order = np.argsort(-missed, kind="stable")[:most]
    return ", ".join(
        f"{names[other]} {percent(missed[other] / matrix[index].sum())}" for other in order if missed[other]
    )


def confusion_table(matrix: np.ndarray, classes: Classes, most: int = 8) -> Table | None:
    """The largest groups of wrong pixels."""
    columns = [
        Column("Truth"),
        Column("Taken for", words=True),
        Column("Share of errors", "share_of_errors"),
        Column("Of the true class", "of_true_class", wide=True),
    ]
    wrong = int(matrix.sum() - matrix.trace())
    rows = [
        [
            name_cell(item["truth"], item["truth_color"]),
            name_cell(item["guess"], item["guess_color"]),
            percent_cell(item["pixels"] / wrong),
            percent_cell(item["of_class"]),
        ]
        for item in confusions_of(matrix, classes, most)
    ]
    return Table(columns, rows) if rows else None


def matrix_rows(matrix: np.ndarray, classes: Classes) -> list[dict[str, Any]]:
    """The confusion matrix in shares of the true class; nothing for more classes than fit on the page."""
    if classes.num_classes > _MATRIX_MOST:
        return []
    truth = matrix.sum(1)
    used = [index for index in range(classes.num_classes) if truth[index] or matrix[:, index].any()]
    rows = []
    for row in used:
        shares = ratio(matrix[row], np.full(classes.num_classes, truth[row]))
        cells = [
            {"text": "·" if percent(share, 0) == "0" else percent(share, 0), "heat": share, "right": column == row}
            if known(share := float(shares[column]))
            else {"text": MISSING, "heat": None, "right": False}
            for column in used
        ]
        rows.append({"name": classes.names[row], "color": hex_color(classes.colors[row]), "cells": cells})
    return rows


def bins_table(part: Mapping[str, Any], key: str, unit: str) -> Table | None:
    """Classes by bins: one of the per-class lists of a partition."""
    per_class = part.get(key) or {}
    rows = [
        [name_cell(name), *(percent_cell(value, 0, heat=True) for value in values)]
        for name, values in per_class.items()
        if any(known(value) for value in values)
    ]
    columns = [Column("Class"), *(Column(f"{unbroken(label)} {unit}") for label in part.get("bins") or [])]
    return Table(columns, rows) if rows else None


def component_table(part: Mapping[str, Any]) -> Table | None:
    """Share of connected pieces found, and how many there are."""
    found, counts = part.get("found_per_class") or {}, part.get("count_per_class") or {}
    rows = []
    for name, values in found.items():
        numbers = counts.get(name) or [None] * len(values)
        if any(map(known, values)):
            rows.append([name_cell(name), *map(_found_cell, values, numbers)])
    columns = [Column("Class"), *(Column(f"{unbroken(label)} px") for label in part.get("bins") or [])]
    return Table(columns, rows) if rows else None


def _found_cell(share: Any, number: Any) -> Cell:
    return Cell(f"{percent(share, 0)} of {count(number)}", share, heat=1 - share) if known(share) else Cell(MISSING)


def thin_table(scores: Scores, classes: Classes) -> Table | None:
    """Classes marked thin: overlap, skeletons, and recall by width."""
    part = dig(scores, "regions", "thickness") or {}
    recall, bins = part.get("recall_per_class") or {}, part.get("bins") or []
    thin = dict(scores.get("thin") or {})
    marked = [name for name, flag in zip(classes.names, classes.thin, strict=True) if flag]
    colors = dict(zip(classes.names, map(hex_color, classes.colors), strict=True))
    rows = [
        [
            name_cell(name, colors.get(name)),
            percent_cell(dig(scores, "per_class", name)),
            *(percent_cell(dig(thin, name, key)) for key in ("cldice", "topology_sensitivity", "topology_precision")),
            *(percent_cell(value, heat=True) for value in recall.get(name) or [None] * len(bins)),
        ]
        for name in dict.fromkeys([*marked, *thin])
        if name in thin or name in recall
    ]
    columns = [
        Column("Class"),
        Column("IoU", "iou"),
        Column("clDice", "cldice"),
        Column("Skeleton recall", "topology_sensitivity"),
        Column("Skeleton precision", "topology_precision"),
        *(Column(f"Recall, {unbroken(label)} px wide", "thin_recall") for label in bins),
    ]
    return Table(columns, rows).without_empty_columns() if rows else None


def instance_table(scores: Scores) -> Table | None:
    """IoU beside iIoU: classes, then categories."""
    part = scores.get("instance") or {}
    sizes = part.get("mean_sizes") or {}
    rows = []
    for kind, own in (("per_class", "per_class"), ("per_category", "per_category")):
        for name, value in (part.get(kind) or {}).items():
            if known(value):
                iou = dig(scores, own, name)
                gap = change_cell(value - iou) if known(iou) else Cell(MISSING)
                label = f"category {name}" if kind == "per_category" else name
                size = Cell(count(sizes.get(name)), sizes.get(name))
                rows.append([name_cell(label), percent_cell(iou), percent_cell(value, bar=True), gap, size])
    columns = [
        Column("Class"), Column("IoU", "iou"), Column("iIoU", "iiou"), Column("iIoU − IoU"), Column("Mean size, px"),
    ]  # fmt: skip
    return Table(columns, rows).without_empty_columns() if rows else None


def category_table(scores: Scores) -> Table | None:
    rows = [
        [name_cell(name), percent_cell(value, bar=True)] for name, value in (scores.get("per_category") or {}).items()
    ]
    return Table([Column("Category"), Column("IoU", "category_iou")], rows) if rows else None


def calibration_table(scores: Scores) -> Table | None:
    """Calibration by distance to the boundary."""
    part = dig(scores, "calibration", "per_distance") or {}
    lists = [part.get(key) or [] for key in ("bins", "confidence", "accuracy", "ece")]
    rows = [
        [Cell(f"{unbroken(label)} px", place), percent_cell(sure), percent_cell(right), percent_cell(error)]
        for place, (label, sure, right, error) in enumerate(zip(*lists, strict=False))
    ]
    columns = [
        Column("Distance", "distance"), Column("Confidence", "confidence"), Column("Accuracy", "pixel_accuracy"),
        Column("ECE", "ece"),
    ]  # fmt: skip
    return Table(columns, rows) if rows else None
