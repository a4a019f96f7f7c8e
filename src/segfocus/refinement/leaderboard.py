"""The leaderboard in words and tables: rows of numbers in, what the page draws out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segfocus.refinement.charts import Mark
from segfocus.refinement.entrants import BASE, CONTROL, ENTRANTS, ORACLE
from segfocus.refinement.scores import DISTANCES
from segfocus.report.tables import (
    MISSING,
    Cell,
    Column,
    Table,
    change_cell,
    count,
    known,
    percent,
    percent_cell,
    points,
    points_span,
    span,
    tone,
)

Row = Mapping[str, Any]
_FITTING = {
    "none": "nothing to fit",
    "counted": "counted",
    "trained": "trained",
    "given": "as given",
    "truth": "uses the truth",
}
_NAMES = {"foreground_iou": "Foreground IoU", "miou": "mIoU"}
_COLORS = {"trained": "bar", "given": "bar", "truth": "warn"}


def marks(rows: Sequence[Row], across: str = "ms_per_megapixel") -> list[Mark]:
    """The rows as marks of a chart; the base, which gains nothing, has no number and no name."""
    return [
        Mark(
            label="" if row["name"] == BASE else str(place),
            name="" if row["name"] == BASE else str(row["title"]),
            gain=None if row["name"] == BASE else row["difference"]["value"],
            interval=row["difference"]["interval"],
            across=row[across],
            color=_COLORS.get(row["fitting"], "soft"),
        )
        for place, row in enumerate(rows, start=1)
    ]


def quality_table(results: Mapping[str, Any]) -> Table:
    """Scores, best first."""
    score = results["score"]
    columns = [
        Column("Method"),
        Column(_NAMES[score], score),
        Column("95 %", "interval", wide=True),
        Column("Change", "difference"),
        Column("95 %", wide=True),
        Column("Harm", "harm_rate"),
        Column("Fixed", "fixed_rate"),
    ]
    cells = []
    for place, row in enumerate(results["rows"], start=1):
        base = row["name"] == BASE
        value = row["score"]["value"]
        cells.append(
            [
                _name(place, row),
                percent_cell(value, bar=True),
                Cell(span(row["score"]["interval"]), value),
                Cell(MISSING) if base else change_cell(row["difference"]),
                Cell(MISSING if base else points_span(row["difference"]["interval"])),
                Cell(MISSING) if base else percent_cell(row["harm_rate"], 2),
                Cell(MISSING) if base else percent_cell(row["fixed_rate"], 1),
            ]
        )
    return Table(columns, cells).without_empty_columns()


def boundary_table(results: Mapping[str, Any]) -> Table:
    """Boundary IoU with its change, and how far probabilities lie from the truth, in the order of the scores."""
    columns = [Column("Method")]
    for px in DISTANCES:
        columns += [Column(f"Boundary IoU, {px} px", "boundary_iou" if px == DISTANCES[0] else None)]
        columns += [Column("Change", wide=True)]
    columns += [Column("MAE", "mae"), Column("ECE", "ece")]
    cells = []
    for place, row in enumerate(results["rows"], start=1):
        cells.append([_name(place, row)])
        for px in DISTANCES:
            change = row["boundary_difference"][str(px)]
            missing = row["name"] == BASE
            cells[-1] += [percent_cell(row["boundary_iou"][str(px)]), Cell(MISSING) if missing else change_cell(change)]
        cells[-1] += [percent_cell(row["mae"], 2), percent_cell(row["ece"], 2)]
    return Table(columns, cells).without_empty_columns()


def cost_table(results: Mapping[str, Any]) -> Table:
    """What each row costs, in the order of the scores."""
    columns = [
        Column("Method"),
        Column("Change", "difference"),
        Column("Fitting", words=True),
        Column("Fitted in"),
        Column("ms/Mpx", "milliseconds"),
        Column("Peak memory", "memory"),
        Column("Parameters", "parameters"),
    ]
    cells = []
    for place, row in enumerate(results["rows"], start=1):
        if row["name"] == BASE:
            continue
        memory = row["peak_memory"]
        cells.append(
            [
                _name(place, row),
                change_cell(row["difference"]),
                Cell(_FITTING[row["fitting"]]),
                Cell(_seconds(row["fit_seconds"]), row["fit_seconds"]),
                Cell(_short(row["ms_per_megapixel"]), row["ms_per_megapixel"]),
                Cell(MISSING if memory is None else f"{_short(memory / 2**20)} MiB", memory),
                Cell(count(row["parameters"]), row["parameters"]),
            ]
        )
    return Table(columns, cells).without_empty_columns()


def tiles(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The base, the best row that can be had, and the oracle."""
    rows = {row["name"]: row for row in results["rows"]}
    best = leader(results["rows"])
    found = []
    for name, row in (("Base", rows[BASE]), ("Best", best), ("Oracle", rows.get(ORACLE))):
        if row is None:
            continue
        heading = name if row["name"] in (BASE, ORACLE) else f"{name}: {row['title']}"
        change = row["difference"]
        found.append(
            {
                "name": heading,
                "value": percent(row["score"]["value"]),
                "interval": span(row["score"]["interval"]),
                "change": "" if name == "Base" else f"{points(change['value'])} points",
                "tone": tone(change["value"], change["interval"]),
                "define": results["score"] if name == "Base" else "oracle" if name == "Oracle" else None,
            }
        )
    return found


def leader(rows: Sequence[Row]) -> Row | None:
    """The best row beside the base and the oracle; None without one."""
    return next((row for row in rows if row["name"] not in (BASE, ORACLE) and known(row["score"]["value"])), None)


def in_short(results: Mapping[str, Any]) -> list[str]:
    """What the leaderboard says, in sentences."""
    rows = {row["name"]: row for row in results["rows"]}
    best, said = leader(results["rows"]), []
    if best is not None:
        change, clear = best["difference"], tone(best["difference"]["value"], best["difference"]["interval"])
        verdict = {"good": "clearly better than the base", "bad": "clearly worse than the base"}
        said.append(
            f"{best['title']} comes first: {_change(change)}, {verdict.get(clear, 'not clearly apart from the base')}. "
            f"It fixes {percent(best['fixed_rate'])} % of the base's wrong pixels and breaks "
            f"{percent(best['harm_rate'], 2)} % of its right ones."
        )
    if (added := results.get("thresholds_add")) is not None and known(added["value"]):
        control = rows[CONTROL]["difference"]
        clear = tone(added["value"], added["interval"])
        verdict = {"good": "the thresholds help", "bad": "the thresholds do harm"}.get(
            clear, "whether the thresholds help is not clear from these pictures"
        )
        said.append(
            f"What the thresholds add: ThreshNet {points(rows['threshnet']['difference']['value'])} points, the same "
            f"network without them {points(control['value'])}; between them {_change(added)}: {verdict}."
        )
    if (oracle := rows.get(ORACLE)) is not None:
        said.append(
            f"With a threshold for each patch of {results['settings']['patch']} px, chosen by the truth, the base "
            f"would have {_change(oracle['difference'])}: no choice of such thresholds can do more."
            if results["foreground"] is not None
            else f"With a bias for each class and patch of {results['settings']['patch']} px, chosen by the truth, "
            f"the base would have {_change(oracle['difference'])}."
        )
    harmful = [row["title"] for row in results["rows"] if tone(*_pair(row)) == "bad" and row["name"] in ENTRANTS]
    if harmful:
        said.append(f"Clearly worse than the base: {', '.join(harmful)}.")
    return said


def _pair(row: Row) -> tuple[Any, Any]:
    return row["difference"]["value"], row["difference"]["interval"]


def _change(difference: Mapping[str, Any]) -> str:
    interval = difference["interval"]
    return f"{points(difference['value'])} points" + (f" ({points_span(interval)})" if interval else "")


def _name(place: int, row: Row) -> Cell:
    define = {ORACLE: "oracle", CONTROL: "control"}.get(row["name"])
    return Cell(f"{place}. {row['title']}", place, define=define, tone="soft" if row["name"] in (BASE, ORACLE) else "")


def _seconds(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value / 60:.1f} min" if value >= 60 else f"{value:.1f} s"


def _short(value: float | None) -> str:
    """Three digits, or whole numbers in groups."""
    if value is None:
        return MISSING
    return count(value) if value >= 100 else f"{value:.1f}"
