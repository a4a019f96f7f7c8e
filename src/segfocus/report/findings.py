"""The report in a few sentences: where the prediction is wrong, what changed, and what would help most.

Every sentence is made from the numbers by the rules below, and none is made where the numbers do not carry it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segfocus.data.classes import Classes
from segfocus.report.before import before
from segfocus.report.borrowing import borrowing_words
from segfocus.report.compare import typical_headroom
from segfocus.report.importance import importance_words
from segfocus.report.pictures import confusions_of
from segfocus.report.tables import count, dig, known, percent, points, points_span, two, unbroken
from segfocus.report.thresholds import threshold_words

Scores = Mapping[str, Any]
_CONCENTRATED = 1.5
"""errors are called concentrated in a part when it holds so many times its share of the pixels"""
_FEW_PIXELS = 1e-5
"""parts with a smaller share of the pixels than this say nothing"""
_NEARLY_ALL = 0.95
"""of the small pieces found: then they are no place where it is wrong"""
_CEILINGS = {
    "fornet": ("Refining hard regions", "if the {} of 16 px regions with the most errors became right"),
    "ovenet": ("Borrowing from near by", "if each pixel took the best prediction within {}"),
    "ranet": ("Agreeing within regions", "if each true region voted once"),
    "threshnet": ("Better thresholds", "with the best one in each patch ({})"),
}


@dataclass(frozen=True)
class Finding:
    """One sentence: `lead` stands out, `text` says how it is known, `target` is the section with the numbers."""

    lead: str
    text: str
    target: str


def findings(scores: Scores, matrix: np.ndarray, classes: Classes) -> dict[str, list[Finding]]:
    """Sentences under the headings of the page's summary; headings without one are left out."""
    groups = {
        before(scores).heading: [_change(scores), *_class_changes(scores), _borrowing(scores), _thresholds(scores)],
        "Where it is wrong": _errors(scores, matrix, classes),
        "What would help most": [*_ceilings(scores), _measured(scores), _regions_ceiling(scores)],
    }
    found = {heading: [item for item in items if item is not None] for heading, items in groups.items()}
    return {heading: items for heading, items in found.items() if items}


def _errors(scores: Scores, matrix: np.ndarray, classes: Classes) -> list[Finding | None]:
    if matrix.any() and matrix.sum() == matrix.trace():
        text = "every labelled pixel is right. Make sure that the predictions are no copies of the labels."
        return [Finding("Nothing is wrong:", text, "classes"), _calibration(scores)]
    return [
        _boundaries(scores),
        _weak_classes(scores, matrix, classes),
        _thin(scores, classes),
        _small(scores),
        _confusion(matrix, classes),
        _calibration(scores),
        _importance(scores),
    ]


def hard_part(part: Mapping[str, Any] | None) -> tuple[int, float, float] | None:
    """The first bins of a partition that hold the most errors beyond their share of the pixels.

    Returns:
        (how many bins, their share of the pixels, their share of the errors), or None where the bins do not hold
        clearly more errors than pixels, or there are none.
    """
    pixels, errors = ([float(value or 0) for value in (part or {}).get(key) or []] for key in ("pixels", "error_share"))
    if len(pixels) < 2 or len(pixels) != len(errors):
        return None
    below, wrong = np.cumsum(pixels)[:-1], np.cumsum(errors)[:-1]
    best = int(np.argmax(wrong - below))
    if below[best] < _FEW_PIXELS or wrong[best] < _CONCENTRATED * below[best]:
        return None
    return best + 1, float(below[best]), float(wrong[best])


def upper_end(label: str) -> str:
    """'5-8' -> '8'."""
    return label.rpartition("-")[2]


def region_words(name: str, part: Mapping[str, Any]) -> str:
    """One sentence under the chart of a partition."""
    found = hard_part(part)
    where = {
        "distance": "within {} px of a boundary",
        "thickness": "in parts up to {} px wide",
        "component_size": "in pieces of up to {} px",
    }[name]
    if not any(part.get("error_share") or []):
        return "No pixel is wrong."
    if found is None:
        return "No end of this scale holds clearly more errors than its share of the pixels."
    bins, pixels, errors = found
    place = where.format(count(int(upper_end(part["bins"][bins - 1]))))
    return f"{most_of(errors)} % of the errors lie {place}, on {percent(pixels, _digits(pixels))} % of the pixels."


def most_of(share: float) -> str:
    """A share in whole percent; what is not all is not called 100."""
    return "Over 99" if 0.995 <= share < 1 else percent(share, 0)


def _change(scores: Scores) -> Finding | None:
    baseline = scores.get("baseline") or {}
    difference = dig(baseline, "difference", "miou") or {}
    value, interval = difference.get("value"), two(difference.get("interval"))
    if not known(value):
        return None
    title = str(baseline.get("title") or "the baseline")
    if interval is None:
        lead, note = f"mIoU {points(value)} points against {title}.", ""
    elif interval[0] > 0 or interval[1] < 0:
        lead = f"{'Better' if value > 0 else 'Worse'} than {title}: mIoU {points(value)} points."
        note = f"95 % interval {points_span(interval)}. "
    else:
        lead = f"No clear difference to {title}: mIoU {points(value)} points."
        note = f"The 95 % interval, {points_span(interval)}, holds zero. "
    changed = baseline.get("changed") or {}
    fixed, broken = changed.get("fixed"), changed.get("broken")
    if known(fixed) and known(broken) and fixed + broken:
        note += f"{count(fixed)} px fixed, {count(broken)} px broken"
        note += f": {fixed / broken:.1f} fixed for each broken." if broken else "."
    return Finding(lead, note, "changes")


def _class_changes(scores: Scores) -> list[Finding | None]:
    """Classes whose change is clear, those with the largest first."""
    clear: dict[str, float] = {}
    for name, item in (dig(scores, "baseline", "difference", "per_class") or {}).items():
        interval = two(item.get("interval"))
        if known(item.get("value")) and interval and (interval[0] > 0 or interval[1] < 0):
            clear[name] = item["value"]
    found: list[Finding | None] = []
    for lead, sign in (("Gained", 1), ("Lost", -1)):
        names = sorted((name for name in clear if sign * clear[name] > 0), key=lambda name: -sign * clear[name])
        listed = ", ".join(f"{name} {points(clear[name])}" for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found.append(Finding(f"{lead} clearly:", f"{listed}{more} (IoU, points).", "changes") if names else None)
    return found


def _borrowing(scores: Scores) -> Finding | None:
    words = borrowing_words(scores)
    return None if words is None else Finding(*words, "changes")


def _thresholds(scores: Scores) -> Finding | None:
    words = threshold_words(scores)
    return None if words is None else Finding(*words, "thresholds")


def _importance(scores: Scores) -> Finding | None:
    words = importance_words(scores)
    return None if words is None else Finding(*words, "importance")


def _boundaries(scores: Scores) -> Finding | None:
    part = dig(scores, "regions", "distance")
    found = hard_part(part)
    if part is None:
        return None
    if found is None:
        inside = (part.get("error_share") or [None])[-1]
        if not known(inside) or inside < 0.4:
            return None
        return Finding(
            f"Mostly inside, not at edges: {percent(inside, 0)} % of the errors lie far from any boundary.",
            "Whole areas get the wrong class; sharper edges would not help much.",
            "where",
        )
    bins, pixels, errors = found
    lead = f"{most_of(errors)} % of the errors lie within {upper_end(part['bins'][bins - 1])} px of a boundary,"
    text = f"on {percent(pixels, _digits(pixels))} % of the pixels"
    first = (part.get("error_rate") or [None])[0]
    text += f"; on the boundary itself {percent(first, 0)} % of the pixels are wrong." if known(first) else "."
    return Finding(lead, text, "where")


def _weak_classes(scores: Scores, matrix: np.ndarray, classes: Classes) -> Finding | None:
    ious = {name: value for name, value in (scores.get("per_class") or {}).items() if known(value)}
    in_truth = {name: matrix[index].any() or not matrix.any() for index, name in enumerate(classes.names)}
    never_true = [name for name in ious if not in_truth.get(name)]
    ious = {name: value for name, value in ious.items() if in_truth.get(name)}
    mean = scores.get("miou")
    if len(ious) < 3 or not known(mean):
        return None
    # at most a third of the classes, and only those clearly below the mean: 'the weakest' of equals says nothing
    weakest = sorted(ious, key=lambda name: ious[name])[: max(1, min(3, len(ious) // 3))]
    weakest = [name for name in weakest if ious[name] < 0.85 * mean]
    if not weakest:
        return None
    rest = [value for name, value in ious.items() if name not in weakest]
    listed = ", ".join(f"{name} {percent(ious[name])}" for name in weakest)
    text = f"The other {len(rest)} classes have a mean of {percent(float(np.mean(rest)))} %."
    name = weakest[0]
    truth = classes.names.index(name)
    row = matrix[truth] / max(1, matrix[truth].sum())
    if (guess := int(row.argmax())) != truth and row[guess] > 0:
        text += f" More of {name} is taken for {classes.names[guess]} ({percent(row[guess], 0)} %) "
        text += f"than found ({percent(row[truth], 0)} %)."
    if never_true:
        text += f" Predicted but never true, which counts as 0: {', '.join(never_true)}."
    return Finding(f"Weakest classes (IoU): {listed} %.", text, "classes")


def _thin(scores: Scores, classes: Classes) -> Finding | None:
    """Recall of the thin class that is found least, in its narrowest bins; else the error rate of narrow parts."""
    part = dig(scores, "regions", "thickness")
    if not part:
        return None
    marked = [name for name, thin in zip(classes.names, classes.thin, strict=True) if thin]
    recall = {name: values for name in marked if any(map(known, values := dig(part, "recall_per_class", name) or []))}
    if recall:
        narrow = {name: _first_known(values) for name, values in recall.items()}
        name = min(narrow, key=lambda item: narrow[item][1])
        place, value = narrow[name]
        skeleton = dig(scores, "thin", name, "topology_sensitivity")
        text = f"where it is {unbroken(part['bins'][place])} px wide"
        text += f"; {percent(skeleton, 0)} % of its skeleton is covered." if known(skeleton) else "."
        # the skeleton tells whether the class is missed; the narrowest parts alone may be a few pixels
        failed = (skeleton if known(skeleton) else value) < 0.5
        lead = "Thin structures fail: only" if failed else "Thin structures:"
        return Finding(f"{lead} {percent(value, 0)} % of {name} is found", text, "thin")
    found, rates = hard_part(part), part.get("error_rate") or []
    if found is None or not rates or not known(rates[0]):
        return None
    bins, pixels, errors = found
    width = upper_end(part["bins"][bins - 1])
    return Finding(
        f"Narrow parts: {most_of(errors)} % of the errors lie in parts up to {width} px wide,",
        f"on {percent(pixels, _digits(pixels))} % of the pixels.",
        "where",
    )


def _small(scores: Scores) -> Finding | None:
    part = dig(scores, "regions", "component_size") or {}
    bins, counts, found = part.get("bins") or [], part.get("count_per_class") or {}, part.get("found_per_class") or {}
    totals, hits = np.zeros(len(bins)), np.zeros(len(bins))
    for name, numbers in counts.items():
        for place, (number, share) in enumerate(zip(numbers, found.get(name) or [], strict=False)):
            if known(number) and known(share):
                totals[place] += number
                hits[place] += number * share
    small = [place for place, label in enumerate(bins) if not label.startswith(">") and int(upper_end(label)) <= 256]
    if not small or totals[small].sum() < 10:
        return None
    share, large = hits[small].sum() / totals[small].sum(), slice(small[-1] + 1, None)
    if share > _NEARLY_ALL:
        return None
    text = f"({count(totals[small].sum())} in the truth)"
    if totals[large].sum():
        text += f", against {percent(hits[large].sum() / totals[large].sum(), 0)} % of the larger ones."
    return Finding(
        f"{percent(share, 0)} % of the pieces of up to {upper_end(bins[small[-1]])} px are found", text, "where"
    )


def _confusion(matrix: np.ndarray, classes: Classes) -> Finding | None:
    wrong = int(matrix.sum() - matrix.trace())
    top = confusions_of(matrix, classes, 1)
    if not top or classes.num_classes < 3 or top[0]["pixels"] < 0.1 * wrong:
        return None
    item = top[0]
    return Finding(
        f"Largest confusion: {item['truth']} taken for {item['guess']},",
        f"{percent(item['pixels'] / wrong, 0)} % of all errors.",
        "classes",
    )


def _calibration(scores: Scores) -> Finding | None:
    part = scores.get("calibration") or {}
    sure, right = part.get("mean_confidence"), part.get("accuracy")
    if not known(sure) or not known(right) or abs(sure - right) < 0.01:
        return None
    lead = f"{'Overconfident' if sure > right else 'Underconfident'}: "
    lead += f"{percent(sure)} % sure, {percent(right)} % right."
    edge = part.get("per_distance") or {}
    first = [(edge.get(key) or [None])[0] for key in ("confidence", "accuracy")]
    text = (
        f"On boundaries {percent(first[0], 0)} % sure, {percent(first[1], 0)} % right."
        if all(map(known, first))
        else ""
    )
    return Finding(lead, text, "calibration")


def _ceilings(scores: Scores) -> list[Finding | None]:
    """One sentence an idea, the largest ceiling first."""
    found: list[Finding | None] = []
    for row in typical_headroom(scores):
        if row["gain"] <= 0:
            continue
        lead, how = _CEILINGS[row["idea"]]
        budget = str(row.get("budget") or "")
        text = how.format(budget)
        if known(row.get("own_gain")):
            text += f" (those chosen by {row['own_variant']}: {points(row['own_gain'])})"
        found.append(Finding(f"{lead}: at most {points(row['gain'])} mIoU", f"{text}.", "headroom"))
    return found


def _measured(scores: Scores) -> Finding | None:
    found = [(dig(item, "gain", "miou", "value"), str(item.get("name", ""))) for item in scores.get("measured") or []]
    gains = [(gain, name) for gain, name in found if known(gain)]
    if not gains:
        return None
    gain, name = max(gains)
    return Finding(f"Really gained: {points(gain)} mIoU", f"by {name}.", "headroom")


def _regions_ceiling(scores: Scores) -> Finding | None:
    """What perfect boundaries would be worth."""
    part = dig(scores, "regions", "distance")
    found, accuracy = hard_part(part), scores.get("pixel_accuracy")
    if part is None or found is None or not known(accuracy):
        return None
    bins, _, errors = found
    return Finding(
        f"Perfect boundaries: pixel accuracy {percent(accuracy)} → {percent(accuracy + errors * (1 - accuracy))} %",
        f"if every pixel within {upper_end(part['bins'][bins - 1])} px of one became right.",
        "where",
    )


def _first_known(values: Sequence[Any]) -> tuple[int, float]:
    return next((place, float(value)) for place, value in enumerate(values) if known(value))


def _digits(share: float) -> int:
    """Figures behind the point of a share in percent: small shares need one."""
    return 0 if share >= 0.1 else 1
