"""Measures predictions of any model from files on disk: pictures stream through, each file is read once.

Nothing is written here, so that stopping at any time leaves nothing behind.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segfocus.data.classes import Classes
from segfocus.data.predictions import PredictionReader
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.instance import known_sizes
from segfocus.metrics.suite import DISTANCES, GROUPS, Suite
from segfocus.report.images import Entry
from segfocus.report.pictures import Pictures
from segfocus.report.sources import (
    BASELINE,
    MEASURED,
    PREDICTIONS,
    Folders,
    LoadedPicture,
    Loader,
    common_instance_kind,
    read_ahead,
)

_log = logging.getLogger("segfocus")
_HOPELESS = 20
"""so many failures at the beginning, and nothing measured, end the work"""


def measure_folders(
    folders: Folders,
    classes: Classes,
    reader: PredictionReader,
    *,
    groups: str | Sequence[str] = "all",
    distances: Sequence[int] = DISTANCES,
    worst: int = 12,
    allow_missing: bool = False,
    progress: bool = True,
) -> tuple[dict[str, Any], Pictures, list[str]]:
    """Scores of predictions on disk.

    Args:
        folders: of predictions, labels and whatever else there is.
        classes: raw values of the labels.
        reader: how prediction files are understood.
        groups: "basic", "all", or names from `segfocus.metrics.suite.GROUPS`.
        distances: px of the Boundary IoU.
        worst: pictures and windows kept for the page.
        allow_missing: leave out labels that lack a prediction, baseline or instances.
        progress: a bar on standard error where that is a terminal.

    Returns:
        scores: `Suite.summary`; with `baseline` {"title", "scores", "difference", "changed"} and `measured` [{"name",
            "miou", "pixel_accuracy", "boundary_iou": {px: ...}, "gain": `Suite.difference`}] where there are such
            folders; with the names `missing` and the `failures`.
        pictures: what the page shows.
        failures: one line for each picture that could not be measured, or (measured) not be shown.

    Raises:
        SegfocusError: what `match_files` refuses, no picture could be measured, or none has a labelled pixel.
    """
    rows, missing = folders.rows(allow_missing)
    load = Loader(classes, reader, common_instance_kind(rows, classes, reader.max_pixels))
    measurement: _Measurement | None = None
    failures: list[str] = []
    with tqdm(total=len(rows), unit="picture", file=sys.stderr, disable=None if progress else True) as bar:
        for picture in read_ahead(load, rows):
            if isinstance(picture, SegfocusError):
                failures.append(str(picture))
            else:
                if measurement is None:
                    suites = _suites(picture, classes, groups, distances, load.instance_kind)
                    measurement = _Measurement(classes, suites, worst)
                failures += measurement.add(picture)
            measured = measurement is not None and measurement.pictures.seen > 0
            if not measured and len(failures) == min(_HOPELESS, len(rows)):
                raise SegfocusError(f"none of the first {len(failures)} pictures can be measured, first: {failures[0]}")
            bar.update()
    assert measurement is not None
    if not measurement.pictures.confusion.any():
        raise SegfocusError(
            f"{folders.labels}: expected labelled pixels, got only void in all {measurement.pictures.seen} pictures; "
            "try other raw values or less to ignore in the classes file"
        )
    scores = {**measurement.scores(), "missing": missing, "failures": failures}
    if folders.baseline is not None:
        title = _unlike(folders.baseline, folders.predictions)
        scores["baseline"] = {"title": title, **scores["baseline"]}
    return scores, measurement.pictures, failures


class _Measurement:
    """The running scores of predictions, baseline and refiners."""

    def __init__(self, classes: Classes, suites: Mapping[str, Suite], worst: int) -> None:
        self.suites = suites
        self.pictures = Pictures(classes, worst)
        self._num_classes = classes.num_classes
        self._refined: dict[str, Suite] = {}
        self._probabilities: dict[str, bool] = {}

    def add(self, picture: LoadedPicture) -> list[str]:
        """Score one picture; returns what was wrong with it."""
        try:
            self._add(picture)
        except SegfocusError as error:
            return [f"{picture.name}: {error}"]
        return [picture.complaint] if picture.complaint else []

    def _add(self, picture: LoadedPicture) -> None:
        self._check_kinds(picture)
        # all are made before any is counted, so that a picture counts in every part or in none
        comparisons = {option: self._comparison(picture, option) for option in self.suites}
        for option, suite in self.suites.items():
            suite.add(comparisons[option])
        for option, predicted in picture.predicted.items():
            if option not in self.suites:
                refined = self._refined.setdefault(option, self._counted_like_the_predictions())
                refined.update(picture.target, predicted.labels, name=picture.name)
        labels = {option: predicted.labels for option, predicted in picture.predicted.items()}
        baseline = labels.get(BASELINE)
        self.pictures.add(Entry(picture.name, picture.image, picture.target, labels[PREDICTIONS], baseline=baseline))

    def _check_kinds(self, picture: LoadedPicture) -> None:
        """Scores of probabilities need them for every picture; says once what the files were taken for."""
        for option, predicted in picture.predicted.items():
            given = predicted.probabilities is not None
            if option not in self._probabilities:
                self._probabilities[option] = given
                _log.info("%s: read as %s", option, predicted.described)
            elif given != self._probabilities[option]:
                expected, got = ("labels", "probabilities") if given else ("probabilities", "labels")
                raise SegfocusError(f"{option}: expected {expected} like the files before, got {got}; try one kind")

    def _comparison(self, picture: LoadedPicture, option: str) -> Comparison:
        predicted, baseline = picture.predicted[option], picture.predicted.get(BASELINE)
        return Comparison(
            picture.target,
            predicted.labels,
            self._num_classes,
            probabilities=predicted.probabilities,
            instances=picture.instances,
            baseline=None if baseline is None or option == BASELINE else baseline.labels,
            name=picture.name,
        )

    def scores(self) -> dict[str, Any]:
        """The scores so far; see `measure_folders`."""
        suite = self.suites[PREDICTIONS]
        scores = suite.summary()
        if (before := self.suites.get(BASELINE)) is not None:
            scores["baseline"] = {
                "scores": before.summary(),
                "difference": suite.difference(before),
                "changed": scores.pop("changed"),
            }
        if self._refined:
            scores["measured"] = [
                _measured(option.removeprefix(f"{MEASURED} "), refined, suite)
                for option, refined in self._refined.items()
            ]
        return scores

    def _counted_like_the_predictions(self) -> Suite:
        """Empty scores of a refiner: IoU and Boundary IoU, and intervals where the predictions have them."""
        suite = self.suites[PREDICTIONS]
        groups = [group for group in ("overlap", "intervals") if group in suite.tallies]
        return Suite(self.pictures.classes, groups, suite.overlap.bands.distances)


def _suites(
    first: LoadedPicture, classes: Classes, groups: str | Sequence[str], distances: Sequence[int], instance_kind: str
) -> dict[str, Suite]:
    """Option -> empty scores of predictions and baseline, for pictures that bring what the first one brings."""
    instances = first.instances is not None
    given: dict[str, Any] = {
        "instances": instances,
        "instance_sizes": known_sizes(classes, instance_kind) if instances else None,
    }
    suites: dict[str, Suite] = {}
    probabilities = {option: predicted.probabilities is not None for option, predicted in first.predicted.items()}
    suites[PREDICTIONS] = Suite(
        classes,
        groups,
        distances,
        probabilities=probabilities[PREDICTIONS],
        baseline=BASELINE in probabilities,
        **given,
    )
    if BASELINE in probabilities:
        # the baseline's own headroom would be shown nowhere, and is half of the work
        skipped = {"headroom"} if probabilities[BASELINE] else {"headroom", "calibration"}
        shared = [group for group in suites[PREDICTIONS].tallies if group in GROUPS and group not in skipped]
        suites[BASELINE] = Suite(classes, shared, distances, probabilities=probabilities[BASELINE], **given)
    return suites


def _unlike(folder: Path, other: Path) -> str:
    """The last two parts of a path, or as many as tell it from another."""
    length = 2
    while folder.parts[-length:] == other.parts[-length:] and length < len(folder.parts):
        length += 1
    return str(Path(*folder.parts[-length:]))


def _measured(name: str, refined: Suite, base: Suite) -> dict[str, Any]:
    """Scores of a refiner's predictions and what they gain over `base`."""
    scores = refined.overlap.summary(refined.classes)
    return {
        "name": name,
        **{key: scores[key] for key in ("miou", "pixel_accuracy", "boundary_iou")},
        "gain": refined.difference(base),
    }
