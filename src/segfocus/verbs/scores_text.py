"""Scores as lines of the terminal."""

from __future__ import annotations

from typing import Any

from segfocus.console import say, table

_MOST_CLASSES = 30


def show_scores(scores: dict[str, Any]) -> None:
    """IoU of the classes that occur (of very many the lowest), and the means, in percent."""

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    present = {name: value for name, value in scores["per_class"].items() if value is not None}
    shown = present if len(present) <= _MOST_CLASSES else dict(sorted(present.items(), key=lambda item: item[1])[:10])
    rows = [(name, percent(value)) for name, value in shown.items()]
    rows += [("mIoU", percent(scores["miou"])), ("pixel accuracy", percent(scores["pixel_accuracy"]))]
    for distance, value in scores["boundary_iou"].items():
        width = f"{distance.removesuffix('%')} % of the diagonal" if distance.endswith("%") else f"{distance} px"
        rows.append((f"Boundary IoU {width}", percent(value)))
    pictures = "1 picture" if scores["n_pictures"] == 1 else f"{scores['n_pictures']} pictures"
    left_out = f"; the lowest 10 of {len(present)} classes" if len(shown) < len(present) else ""
    absent = len(scores["per_class"]) - len(present)
    occur = "class occurs" if absent == 1 else "classes occur"
    left_out += f"; {absent} {occur} nowhere" if absent else ""
    say(f"IoU in percent, {pictures}{left_out}")
    say(table(rows))
