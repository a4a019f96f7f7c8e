"""The parts of the report that set predictions against something else: a baseline, and what each method could gain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from segfocus.data.classes import Classes
from segfocus.report.charts import Series, budget_chart
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
    percent_cell,
    points,
)

IDEAS = {
    "fornet": "FoR-Net: hard regions made right",
    "ovenet": "OVeNet: borrow the best pixel near by",
    "ranet": "RANet: each region votes once",
    "threshnet": "ThreshNet: best threshold per patch",
}
VARIANTS = {
    "truth": "chosen by truth",
    "entropy": "chosen by entropy",
    "importance": "chosen by importance",
    "vote": "always",
    "vote where right": "where it helps",
}
_AXES = {
    "fornet": "share of regions made right",
    "ovenet": "how far a pixel may look",
    "threshnet": "size of the patch",
}
_TYPICAL = {"fornet": 10, "ovenet": 4, "threshnet": 64}
"""budgets that leave most of the picture alone, to name one number for an idea"""


def headroom_table(scores: Mapping[str, Any]) -> Table | None:
    """One row an idea, variant and budget; bars show the gain in mIoU."""
    part = scores.get("headroom") or {}
    rows = [row for row in part.get("rows") or [] if known(row.get("miou"))]
    if not rows:
        return None
    base = part.get("base") or {}
    gains = [row["miou"] - base["miou"] for row in rows] if known(base.get("miou")) else [None] * len(rows)
    largest = max([gain for gain in gains if gain is not None], default=0.0) or 1.0
    cells = []
    for row, gain in zip(rows, gains, strict=True):
        bar = None if gain is None else max(0.0, gain) / largest
        cells.append(
            [
                name_cell(IDEAS.get(str(row["idea"]), str(row["idea"])), define=f"headroom_{row['idea']}"),
                Cell(_variant(row)),
                Cell(str(row.get("budget") or MISSING), _number(row.get("budget"))),
                percent_cell(row["miou"]),
                Cell(points(gain), gain, bar=bar),
                percent_cell(row.get("boundary_iou")),
                Cell(points(_minus(row, base, "boundary_iou")), _minus(row, base, "boundary_iou")),
                percent_cell(row.get("pixel_accuracy")),
            ]
        )
    distance = part.get("distance", 3)
    columns = [
        Column("Idea"),
        Column("Variant", words=True),
        Column("Budget"),
        Column("mIoU", "miou"),
        Column("Gain", "headroom"),
        Column(f"Boundary IoU, {distance} px", "boundary_iou", wide=True),
        Column("Gain", wide=True),
        Column("Pixel accuracy", "pixel_accuracy", wide=True),
    ]
    return Table(columns, cells).without_empty_columns()


def headroom_charts(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    """mIoU against the budget, one chart an idea."""
    part = scores.get("headroom") or {}
    base = dig(part, "base", "miou")
    if not known(base):
        return []
    drawn = []
    for idea, heading in IDEAS.items():
        rows = [row for row in part.get("rows") or [] if row.get("idea") == idea and known(row.get("miou"))]
        variants = list(dict.fromkeys(_variant(row) for row in rows))
        budgets = list(dict.fromkeys(str(row.get("budget")) for row in rows))
        if not rows:
            continue
        if len(budgets) == 1:  # one budget spent in several ways: these are the points then
            lines = [Series("", [row["miou"] for row in rows], "bar", joined=False)]
            labels, axis = variants, budgets[0]
        else:
            lines = [
                Series(variant.removeprefix("chosen ") if len(variants) > 1 else "", _at(rows, variant, budgets), color)
                for variant, color in zip(variants, ("bar", "good", "warn"), strict=False)
            ]
            labels, axis = [_short_budget(budget) for budget in budgets], _AXES.get(idea, "budget")
        chart = budget_chart(f"headroom-{idea}", heading, labels, f"mIoU by {axis}", lines, base)
        drawn.append({"heading": heading, "define": f"headroom_{idea}", "chart": chart})
    return drawn


def _short_budget(budget: str) -> str:
    """So that five of them stand side by side under a chart."""
    return budget.replace(" px patches", " px").replace("whole picture", "picture")


def _at(rows: list[Mapping[str, Any]], variant: str, budgets: list[str]) -> list[float | None]:
    """mIoU of a variant at each budget."""
    found = {str(row.get("budget")): row["miou"] for row in rows if _variant(row) == variant}
    return [found.get(budget) for budget in budgets]


def measured_table(scores: Mapping[str, Any]) -> Table | None:
    """What refiners really gained."""
    distance = str(dig(scores, "headroom", "distance") or 3)
    paths = (("miou",), ("boundary_iou", distance), ("pixel_accuracy",))
    rows = []
    for item in scores.get("measured") or []:
        cells = [name_cell(str(item.get("name", "")))]
        for path in paths:
            cells += [percent_cell(dig(item, *path)), change_cell(dig(item, "gain", *path))]
        rows.append(cells)
    columns = [
        Column("Refiner", "measured"), Column("mIoU", "miou"), Column("Gain"),
        Column(f"Boundary IoU, {distance} px", "boundary_iou"), Column("Gain"),
        Column("Pixel accuracy", "pixel_accuracy"), Column("Gain"),
    ]  # fmt: skip
    return Table(columns, rows).without_empty_columns() if rows else None


def typical_headroom(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each idea one row of moderate budget, chosen by truth where there is a choice; largest gain first.

    Beside the row's own keys: `gain` in mIoU, and where regions can be chosen without the truth `own_variant` and
    `own_gain` of that choice.
    """
    part = scores.get("headroom") or {}
    base = dig(part, "base", "miou")
    found = []
    for idea in IDEAS:
        rows = [row for row in part.get("rows") or [] if row.get("idea") == idea and known(row.get("miou"))]
        if not rows or not known(base):
            continue
        truth = [row for row in rows if row.get("variant") == "truth"] or rows
        near = [row for row in truth if idea in _TYPICAL and _number(row.get("budget")) == _TYPICAL[idea]]
        chosen = dict(near[0] if near else truth[len(truth) // 2 if idea in _TYPICAL else 0])
        chosen["gain"] = chosen["miou"] - base
        for row in rows:
            if row.get("variant") in ("entropy", "importance") and row.get("budget") == chosen.get("budget"):
                chosen |= {"own_variant": row["variant"], "own_gain": row["miou"] - base}
        found.append(chosen)
    return sorted(found, key=lambda row: -row["gain"])


def changed_table(scores: Mapping[str, Any], classes: Classes) -> Table | None:
    """Fixed and broken pixels of each true class, largest net loss first."""
    per_class = dig(scores, "baseline", "changed", "per_class") or {}
    colors = dict(zip(classes.names, map(hex_color, classes.colors), strict=True))
    rows = []
    for name, item in per_class.items():
        fixed, broken = item.get("fixed", 0), item.get("broken", 0)
        net = fixed - broken
        tone = "good" if net > 0 else "bad" if net < 0 else "soft"
        rows.append(
            [
                name_cell(name, colors.get(name)),
                *(Cell(count(item.get(key)), item.get(key)) for key in ("fixed", "broken", "still_wrong")),
                Cell(f"+{count(net)}" if net > 0 else count(net).replace("-", "−"), net, tone=tone),
                change_cell(dig(scores, "baseline", "difference", "per_class", name)),
            ]
        )
    rows.sort(key=lambda row: row[4].value)
    columns = [
        Column("True class"), Column("Fixed, px", "fixed"), Column("Broken, px", "broken"),
        Column("Still wrong, px", "still_wrong", wide=True), Column("Net, px", "net"),
        Column("IoU change", "difference", wide=True),
    ]  # fmt: skip
    return Table(columns, rows).without_empty_columns() if rows else None


def _variant(row: Mapping[str, Any]) -> str:
    variant = row.get("variant")
    if variant == "truth" and row.get("idea") != "fornet":
        return ""  # the only way there is
    return VARIANTS.get(str(variant), str(variant)) if variant else ""


def _number(budget: Any) -> float | None:
    """The first number of a budget such as '5 %' or 'r = 4'."""
    found = re.search(r"\d+(\.\d+)?", str(budget))
    return float(found.group()) if found else None


def _minus(now: Mapping[str, Any], base: Mapping[str, Any], key: str) -> float | None:
    first, second = now.get(key), base.get(key)
    return first - second if known(first) and known(second) else None
