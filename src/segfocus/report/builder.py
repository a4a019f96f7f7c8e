"""Builds the report: scores and the worst pictures as one HTML page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import segfocus
from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.files import write_text
from segfocus.report import charts, compare, offsets, sections
from segfocus.report.before import before
from segfocus.report.borrowing import borrowing
from segfocus.report.crops import PER_PICTURE, Crop
from segfocus.report.definitions import DEFINITIONS, Definition
from segfocus.report.findings import findings, region_words, upper_end
from segfocus.report.images import Entry
from segfocus.report.importance import importance
from segfocus.report.pictures import Pictures
from segfocus.report.tables import count, dig, hex_color, known, percent, whole_percent
from segfocus.report.thresholds import thresholds

_REGIONS = {
    "distance": ("By distance to the boundary", "px from the nearest true boundary", "px"),
    "thickness": ("By thickness", "px wide", "px"),
    "component_size": ("By component size", "px in one connected piece", "px"),
}
_CROP_WORDS = {
    "broken": ("broken", "The windows with the most broken pixels: right in the {}, wrong now"),
    "fixed": ("fixed", "The windows with the most fixed pixels: wrong in the {}, right now"),
    "wrong": ("wrong", "The windows with the most wrong pixels"),
    "thin": ("missed pixels of thin classes", "The windows with the most missed pixels of thin classes"),
}
"""kind of window -> word for its pixels, heading with room for the baseline's name; in the order of the page"""


def build_report(
    out: str | Path,
    title: str,
    scores: Mapping[str, Any],
    entries: Iterable[Entry],
    classes: Classes,
    made: Mapping[str, str] | None = None,
    worst: int = 12,
    image_size: int = 640,
) -> Path:
    """Go once through `entries` (may be empty), write the page and return its path: see `Pictures`, `write_report`."""
    pictures = Pictures(classes, worst, image_size)
    for entry in entries:
        pictures.add(entry)
    return write_report(out, title, scores, pictures, made)


def write_report(
    out: str | Path,
    title: str,
    scores: Mapping[str, Any],
    pictures: Pictures,
    made: Mapping[str, str] | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        out: a file ending in .html, or a folder that gets `report.html`.
        title: heading of the page.
        scores: the scores JSON (`Suite.summary`, with `baseline`, `measured` and `failures` where there are); a
            section whose keys are missing is left out.
        pictures: what was collected.
        made: how the numbers were made (checkpoint, recipe, split, ...), shown in this order.

    Raises:
        SegfocusError: the file cannot be written.
    """
    out = Path(out)
    path = out if out.suffix.lower() in {".html", ".htm"} else out / "report.html"
    glossary = _Glossary()
    content = _content(scores, pictures, made or {})
    shown = {image.title for card in content["cards"] for image in card.images}
    for key in ("void", "iou", "miou", *(["importance"] if "importance" in shown else [])):
        glossary(key)
    page = _template(glossary).render(title=title, shown=shown, **content)
    write_text(path, page)
    return path


def _content(scores: Mapping[str, Any], pictures: Pictures, made: Mapping[str, str]) -> dict[str, Any]:
    classes, matrix = pictures.classes, pictures.confusion
    longest = pictures.offset_scale.longest
    return {
        "subtitle": _subtitle(scores, classes),
        "findings": findings(scores, matrix, classes),
        "tiles": sections.tiles(scores),
        "all_scores": sections.all_scores(scores),
        "baseline": scores.get("baseline"),
        "changed": _changes(scores, classes),
        "changes_heading": before(scores).heading,
        "borrowing": borrowing(scores),
        "thresholds": thresholds(scores),
        "wheel": None if longest is None else offsets.wheel(longest),
        "longest": longest,
        "regions": _regions(scores),
        "importance": importance(scores),
        "class_table": sections.class_table(scores, matrix, classes),
        "categories": sections.category_table(scores),
        "confusions": sections.confusion_table(matrix, classes),
        "matrix": sections.matrix_rows(matrix, classes),
        "headroom_charts": compare.headroom_charts(scores),
        "headroom": compare.headroom_table(scores),
        "measured": compare.measured_table(scores),
        "thin": sections.thin_table(scores, classes),
        "instance": sections.instance_table(scores),
        "sizes_from": dig(scores, "instance", "sizes_from"),
        "calibration": _calibration(scores),
        "crop_groups": _crop_groups(pictures, before(scores).words),
        "cards": pictures.cards(),
        "seen": pictures.seen,
        "absent": (absent := sections.absent_classes(matrix, classes)),
        "legend": {
            name: hex_color(color)
            for name, color in zip(classes.names, classes.colors, strict=True)
            if name not in set(absent)
        },
        "colors": {name.lower(): hex_color(getattr(viz, name)) for name in ("WRONG", "FIXED", "BROKEN", "STILL_WRONG")},
        "failures": [str(text) for text in scores.get("failures") or []],
        "left_out": {str(group): str(why) for group, why in (scores.get("left_out") or {}).items()},
        "made": {**made, "segfocus": segfocus.__version__, "page made": date.today().isoformat()},
        "scores_json": json.dumps(dict(scores), indent=1, default=str),
    }


def _subtitle(scores: Mapping[str, Any], classes: Classes) -> str:
    pictures = scores.get("n_pictures")
    parts = [] if pictures is None else [f"{count(pictures)} picture{'' if pictures == 1 else 's'}"]
    parts.append(f"{classes.num_classes} classes")
    if scores.get("baseline"):
        parts.append(f"compared with {dig(scores, 'baseline', 'title') or 'a baseline'}")
    return " · ".join([*parts, "scores in percent"])


def _crop_groups(pictures: Pictures, baseline: str) -> list[dict[str, Any]]:
    groups = []
    for kind, (word, about) in _CROP_WORDS.items():
        if crops := pictures.crops(kind):
            note = _crop_note(crops, pictures.alike(kind))
            groups.append({"kind": word, "about": about.format(baseline), "note": note, "crops": crops})
    return groups


def _crop_note(crops: Sequence[Crop], limit: int) -> str:
    side = " or ".join(str(value) for value in sorted({crop.window.side for crop in crops})[:3])
    return f"{side} px wide, enlarged; at most {PER_PICTURE} from one picture and {limit} of one kind of mistake."


def _regions(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, (heading, axis, unit) in _REGIONS.items():
        part = dig(scores, "regions", name)
        if not part or not part.get("bins"):
            continue
        bins = part["bins"]
        labels = _labels(name, bins)
        pair = (
            charts.Series("share of pixels", part["pixels"], "soft", "soft"),
            charts.Series("share of errors", part["error_share"], "bad"),
        )
        right = [1 - rate if known(rate) else None for rate in part["error_rate"]]
        below = [
            charts.Series("right inside the part", right, "bar"),
            charts.Series("mIoU inside it", part["miou"], "soft"),
        ]
        tables = {
            ("Recall", "recall"): sections.bins_table(part, "recall_per_class", unit),
            ("IoU", "iou_inside"): sections.bins_table(part, "iou_per_class", unit),
            ("Pieces found", "found"): sections.component_table(part) if name == "component_size" else None,
        }
        found.append(
            {
                "heading": heading,
                "define": name,
                "words": region_words(name, part),
                "chart": charts.bins_chart(f"chart-{name}", f"Errors: {heading}", labels, axis, pair, below),
                "tables": [(*title, table) for title, table in tables.items() if table],
            }
        )
    return found


def _labels(name: str, bins: Sequence[str]) -> Sequence[str]:
    """Of areas the upper ends alone, which fit below the bars and say it all, as the ranges are neighbours."""
    if name != "component_size":
        return bins
    return [label if label.startswith(">") else f"≤{upper_end(label)}" for label in bins]


def _changes(scores: Mapping[str, Any], classes: Classes) -> dict[str, Any] | None:
    """Fixed and broken pixels; None without a baseline."""
    changed = dig(scores, "baseline", "changed")
    if not changed:
        return None
    drawn = []
    for name, (heading, axis, _) in _REGIONS.items():
        part = dig(changed, "per_region", name)
        if part:
            chart = charts.changes_chart(
                f"changes-{name}",
                f"Changes: {heading}",
                _labels(name, part["bins"]),
                axis,
                part["fixed"],
                part["broken"],
            )
            drawn.append({"heading": heading, "define": name, "chart": chart})
    totals = {key: count(changed.get(key)) for key in ("fixed", "broken", "still_wrong")}
    return {"totals": totals, "table": compare.changed_table(scores, classes), "charts": drawn}


def _calibration(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    part = scores.get("calibration")
    if not part:
        return None
    words = f"{percent(part.get('mean_confidence'))} % confident on average, {percent(part.get('accuracy'))} % right."
    near = part.get("per_distance") or {}
    chart = None
    if near.get("bins"):
        pair = (
            charts.Series("confidence", near["confidence"], "soft", "soft"),
            charts.Series("accuracy", near["accuracy"], "bar"),
        )
        below = [charts.Series("calibration error (ECE)", near["ece"], "bad")]
        axis = _REGIONS["distance"][1]
        chart = charts.bins_chart(
            "chart-ece", "Calibration by distance to the boundary", near["bins"], axis, pair, below
        )
    return {
        "words": words,
        "ece": percent(part.get("ece")) if known(part.get("ece")) else None,
        "reliability": charts.reliability_chart("chart-reliability", "Reliability diagram", part.get("bins") or []),
        "near": chart,
        "table": sections.calibration_table(scores),
    }


class _Glossary:
    """Remembers which definitions the page has asked for, so that it explains these and no others."""

    def __init__(self) -> None:
        self.asked: dict[str, Definition] = {}

    def __call__(self, key: str | None) -> Definition | None:
        """The definition; None for None or a key that has none."""
        if key not in DEFINITIONS:
            return None
        return self.asked.setdefault(key, DEFINITIONS[key])

    def used(self) -> dict[str, Definition]:
        """Asked for so far, in the order of `DEFINITIONS`."""
        return {key: text for key, text in DEFINITIONS.items() if key in self.asked}


def _template(glossary: _Glossary):
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("segfocus.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["share"] = whole_percent
    environment.filters["svg"] = Markup  # charts are built by an XML library, which has escaped their texts
    environment.globals["define"] = glossary
    environment.globals["glossary"] = glossary.used
    return environment.get_template("template.html")
