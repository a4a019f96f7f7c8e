"""The part of the report about methods that borrow predictions: does it point at the right pixels, and trust them?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segfocus.report.tables import Cell, Column, Table, dig, known, percent_cell, whole_percent

Scores = Mapping[str, Any]


def borrowing(scores: Scores) -> dict[str, Any] | None:
    """A sentence about how far it looks, and a table of where; None where nothing was borrowed."""
    part = scores.get("borrowing") or {}
    table = _table(part)
    return (
        None if table is None else {"words": [text for text in (_lengths(part), _trust(part)) if text], "table": table}
    )


def borrowing_words(scores: Scores) -> tuple[str, str] | None:
    """What the offsets are worth, in one sentence: what stands out, and the rest."""
    parts = {item.get("part"): item for item in dig(scores, "borrowing", "parts") or []}
    wrong, right = (parts.get(name) or {} for name in ("wrong before", "right before"))
    hits, kept = wrong.get("would_be_right"), right.get("would_be_right")
    if not known(hits):
        return None
    lead = f"Of the pixels that were wrong, {whole_percent(hits)} % point at a pixel with the right answer"
    return lead, f"(of those that were right, {whole_percent(kept)} %)." if known(kept) else "."


def _lengths(part: Scores) -> str:
    half, tenth, most = (dig(part, "lengths", key) for key in ("50 %", "90 %", "99 %"))
    if not (known(half) and known(tenth) and known(most)):
        return ""
    return (
        f"Half of the pixels look up to {half:g} px away, one in ten farther than {tenth:g} px, one in a hundred "
        f"farther than {most:g} px."
    )


def _trust(part: Scores) -> str:
    same, other = (dig(part, "confidence", key) for key in ("same_class", "other_class"))
    if not (known(same) and known(other)):
        return ""
    return (
        f"Mean confidence in the seed pixel: {whole_percent(same)} % where it truly is of the same class, "
        f"{whole_percent(other)} % where it is not."
    )


def _table(part: Scores) -> Table | None:
    items = [item for item in part.get("parts") or [] if item.get("pixels")]
    total = sum(item["pixels"] for item in items)
    rows = [
        [
            Cell(str(item.get("part", "")).capitalize()),
            percent_cell(item["pixels"] / total),
            percent_cell(item.get("same_class"), bar=True),
            percent_cell(item.get("would_be_right"), bar=True),
            percent_cell(item.get("confidence")),
        ]
        for item in items
    ]
    columns = [
        Column("Initial prediction", "initial"), Column("Share of pixels"),
        Column("Seed pixel of the same class", "seed_same_class"),
        Column("Seed pixel predicted right", "seed_right"), Column("Mean confidence", "borrowing_confidence"),
    ]  # fmt: skip
    return Table(columns, rows) if rows else None
