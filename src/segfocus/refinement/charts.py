"""The charts of the leaderboard: gains with their intervals, and gain against cost or harm; inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segfocus.report.svg import COLORS, new_axes, new_figure, to_svg
from segfocus.report.tables import known, points, points_span, two

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 480
_SMALL, _TEXT = 11.5, 12.5
_LONGEST = 34
"""characters of a row's name"""
_MARK = 6.0
"""px around a dot that no number may cover"""
_PLACES = ((11, 0), (-11, 0), (0, 12), (0, -12), (12, 11), (-12, 11), (12, -11), (-12, -11), (22, 0), (0, 23))
"""px from a dot to its number, the best place first"""


@dataclass(frozen=True)
class Mark:
    """One row of the leaderboard in a chart."""

    label: str
    """its number in the table"""
    name: str
    gain: float | None
    """in [-1, 1]"""
    interval: Any = None
    """[low, high] of the gain"""
    across: float | None = None
    """what the horizontal axis of a scatter chart measures"""
    color: str = "bar"
    """role of `svg.COLORS`"""


def gains_chart(name: str, title: str, marks: Sequence[Mark]) -> str:
    """The gain of each row over the base as a dot, its interval as a line, one below the other."""
    shown = [mark for mark in marks if known(mark.gain)]
    height = 34 + 24 * len(shown) + 34
    figure = new_figure(_WIDTH, height)
    left = 232
    axes = new_axes(figure, left, 24, _WIDTH - left - 62, max(1, 24 * len(shown)))
    ends = [end for mark in shown for end in (two(mark.interval) or (mark.gain, mark.gain)) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    axes.set_xlim(*_widened(low, high))
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    for tick in _ticks(*axes.get_xlim()):
        _upright(axes, tick, dotted=tick != 0)
        _write(axes, tick, max(1, len(shown)) - 0.5, points(tick, _digits(axes.get_xlim())), drop=12, color="soft")
    for place, mark in enumerate(shown):
        interval = two(mark.interval)
        if interval is not None:
            axes.hlines(place, *interval, color=COLORS[mark.color], linewidth=3, alpha=0.4)
        axes.plot([mark.gain or 0.0], [place], "o", color=COLORS[mark.color], markersize=8, clip_on=False)
        _at(figure, 8, 24 + 24 * place + 12, _short(f"{mark.label}. {mark.name}"), "ink", "left")
        _at(figure, _WIDTH - 4, 24 + 24 * place + 12, points(mark.gain), "ink", "right")
    _at(figure, left + (_WIDTH - left - 62) / 2, height - 10, "change in points, 95 % interval", "soft", "center")
    words = "; ".join(f"{mark.name}: {points(mark.gain)} points ({points_span(mark.interval)})" for mark in shown)
    return to_svg(figure, name, title, words or "no rows")


def scatter_chart(
    name: str, title: str, marks: Sequence[Mark], across: str, percent: bool = False, decades: bool = False
) -> str:
    """Gain over the base (upwards) against `Mark.across`; rows without either are left out.

    Args:
        name: of the chart, in ids.
        title: what it shows.
        marks: rows; each dot has its number beside it.
        across: what the horizontal axis measures.
        percent: it measures fractions, shown in percent.
        decades: its scale is logarithmic; values are above 0.
    """
    shown = [mark for mark in marks if known(mark.gain) and known(mark.across) and not (decades and mark.across <= 0)]
    figure = new_figure(_WIDTH, 300)
    left, width, tall = 58, _WIDTH - 58 - 22, 216
    axes = new_axes(figure, left, 22, width, tall)
    xs = [math.log10(mark.across) if decades else mark.across for mark in shown if mark.across is not None]
    axes.set_xlim(*_widened(min(xs, default=0.0) if decades else 0.0, max(xs, default=1.0)))
    gains = [mark.gain for mark in shown if mark.gain is not None]
    axes.set_ylim(*_widened(min([0.0, *gains]), max([0.0, *gains])))
    for tick in _ticks(*axes.get_ylim()):
        axes.axhline(tick, color=COLORS["line"], linewidth=1, linestyle="-" if tick == 0 else (0, (1, 3)), zorder=0)
        _write(axes, axes.get_xlim()[0], tick, points(tick, _digits(axes.get_ylim())), -8, 0, "soft", "right")
    for tick in _whole_ticks(*axes.get_xlim()) if decades else _ticks(*axes.get_xlim()):
        _upright(axes, tick, dotted=True)
        text = _power(tick) if decades else (f"{100 * tick:g}" if percent else f"{tick:g}")
        _write(axes, tick, axes.get_ylim()[0], text, drop=12, color="soft")
    taken: list[tuple[float, float]] = []
    dots = [_pixel(axes, x, mark.gain or 0.0, width, tall) for x, mark in zip(xs, shown, strict=True)]
    for x, mark, dot in zip(xs, shown, dots, strict=True):
        axes.plot([x], [mark.gain or 0.0], "o", color=COLORS[mark.color], markersize=9, clip_on=False)
        right, down = _free(dot, dots, taken)
        _write(axes, x, mark.gain or 0.0, mark.label, right, down)
    _at(figure, left + width / 2, 288, across, "soft", "center")
    _at(figure, 4, 9, "change in points", "soft", "left")
    words = "; ".join(
        f"{mark.name}: {points(mark.gain)} points at {100 * (mark.across or 0) if percent else mark.across:.3g}"
        for mark in shown
    )
    return to_svg(figure, name, title, f"{across}: {words}" if words else "no rows")


def _free(
    dot: tuple[float, float], dots: Sequence[tuple[float, float]], taken: list[tuple[float, float]]
) -> tuple[float, float]:
    """Where a number stands beside its dot so that it covers no other, as far as that goes."""
    for right, down in _PLACES:
        at = dot[0] + right, dot[1] + down
        clear = all(abs(at[0] - x) > _MARK + 6 or abs(at[1] - y) > _MARK + 5 for x, y in dots if (x, y) != dot)
        if clear and all(abs(at[0] - x) > 15 or abs(at[1] - y) > 11 for x, y in taken):
            break
    else:
        right, down = _PLACES[0]
        at = dot[0] + right, dot[1] + down
    taken.append(at)
    return right, down


def _pixel(axes: Axes, x: float, y: float, width: float, height: float) -> tuple[float, float]:
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return (x - low) / (high - low) * width, (top - y) / (top - bottom) * height


def _widened(low: float, high: float) -> tuple[float, float]:
    """A little room at both ends, and some where all values are one."""
    room = 0.06 * (high - low) or 0.005
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers inside a range, with 0 where it is inside."""
    from matplotlib.ticker import MaxNLocator

    return [0.0 if abs(tick) < 1e-12 else float(tick) for tick in MaxNLocator(4).tick_values(low, high)
            if low <= tick <= high]  # fmt: skip


def _whole_ticks(low: float, high: float) -> list[float]:
    """Decades inside a range; of a narrow one its ends' nearest."""
    whole = [float(tick) for tick in range(math.ceil(low), math.floor(high) + 1)]
    return whole or [low, high]


def _power(tick: float) -> str:
    value = 10**tick
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 10 else f"{value:.2g}"


def _short(name: str) -> str:
    """As much of a row's name as fits beside the chart."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _digits(limits: tuple[float, float]) -> int:
    return 1 if limits[1] - limits[0] < 0.05 else 0


def _upright(axes: Axes, x: float, dotted: bool) -> None:
    axes.axvline(x, color=COLORS["line"], linewidth=1, linestyle=(0, (1, 3)) if dotted else "-", zorder=0)


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    shift: float = 0,
    drop: float = 0,
    color: str = "ink",
    align: str = "center",
) -> None:
    """Text at a place of the data, moved right and down by so many CSS pixels."""
    axes.annotate(
        text, (x, y), (shift, -drop), textcoords="offset points", ha=align, va="center", annotation_clip=False,
        **_font(_SMALL, color),
    )  # fmt: skip


def _at(figure: Figure, left: float, top: float, text: str, color: str, align: str) -> None:
    """Text at a place of the chart in CSS pixels."""
    width, height = figure.get_size_inches() * 72
    figure.text(left / width, 1 - top / height, text, ha=align, va="center", **_font(_TEXT, color))


def _font(size: float, color: str) -> dict[str, Any]:
    return {"fontsize": size, "color": COLORS[color], "parse_math": False}
