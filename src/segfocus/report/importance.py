"""The part of the report about a method's own importance map: does it know where it is wrong?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segfocus.report import charts
from segfocus.report.tables import (
    Cell,
    Column,
    Table,
    count,
    dig,
    known,
    name_cell,
    percent,
    percent_cell,
    whole_percent,
)

Scores = Mapping[str, Any]
_AMOUNTS = {
    "error_before": "Errors before refining",
    "error": "Errors",
    "boundary": "Boundary pixels",
    "thin": "Thin parts",
}
"""what is searched for -> its heading, in the order of the page"""
_TYPICAL = (0.1, 0.25)
"""shares of the regions to name where there is no room for all; the first one in sentences"""
_BETTER = 1.5
"""times what chance finds, from which on a network is said to know where it is wrong"""


def importance(scores: Scores) -> dict[str, Any] | None:
    """A sentence, a chart for each thing searched for, and a table; None where no importance map was judged."""
    part = scores.get("importance") or {}
    found = _amounts(part)
    if not found:
        return None
    drawn = [
        {
            "heading": _AMOUNTS[name],
            "define": f"importance_{name}",
            "chart": charts.recall_chart(
                f"importance-{name}",
                f"{_AMOUNTS[name]} in the most important regions",
                part["ratios"],
                [
                    charts.Series("by importance", item["recall"], "bar"),
                    charts.Series("at best", item["best"], "good"),
                    charts.Series("by chance", item["chance"], "soft"),
                ],
            ),
        }
        for name, item in found.items()
    ]
    return {"words": _words(part), "charts": drawn, "table": _table(part, found)}


def importance_words(scores: Scores) -> tuple[str, str] | None:
    """Whether the most important regions hold the errors, in one sentence: what stands out, and the rest."""
    part = scores.get("importance") or {}
    found = _amounts(part)
    name = next((name for name in ("error_before", "error") if name in found), None)
    at = None if name is None else recalls_at(part, name, _TYPICAL[0])
    if at is None:
        return None
    own, best, chance = at
    lead = f"It {'knows' if own >= _BETTER * chance else 'hardly knows'} where it is wrong:"
    text = f"the {percent(_TYPICAL[0], 0)} % of the regions that it finds most important hold {whole_percent(own)} % "
    text += f"of the {_AMOUNTS[str(name)].lower()} "
    text += f"(by chance {whole_percent(chance)} %, at best {whole_percent(best)} %)."
    return lead, text


def recalls_at(part: Scores, name: str, share: float) -> tuple[float, float, float] | None:
    """Recall of one thing at a share of the regions: by importance, at best, by chance; None where it was not
    counted."""
    place, item = _place(part, share), dig(part, "amounts", name)
    if place is None or not item:
        return None
    own, best, chance = (item[key][place] for key in ("recall", "best", "chance"))
    return (own, best, chance) if known(own) and known(best) and known(chance) else None


def _place(part: Scores, share: float) -> int | None:
    """Of a share among the ratios."""
    return next((index for index, ratio in enumerate(part.get("ratios") or []) if abs(ratio - share) < 1e-9), None)


def _amounts(part: Scores) -> dict[str, Scores]:
    """Those that there was anything of."""
    items = (part.get("amounts") or {}) if part.get("ratios") else {}
    return {name: items[name] for name in _AMOUNTS if (items.get(name) or {}).get("total")}


def _words(part: Scores) -> str:
    text = f"Of all that is searched for, the share inside the most important regions of {part.get('region')} px."
    if known(part.get("correlation")):
        text += f" Rank correlation with the regions' share of errors: {part['correlation']:.2f}."
    return text


def _table(part: Scores, found: Mapping[str, Scores]) -> Table:
    places = {share: place for share in _TYPICAL if (place := _place(part, share)) is not None}
    rows = []
    for name, item in found.items():
        cells = [name_cell(_AMOUNTS[name], define=f"importance_{name}"), Cell(count(item["total"]), item["total"])]
        for place in places.values():
            cells += [percent_cell(item["recall"][place], bar=True), percent_cell(item["gain"][place])]
        rows.append([*cells, percent_cell(item.get("area")), percent_cell(item.get("best_area"))])
    columns = [Column("Searched for"), Column("Pixels")]
    for share in places:
        of = f"{percent(share, 0)} % of the regions"
        columns += [Column(f"Found in {of}", "importance_recall"), Column(f"Gain, {of}", "importance_gain", wide=True)]
    return Table([*columns, Column("Area", "importance_area"), Column("Area at best", wide=True)], rows)
