"""The charts of the report: numbers in, inline SVG out (see `svg`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segfocus.report.svg import COLORS, new_axes, new_figure, to_svg
from segfocus.report.tables import known, percent, whole_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 380
_LEFT, _RIGHT = 8, 8
_SMALL, _TEXT = 11.5, 12.5
Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """Fractions, one for each bin, under a name; absent ones are None."""

    name: str
    values: Values
    color: str
    """role of `svg.COLORS`"""
    ink: str = "ink"
    """role of its numbers"""
    joined: bool = True
    """whether a line joins its dots"""


def bins_chart(
    name: str,
    title: str,
    bins: Sequence[str],
    axis: str,
    pair: tuple[Series, Series],
    below: Sequence[Series],
) -> str:
    """Two fractions of each bin as bars side by side; below them further fractions as dots on a scale from 0 to 1.

    Args:
        name: of the chart, in ids.
        title: what it shows.
        bins: their labels.
        axis: what the bins measure.
        pair: left and right bar.
        below: lines under the bars; the numbers of the first stand above it, those of a second below.
    """
    figure = new_figure(WIDTH, 338)
    width = WIDTH - _LEFT - _RIGHT
    upper = new_axes(figure, _LEFT, 44, width, 110)
    lower = new_axes(figure, _LEFT, 208, width, 72)
    for axes in (upper, lower):
        axes.set_xlim(-0.55, len(bins) - 0.45)
    _legend(figure, 10, [(series.name, series.color, "s") for series in pair])
    top = max([value for series in pair for value in series.values if known(value)], default=1.0) or 1.0
    upper.set_ylim(0, top)
    for shift, series in zip((-0.2, 0.2), pair, strict=True):
        _bars(upper, series, shift, top)
    _line(upper, 0)
    _legend(figure, 176, [(series.name, series.color, "o") for series in below])
    lower.set_ylim(0, 1)
    for level in (0, 0.5, 1):
        _line(lower, level, dotted=level > 0)
    for index, series in reversed(list(enumerate(below))):
        _dots(lower, series, drop=(-11, 12)[index])
    for place, label in enumerate(bins):
        _write(lower, place, 0, label, drop=25, size=_TEXT)
    _caption(figure, axis, 327)
    return to_svg(figure, name, title, _in_words(bins, [*pair, *below]))


def reliability_chart(name: str, title: str, bins: Sequence[dict[str, Any]]) -> str:
    """Accuracy against confidence, one dot a bin, and the bins' shares of the pixels below.

    Args:
        name: of the chart, in ids.
        title: what it shows.
        bins: {"confidence", "accuracy", "share"} in ascending confidence, None where a bin is empty.
    """
    full = [item for item in bins if known(item.get("confidence")) and known(item.get("accuracy"))]
    figure = new_figure(WIDTH, 346)
    left, side = 56, WIDTH - 56 - 12
    axes, shares = new_axes(figure, left, 30, side, 200), new_axes(figure, left, 246, side, 50)
    for each in (axes, shares):
        each.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _legend(figure, 10, [("accuracy at this confidence", "bar", "o"), ("perfect", "soft", "_")])
    for level in (0, 0.25, 0.5, 0.75, 1):
        _line(axes, level, dotted=level > 0)
        _write(axes, 0, level, percent(level, 0), drop=0, shift=-8, size=_SMALL, color="soft", align="right")
        _write(shares, level, 0, percent(level, 0), drop=12, size=_SMALL, color="soft")
    axes.plot([0, 1], [0, 1], color=COLORS["soft"], linestyle=(0, (4, 3)), linewidth=1.2, clip_on=False)
    confidence, accuracy = ([item[key] for item in full] for key in ("confidence", "accuracy"))
    axes.vlines(confidence, accuracy, confidence, color=COLORS["bad"], linewidth=2.5, alpha=0.45)
    axes.plot(
        confidence, accuracy, "o-", color=COLORS["bar"], markeredgecolor=COLORS["card"], markersize=7, clip_on=False
    )
    share = [item.get("share") or 0.0 for item in full]
    shares.set_ylim(0, max(share, default=1) or 1)
    shares.bar(confidence, share, width=0.045, color=COLORS["soft"], alpha=0.6, clip_on=False)
    _line(shares, 0)
    _write(shares, 0, 0.5 * shares.get_ylim()[1], "pixels", drop=0, shift=-8, size=_SMALL, color="soft", align="right")
    _caption(figure, "confidence, %", 332)
    figure.text(
        14 / WIDTH, 1 - 130 / 346, "accuracy, %", rotation=90, ha="center", va="center", **_font(_SMALL, "soft")
    )
    words = "; ".join(
        f"confidence {percent(item['confidence'])} %: accuracy {percent(item['accuracy'])} %, "
        f"{percent(item.get('share'))} % of the pixels"
        for item in full
    )
    return to_svg(figure, name, title, words or "no bins")


def changes_chart(name: str, title: str, bins: Sequence[str], axis: str, fixed: Values, broken: Values) -> str:
    """Fixed pixels of each bin upwards, broken ones downwards."""
    figure = new_figure(WIDTH, 236)
    axes = new_axes(figure, _LEFT, 44, WIDTH - _LEFT - _RIGHT, 130)
    up, down = ([float(value or 0) for value in values] for values in (fixed, broken))
    top = max([*up, *down, 1.0])
    axes.set_xlim(-0.55, len(bins) - 0.45)
    axes.set_ylim(-max(*down, 0.15 * top), max(*up, 0.15 * top))
    _legend(figure, 10, [("fixed, px", "good", "s"), ("broken, px", "bad", "s")])
    places = range(len(bins))
    axes.bar(places, up, width=0.62, color=COLORS["good"], clip_on=False)
    axes.bar(places, [-value for value in down], width=0.62, color=COLORS["bad"], clip_on=False)
    for place, gained, lost in zip(places, up, down, strict=True):
        _write(axes, place, gained, _short(gained), drop=-8)
        _write(axes, place, -lost, _short(lost), drop=9)
        _write(axes, place, axes.get_ylim()[0], bins[place], drop=32, size=_TEXT)
    _line(axes, 0)
    _caption(figure, axis, 226)
    words = "; ".join(f"{label}: {a:.0f} fixed, {b:.0f} broken" for label, a, b in zip(bins, up, down, strict=True))
    return to_svg(figure, name, title, words)


def thresholds_chart(
    name: str, title: str, steps: Sequence[float], best: Sequence[float], implied: Sequence[float], middle: int
) -> str:
    """Shares of patches by threshold: the best upwards, the implied ones downwards.

    Those at `middle`, usually most, are written instead of drawn, so that the others can be seen.
    """
    figure = new_figure(WIDTH, 258)
    axes = new_axes(figure, _LEFT, 50, WIDTH - _LEFT - _RIGHT, 146)
    up, down = ([float(value) for value in values] for values in (best, implied))
    up[middle] = down[middle] = 0.0
    top = max([*up, *down, 0.01])
    axes.set_xlim(-0.6, len(steps) - 0.4)
    axes.set_ylim(-top, top)
    _legend(figure, 10, [("best, % of patches", "good", "s"), ("implied", "bar", "s")])
    places = range(len(steps))
    axes.bar(places, up, width=0.72, color=COLORS["good"], clip_on=False)
    axes.bar(places, [-value for value in down], width=0.72, color=COLORS["bar"], clip_on=False)
    for values, sign in ((up, 1), (down, -1)):
        highest = max(places, key=lambda place, values=values: values[place])
        if values[highest]:
            _write(axes, highest, sign * values[highest], whole_percent(values[highest]), drop=-9 * sign)
    axes.plot([middle, middle], [-top, top], color=COLORS["line"], linewidth=1, zorder=0, clip_on=False)
    for value, sign in ((best[middle], 1), (implied[middle], -1)):
        words = f"at {steps[middle]:g}: {whole_percent(value)}"
        _write(axes, middle, sign * top, words, drop=-9 * sign, shift=-4, color="soft", align="right")
    for place in places:
        if place % 2:
            _write(axes, place, -top, f"{steps[place]:.1f}".removeprefix("0"), drop=28, size=_SMALL)
    _line(axes, 0)
    _caption(figure, "threshold", 246)
    words = "; ".join(
        f"{step:g}: best {percent(one)} %, implied {percent(other)} %"
        for step, one, other in zip(steps, best, implied, strict=True)
    )
    return to_svg(figure, name, title, words)


def budget_chart(name: str, title: str, budgets: Sequence[str], axis: str, lines: Sequence[Series], base: float) -> str:
    """A score at each budget: a line for each way to spend it, on one scale from the score without it to 1.

    Args:
        name: of the chart, in ids.
        title: what it shows.
        budgets: labels, in ascending order.
        axis: what they measure.
        lines: scores in [0, 1]; the first with its numbers written above.
        base: the score without the idea.
    """
    figure = new_figure(WIDTH, 230)
    axes = new_axes(figure, _LEFT + 8, 46, WIDTH - _LEFT - _RIGHT - 16, 118)
    axes.set_xlim(-0.5, len(budgets) - 0.5)
    low = min([base, *(value for line in lines for value in line.values if value is not None and known(value))])
    axes.set_ylim(low, max(1.0, low + 0.01))
    axes.axhline(base, color=COLORS["soft"], linestyle=(0, (4, 3)), linewidth=1.2, clip_on=False)
    _write(axes, len(budgets) - 0.5, base, f"now {percent(base)}", drop=9, color="soft", align="right")
    for index, line in reversed(list(enumerate(lines))):
        _dots(axes, line, drop=-12 if index == 0 else None)
    _legend(figure, 10, [(line.name, line.color, "o") for line in lines if line.name])
    for place, label in enumerate(budgets):
        _write(axes, place, axes.get_ylim()[0], label, drop=28, size=_TEXT)
    _caption(figure, axis, 218)
    return to_svg(figure, name, title, f"{_in_words(budgets, lines)}; without: {percent(base)} %")


def recall_chart(name: str, title: str, ratios: Sequence[float], lines: Sequence[Series]) -> str:
    """What is found when a share of the regions is chosen: a line for each way to choose, from nothing to all.

    Args:
        name: of the chart, in ids.
        title: what it shows.
        ratios: shares of the regions in [0, 1], ascending.
        lines: shares found in [0, 1]; the first with its numbers written below.
    """
    figure = new_figure(WIDTH, 268)
    left = 34
    axes = new_axes(figure, left, 44, WIDTH - left - 16, 160)
    axes.set_xlim(0, max(ratios))
    axes.set_ylim(0, 1)
    _legend(figure, 10, [(line.name, line.color, "o") for line in lines])
    for level in (0, 0.25, 0.5, 0.75, 1):
        _line(axes, level, dotted=level > 0)
        _write(axes, 0, level, percent(level, 0), shift=-8, color="soft", align="right")
    for index, line in reversed(list(enumerate(lines))):
        places = [place for place, value in zip(ratios, line.values, strict=True) if known(value)]
        values = [float(value) for value in line.values if known(value)]
        axes.plot([0, *places], [0, *values], color=COLORS[line.color], clip_on=False)
        axes.plot(
            places, values, "o", color=COLORS[line.color], markeredgecolor=COLORS["card"], markersize=7, clip_on=False
        )
        for place, value in zip(places, values, strict=True):
            if index == 0:
                _write(axes, place, value, percent(value, 0), drop=13)
    for ratio in ratios:
        _write(axes, ratio, 0, percent(ratio, 0), drop=16, size=_TEXT)
    _caption(figure, "most important regions, %", 252)
    return to_svg(figure, name, title, _in_words([f"{percent(ratio, 0)} %" for ratio in ratios], lines))


def _bars(axes: Axes, series: Series, shift: float, top: float) -> None:
    for place, value in enumerate(series.values):
        if known(value):
            axes.bar(place + shift, value, width=0.38, color=COLORS[series.color], clip_on=False)
            _write(axes, place + shift, float(value or 0), whole_percent(value), drop=-8, color=series.ink)


def _dots(axes: Axes, series: Series, drop: float | None) -> None:
    """Dots, joined or not; their numbers so far below them where `drop` is given."""
    places = [place for place, value in enumerate(series.values) if known(value)]
    values = [float(series.values[place] or 0) for place in places]
    axes.plot(
        places, values, "o-" if series.joined else "o", color=COLORS[series.color],
        markeredgecolor=COLORS["card"], markersize=7, clip_on=False,
    )  # fmt: skip
    for place, value in zip(places, values, strict=True):
        if drop is not None:
            _write(axes, place, value, percent(value, 0), drop=drop)


def _line(axes: Axes, level: float, dotted: bool = False) -> None:
    axes.axhline(
        level, color=COLORS["line"], linewidth=1, linestyle=(0, (1, 3)) if dotted else "-", zorder=0, clip_on=False
    )


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    drop: float = 0,
    shift: float = 0,
    size: float = _SMALL,
    color: str = "ink",
    align: str = "center",
) -> None:
    """Text at a place of the data, moved right and down by so many CSS pixels."""
    axes.annotate(
        text, (x, y), (shift, -drop), textcoords="offset points", ha=align, va="center", **_font(size, color),
        annotation_clip=False,
    )  # fmt: skip


def _legend(figure: Figure, top: float, items: Sequence[tuple[str, str, str]]) -> None:
    """Marks and names in one row; the width of a name is estimated, for the page chooses the font."""
    axes = new_axes(figure, 0, top - 8, WIDTH, 16)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, 16)
    place = _LEFT + 2.0
    for name, color, mark in items:
        axes.plot([place + 4], [8], mark, color=COLORS[color], markersize=8, markeredgewidth=1.5, clip_on=False)
        axes.text(place + 14, 8, name, ha="left", va="center", **_font(_TEXT, "ink"))
        place += 14 + 6.6 * len(name) + 18


def _caption(figure: Figure, text: str, top: float) -> None:
    height = figure.get_size_inches()[1] * 72
    figure.text(0.5, 1 - top / height, text, ha="center", va="center", **_font(_TEXT, "soft"))


def _font(size: float, color: str) -> dict[str, Any]:
    return {"fontsize": size, "color": COLORS[color], "parse_math": False}


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    if value >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value / 1e3:.1f}k" if value >= 1e3 else f"{value:.0f}"


def _in_words(bins: Sequence[str], series: Sequence[Series]) -> str:
    return "; ".join(
        f"{label}: " + ", ".join(f"{item.name} {percent(item.values[place])} %" for item in series)
        for place, label in enumerate(bins)
    )
