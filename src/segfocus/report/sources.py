"""The files of each picture of a report, found, matched and read: in threads, a few pictures ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from segfocus.data.arrays import ARRAY_EXTENSIONS, read_array
from segfocus.data.classes import Classes
from segfocus.data.matching import Row, Source, match_files
from segfocus.data.pictures import read_mask, read_picture
from segfocus.data.predictions import Predicted, PredictionReader, refuse_foreign
from segfocus.errors import SegfocusError
from segfocus.metrics.instance import instance_kind, read_instances

LABELS, PREDICTIONS, BASELINE = "--labels", "--predictions", "--baseline"
INSTANCES, IMAGES, MEASURED = "--instances", "--images", "--measured"
"""options of the command line, which name the files of a picture here and in messages"""

_AHEAD = 2
"""pictures read before they are needed; of 19 classes at 1024x2048 each holds 160 MB of probabilities"""
_TELLING = 20
"""instance maps looked at to find how they are encoded"""
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Folders:
    """Where the files of the pictures are; they match by relative path without extension and suffix."""

    predictions: Path
    labels: Path
    baseline: Path | None = None
    """predictions of another model, named and stored like these"""
    images: Path | None = None
    """shown on the page; pictures without one are drawn on grey"""
    instances: Path | None = None
    """maps of single objects, for iIoU"""
    measured: Mapping[str, Path] = field(default_factory=dict)
    """name of a refiner -> what it made of the predictions"""
    prediction_suffix: str = ""
    """ending of names, left out for the match; also of the baseline's and the refiners' files"""
    label_suffix: str = ""
    image_suffix: str = ""
    instance_suffix: str = ""

    def rows(self, allow_missing: bool) -> tuple[list[Row], list[str]]:
        """`match_files` of all folders.

        Raises:
            SegfocusError: also where predictions and labels are the same files.
        """
        if (self.predictions.resolve(), self.prediction_suffix) == (self.labels.resolve(), self.label_suffix):
            raise SegfocusError(f"expected predictions to compare with the labels, got {self.labels} for both")
        predicted = {PREDICTIONS: self.predictions, BASELINE: self.baseline}
        predicted |= {f"{MEASURED} {name}": folder for name, folder in self.measured.items()}
        sources = [
            Source(option, folder, "--prediction-suffix", self.prediction_suffix, ARRAY_EXTENSIONS)
            for option, folder in predicted.items()
            if folder is not None
        ]
        if self.instances is not None:
            instances = Source(INSTANCES, self.instances, "--instance-suffix", self.instance_suffix, ARRAY_EXTENSIONS)
            sources.append(instances)
        if self.images is not None:
            sources.append(Source(IMAGES, self.images, "--image-suffix", self.image_suffix, optional=True))
        return match_files(Source(LABELS, self.labels, "--label-suffix", self.label_suffix), sources, allow_missing)


@dataclass(frozen=True)
class LoadedPicture:
    """What the files of one picture hold."""

    name: str
    target: np.ndarray
    predicted: dict[str, Predicted]
    """option -> labels and perhaps probabilities; the refiners' without"""
    instances: np.ndarray | None
    image: np.ndarray | None = None
    complaint: str = ""
    """why the image cannot be shown"""


def read_ahead(function: Callable[[_T], _R], items: Iterable[_T], ahead: int = _AHEAD) -> Iterator[_R]:
    """`function` of each item, in order, computed in two threads up to `ahead` items early."""
    waiting: deque[Future[_R]] = deque()
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Loader:
    """Reads the files of one picture; a problem is returned, so that the others go on."""

    def __init__(self, classes: Classes, reader: PredictionReader, instance_kind: str) -> None:
        self.classes = classes
        self.reader = reader
        self.instance_kind = instance_kind

    def __call__(self, row: Row) -> LoadedPicture | SegfocusError:
        try:
            return self._read(row)
        except SegfocusError as error:
            return error

    def _read(self, row: Row) -> LoadedPicture:
        target = _read_labels(row.files[LABELS], self.classes, self.reader.max_pixels)
        predicted = {}
        for option, path in row.files.items():
            if option.startswith((PREDICTIONS, BASELINE, MEASURED)):
                found = self.reader.read(path, target.shape)
                refuse_foreign(found.labels, target, self.classes, path)
                predicted[option] = replace(found, probabilities=None) if option.startswith(MEASURED) else found
        instances = None
        if (path := row.files.get(INSTANCES)) is not None:
            instances = _read_instances(path, target, self.classes, self.instance_kind, self.reader.max_pixels)
        picture = LoadedPicture(row.name, target, predicted, instances)
        return self._with_image(picture, row.files.get(IMAGES))

    def _with_image(self, picture: LoadedPicture, path: Path | None) -> LoadedPicture:
        """The picture with what is only shown: at the labels' size, and never a reason not to measure."""
        if path is None:
            return picture
        try:
            image = read_picture(path, self.reader.max_pixels)
        except SegfocusError as error:
            return replace(picture, complaint=f"{error} (measured all the same)")
        height, width = picture.target.shape
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return replace(picture, image=image)


def _read_labels(path: Path, classes: Classes, max_pixels: int) -> np.ndarray:
    return classes.encode(read_mask(path, max_pixels, classes.reads_colors), str(path))


def _read_instances(path: Path, target: np.ndarray, classes: Classes, kind: str, max_pixels: int) -> np.ndarray:
    try:
        return read_instances(read_array(path, max_pixels=max_pixels).values, target, classes, kind)
    except SegfocusError as error:
        raise error if str(path) in str(error) else SegfocusError(f"{path}: {error}") from error


def common_instance_kind(rows: Sequence[Row], classes: Classes, max_pixels: int) -> str:
    """How the data set's instance maps are encoded, from the first that tells."""
    for row in rows[:_TELLING]:
        if (path := row.files.get(INSTANCES)) is None:
            break
        try:
            target = _read_labels(row.files[LABELS], classes, max_pixels)
            kind = instance_kind(read_array(path, max_pixels=max_pixels).values, target, classes)
        except SegfocusError:  # told when the picture's turn comes
            continue
        if kind is not None:
            return kind
    return "cityscapes"
