"""Scores as lines of the terminal."""

from __future__ import annotations

from typing import Any

from segfocus.console import say, table

_MOST_CLASSES = 30
_SHARES = (0.1, 0.25)
"""of the regions, those most important"""


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
    rows += _importance_rows(scores.get("importance") or {})
    pictures = "1 picture" if scores["n_pictures"] == 1 else f"{scores['n_pictures']} pictures"
    left_out = f"; the lowest 10 of {len(present)} classes" if len(shown) < len(present) else ""
    absent = len(scores["per_class"]) - len(present)
    occur = "class occurs" if absent == 1 else "classes occur"
    left_out += f"; {absent} {occur} nowhere" if absent else ""
    say(f"IoU in percent, {pictures}{left_out}")
    say(table(rows))


def _importance_rows(part: dict[str, Any]) -> list[tuple[str, str]]:
    """Which share of the errors lies in the most important regions."""
    if not part:
        return []
    from segfocus.report.importance import recalls_at  # heavy, and most scores do not need it

    found = []
    for name, words in (("error_before", "errors before refining"), ("error", "errors")):
        for share in _SHARES:
            at = recalls_at(part, name, share)
            if at is not None:
                own, best, chance = (f"{100 * value:.1f}" for value in at)
                heading = f"{words} in the {100 * share:g} % most important regions"
                found.append((heading, f"{own} (at best {best}, by chance {chance})"))
    return found
