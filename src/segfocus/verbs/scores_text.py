"""Scores as lines of the terminal."""

from __future__ import annotations

from typing import Any

from segfocus.console import say, table


def show_scores(scores: dict[str, Any]) -> None:
    """IoU of each class, and the means, in percent."""

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    rows = [(name, percent(value)) for name, value in scores["per_class"].items()]
    rows += [("mIoU", percent(scores["miou"])), ("pixel accuracy", percent(scores["pixel_accuracy"]))]
    for distance, value in scores["boundary_iou"].items():
        width = f"{distance.removesuffix('%')} % of the diagonal" if distance.endswith("%") else f"{distance} px"
        rows.append((f"Boundary IoU {width}", percent(value)))
    say(f"IoU in percent, {scores['n_pictures']} pictures")
    say(table(rows))
