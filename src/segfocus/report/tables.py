"""Tables as plain values: the page draws any of them alike, and every one sorts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

MISSING = "–"
Range = tuple[float, float]


@dataclass(frozen=True)
class Column:
    """Heading of a column."""

    title: str
    define: str | None = None
    """key of `DEFINITIONS`"""
    wide: bool = False
    """left out on narrow screens"""
    words: bool = False
    """text, set flush left"""


@dataclass(frozen=True)
class Cell:
    """One entry of a table."""

    text: str
    value: float | str | None = None
    """what sorts; None comes last"""
    swatch: str | None = None
    """colour of a small square before the text"""
    bar: float | None = None
    """length of a bar before the text, 0 to 1"""
    heat: float | None = None
    """strength of the warning colour behind the text, 0 to 1"""
    tone: str = ""
    """'good', 'bad' or 'soft'"""
    define: str | None = None
    """key of `DEFINITIONS`"""


@dataclass(frozen=True)
class Table:
    """Rows as long as the columns; the first column names the row."""

    columns: list[Column]
    rows: list[list[Cell]] = field(default_factory=list)

    def without_empty_columns(self) -> Table:
        """The table without columns in which every entry is missing."""
        keep = [
            index
            for index in range(len(self.columns))
            if index == 0 or any(row[index].text not in (MISSING, "") for row in self.rows)
        ]
        return Table([self.columns[index] for index in keep], [[row[index] for index in keep] for row in self.rows])


def known(value: Any) -> TypeGuard[float]:
    """Whether there is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def percent(value: Any, digits: int = 1) -> str:
    """A fraction in percent without the sign; a dash where there is none."""
    return f"{100 * value:.{digits}f}" if known(value) else MISSING


def whole_percent(value: Any) -> str:
    """A share in whole percent; a little of something does not read as nothing."""
    return "<1" if known(value) and 0 < value < 0.005 else percent(value, 0)


def points(value: Any, digits: int = 1) -> str:
    """A difference of fractions in percentage points, with a true minus sign."""
    if not known(value):
        return MISSING
    text = f"{100 * value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def count(value: Any) -> str:
    """A whole number in groups of three, set apart by narrow spaces."""
    return f"{int(value):,}".replace(",", "\u202f") if known(value) else MISSING


def two(values: Any) -> Range | None:
    """The ends of an interval, or None where one is missing."""
    if not isinstance(values, list | tuple) or len(values) != 2 or not all(map(known, values)):
        return None
    return float(values[0]), float(values[1])


def span(values: Any) -> str:
    """An interval of fractions in percent."""
    found = two(values)
    return MISSING if found is None else f"{percent(found[0])} – {percent(found[1])}"


def points_span(values: Any) -> str:
    """An interval of differences in percentage points."""
    found = two(values)
    return MISSING if found is None else f"{points(found[0])} to {points(found[1])}"


def tone(value: Any, interval: Any = None) -> str:
    """'good' above zero, 'bad' below; 'soft' where an interval holds zero or none shows that it does not."""
    found = two(interval)
    if not known(value) or found is None or found[0] <= 0 <= found[1]:
        return "soft"
    return "good" if value > 0 else "bad"


def name_cell(name: str, color: str | None = None, define: str | None = None) -> Cell:
    return Cell(name, name, swatch=color, define=define)


def percent_cell(value: Any, digits: int = 1, bar: bool = False, heat: bool = False) -> Cell:
    """A fraction; with `bar` as long as it is, with `heat` the warmer the lower it is."""
    if not known(value):
        return Cell(MISSING)
    share = min(max(float(value), 0.0), 1.0)
    return Cell(percent(value, digits), value, bar=share if bar else None, heat=1 - share if heat else None)


def change_cell(difference: Any) -> Cell:
    """{"value", "interval"} in points, coloured where the interval leaves out zero."""
    difference = difference if isinstance(difference, Mapping) else {"value": difference}
    value, interval = difference.get("value"), difference.get("interval")
    return Cell(points(value), value, tone=tone(value, interval)) if known(value) else Cell(MISSING)


def dig(scores: Any, *path: str) -> Any:
    """The value at a path of keys, or None where a part is missing."""
    for key in path:
        if not isinstance(scores, Mapping):
            return None
        scores = scores.get(key)
    return scores


def unbroken(label: str) -> str:
    """The label of a range, '5-8', with a hyphen at which no line ends."""
    return label.replace("-", "\u2011")


def hex_color(color: Iterable[int]) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in color)
