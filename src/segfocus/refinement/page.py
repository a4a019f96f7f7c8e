"""The leaderboard as one HTML page that needs no network: tables, charts, and what the best refiner does to maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.files import write_text
from segfocus.metrics.changes import KINDS
from segfocus.refinement.charts import gains_chart, scatter_chart
from segfocus.refinement.entrants import BASE, ORACLE
from segfocus.refinement.leaderboard import boundary_table, cost_table, in_short, marks, quality_table, tiles
from segfocus.refinement.parts import Part
from segfocus.refinement.rows import base_prediction, refine_by
from segfocus.refinement.words import DEFINITIONS
from segfocus.report.definitions import Definition
from segfocus.report.images import Image, embed
from segfocus.report.tables import count, hex_color, percent

_SIDE = 420
"""px of the longer side of a picture on the page"""
_GAINED, _LOST = 4, 2
"""pictures shown in which the best refiner mends, and breaks, most"""


def write_page(out: Path, results: Mapping[str, Any], part: Part, classes: Classes, device: str = "auto") -> Path:
    """Write the page of a leaderboard and return its path.

    Args:
        out: the file; checkpoints named in `results` are relative to its folder.
        results: what `segfocus.refinement.compare.compare` returns.
        part: the pictures that were scored.
        classes: names and colours.
        device: on which the best refiner makes the pictures that are shown.

    Raises:
        SegfocusError: the file cannot be written.
    """
    rows = results["rows"]
    rivals = [mark for mark in marks(rows) if mark.label]
    timed = [mark for row, mark in zip(rows, marks(rows), strict=True) if row["ms_per_megapixel"]]
    harming = [mark for row, mark in zip(rows, marks(rows, "harm_rate"), strict=True) if row["name"] != BASE]
    best = best_refiner(rows)
    cards, complaint = ([], "") if best is None else _cards(best, out.parent, part, classes, device)
    content = {
        "title": f"Refining {results['maps']}: the leaderboard",
        "subtitle": _subtitle(results),
        "failures": results["failures"],
        "tiles": tiles(results),
        "findings": in_short(results),
        "quality": quality_table(results),
        "boundary": boundary_table(results),
        "cost": cost_table(results),
        "gains": gains_chart("gains", "Change against the base", [mark for mark in rivals if mark.name]),
        "costs": scatter_chart("costs", "Gain against time", timed, "ms a megapixel", decades=True) if timed else "",
        "harms": scatter_chart("harms", "Gain against harm", harming, "harm rate, %", percent=True),
        "best": best,
        "cards": cards,
        "complaint": complaint,
        "legend": {
            **{name: hex_color(color) for name, color in zip(classes.names, classes.colors, strict=True)},
            "changes: fixed": hex_color(viz.FIXED),
            "broken": hex_color(viz.BROKEN),
            "wrong in both": hex_color(viz.STILL_WRONG),
        },
        "pictured": part.dataset.pictures is not None,
        "binary": results["foreground"] is not None,
        "left_out": results["left_out"],
        "made": _made(results),
        "results_json": json.dumps(_without_pictures(results), indent=1),
    }
    write_text(out, _template().render(**content))
    return out


def best_refiner(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The best row with a network or a rule of its own that changes anything; None without one."""
    for row in rows:
        if row["name"] not in (BASE, ORACLE) and row["checkpoint"] and row["fixed"] + row["broken"]:
            return row
    return None


def _subtitle(results: Mapping[str, Any]) -> str:
    pictures = results["n_pictures"]
    parts = [f"{count(pictures)} picture{'' if pictures == 1 else 's'} scored"]
    fit = results["n_fit_pictures"]
    parts.append(f"refiners fitted by {count(fit)} others: {results['fit_from']}" if fit else results["fit_from"])
    parts.append(f"{len(results['classes'])} classes")
    return " · ".join([*parts, "scores in percent"])


def _cards(
    best: Mapping[str, Any], folder: Path, part: Part, classes: Classes, device: str
) -> tuple[list[dict[str, Any]], str]:
    """What the best refiner makes of the maps it changes most, and why there is nothing to see, where that is so."""
    try:
        refine, _ = refine_by(folder / best["checkpoint"], device)
        return [_card(name, best["pictures"][name], part, refine, classes) for name in shown(best["pictures"])], ""
    except SegfocusError as error:  # files have changed since they were scored
        return [], str(error)


def shown(pictures: Mapping[str, Sequence[int]]) -> list[str]:
    """The pictures with the largest shares of pixels gained, then those with the largest shares lost."""
    fixed, broken = KINDS.index("fixed"), KINDS.index("broken")
    gain = {name: (kinds[fixed] - kinds[broken]) / max(1, sum(kinds)) for name, kinds in pictures.items()}
    order = sorted(gain, key=lambda name: (-gain[name], name))
    best = [name for name in order[:_GAINED] if gain[name] > 0]
    worst = [name for name in reversed(order) if gain[name] < 0 and name not in best][:_LOST]
    return [*best, *worst]


def _card(name: str, kinds: Sequence[int], part: Part, refine: Any, classes: Classes) -> dict[str, Any]:
    mapped = part.read(name)
    before, after = base_prediction(mapped), refine(name, mapped)
    truth, picture = mapped.truth, mapped.picture
    chances = [_certainty(values) for values in (before.probabilities, after.probabilities)]
    maps = viz.probability_pair(*chances)
    word = "probability" if classes.num_classes == 2 else "largest probability"
    true = ("truth", viz.color_map(truth, classes), True)
    drawn = [  # two rows of the page, what was before above what came after
        true if picture is None else ("picture", picture, False),
        (f"{word} before", maps[0], False),
        ("mask before", _masked(before.labels, truth, classes), True),
        ("changes", viz.change_map(truth, before.labels, after.labels, picture), picture is None),
        *([] if picture is None else [true]),
        (f"{word} after", maps[1], False),
        ("mask after", _masked(after.labels, truth, classes), True),
    ]
    images: list[Image] = []
    for title, image, flat in drawn:
        small = viz.fit(image, _SIDE)
        images.append(embed(title, small, flat and small.shape == image.shape))
    counts = dict(zip(KINDS, kinds, strict=True))
    total = max(1, sum(kinds))
    return {
        "name": name,
        "fixed": percent(counts["fixed"] / total, 2),
        "broken": percent(counts["broken"] / total, 2),
        "images": images,
    }


def _certainty(probabilities: np.ndarray) -> np.ndarray:
    return probabilities[1] if len(probabilities) == 2 else probabilities.max(0)


def _masked(labels: np.ndarray, truth: np.ndarray, classes: Classes) -> np.ndarray:
    return viz.color_map(np.where(truth == 255, np.uint8(255), labels), classes)


def _made(results: Mapping[str, Any]) -> dict[str, str]:
    about, settings = results["about"], results["settings"]
    length = f"{settings['minutes']:g} minutes" if settings["minutes"] else f"{settings['steps']} steps"
    other = results["other_work"]
    machine = f"{about['processor']}, {about['processors']} processors, accelerator: {about['accelerator']}"
    if other is None:
        noise = "not known whether other work ran meanwhile"
    elif results["quiet"]:
        noise = "quiet while times were measured"
    else:
        noise = f"other work took up to {percent(other, 0)} % of the processors: times are too long"
    return {
        "fitted by": f"{results['n_fit_pictures']} pictures: {results['fit_from']}",
        "trainings": f"{length} each, seed {settings['seed']}",
        "oracle": f"patches of {settings['patch']} px",
        "machine": f"{machine}; {noise}",
        "versions": ", ".join(f"{name} {version}" for name, version in about["packages"].items()),
        "segfocus": about["segfocus"],
        "command": " ".join([Path(about["command"][0]).name, *about["command"][1:]]) if about["command"] else "",
        "begun": about["started"],
        "page made": date.today().isoformat(),
    }


def _without_pictures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results without what is counted for every picture, which the page would not bear."""
    rows = [{key: value for key, value in row.items() if key not in ("pictures", "scores")} for row in results["rows"]]
    return {**results, "rows": rows}


def _template():
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("segfocus.refinement", "."), PackageLoader("segfocus.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    asked: dict[str, Definition] = {}

    def define(key: str | None) -> Definition | None:
        return None if key not in DEFINITIONS else asked.setdefault(key, DEFINITIONS[key])

    environment.filters["svg"] = Markup  # charts are built by an XML library, which has escaped their texts
    environment.globals["define"] = define
    environment.globals["glossary"] = lambda: {key: text for key, text in DEFINITIONS.items() if key in asked}
    return environment.get_template("leaderboard.html")
