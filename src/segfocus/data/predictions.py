"""Predictions of any model, from files: labels or probabilities in, train ids (and probabilities) out.

What a file is taken for (`kind="auto"`), by its type and never by its values:

    floats, or three axes                                              probabilities
    an npz array called probabilities, or labels                       what it is called
    16 bits, one value a pixel, two classes                            probability of the foreground
    any other integers, one value a pixel; palette and colour pictures labels

Probabilities are [classes, height, width]; [height, width, classes] where only the last axis has as many entries as
there are classes.  Of two classes a single value a pixel is the probability of the second, the foreground.  8-bit
values stand for value / 255, 16-bit values for value / 65535, floats for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from segfocus.data.arrays import Stored, read_array
from segfocus.data.classes import IGNORE, Classes
from segfocus.data.pictures import MAX_PIXELS
from segfocus.data.probabilities import as_fractions, check_sums, most_probable
from segfocus.errors import SegfocusError, nearest

IDS = ("train", "raw")
"""what the values of labels and the order of channels mean: train ids, or the raw values of the classes file"""
KINDS = ("auto", "labels", "probabilities")
RESIZES = ("nearest", "bilinear")
"""ways to bring a prediction to the label's size; bilinear is for probabilities alone"""

_INTERPOLATION = {"nearest": cv2.INTER_NEAREST_EXACT, "bilinear": cv2.INTER_LINEAR}


@dataclass(frozen=True)
class Predicted:
    """One picture's prediction in train ids."""

    labels: UInt8[np.ndarray, "height width"]
    """the most probable class where there are probabilities (the first of several; of two classes the foreground
    where its probability is above 0.5); 255 where the file says none"""
    probabilities: Float32[np.ndarray, "classes height width"] | None
    """in [0, 1]; None where the file holds labels.  As stored: a sum over classes is 1 up to the file's rounding"""
    described: str
    """what the file was taken for, in words"""


class PredictionReader:
    """Reads prediction files of one model."""

    def __init__(
        self,
        classes: Classes,
        *,
        ids: str = "train",
        kind: str = "auto",
        resize: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """
        Args:
            classes: names and raw values.
            ids: of `IDS`.  raw: label values and channel numbers are the masks' own values.  Channels of one class are
                summed, ignored ones are left out and the others scaled to a sum of 1.
            kind: of `KINDS`: labels or probabilities where the rules at the top of this file take a file for the
                other.
            resize: of `RESIZES`: bring predictions of another size to the label's; None refuses them.
            max_pixels: larger pictures are refused.

        Raises:
            SegfocusError: another value, or raw channels of classes whose raw values are colours.
        """
        for name, value, valid in (("ids", ids, IDS), ("kind", kind, KINDS), ("resize", resize, (None, *RESIZES))):
            if value not in valid:
                raise SegfocusError(
                    f"predictions: unknown {name} '{value}'; {nearest(str(value), filter(None, valid))}"
                )
        self.classes = classes
        self.ids = ids
        self.kind = kind
        self.resize = resize
        self.max_pixels = max_pixels

    def read(self, path: str | Path, size: tuple[int, int]) -> Predicted:
        """The prediction in a file, for a label of `size` (height, width).

        Label values that are no train ids are kept (`segfocus.metrics` refuses them where the truth is labelled),
        unless they do not fit into 8 bits.

        Raises:
            SegfocusError: unreadable, another size, NaN, values outside [0, 1], sums far from 1, channels that are not
                those of the classes, raw values that are no class; names the file.
        """
        path = Path(path)
        colors = self.ids == "raw" and self.classes.reads_colors
        stored = read_array(path, colors=colors, stack=self.kind == "probabilities", max_pixels=self.max_pixels)
        stored = _without_single_axis(stored, size)
        if self._kind_of(stored, path) == "labels":
            labels = self._to_size(self._labels(stored, path)[None], size, path)[0]
            return Predicted(labels, None, f"labels ({_stored_as(stored)}, {self.ids} ids)")
        probabilities = self._to_size(self._probabilities(stored, size, path), size, path)
        described = f"probabilities ({_stored_as(stored)}, {self.ids} ids)"
        return Predicted(most_probable(probabilities), probabilities, described)

    def _kind_of(self, stored: Stored, path: Path) -> str:
        if self.kind != "auto":
            return self.kind
        if stored.called in ("labels", "probabilities"):
            return stored.called
        values = stored.values
        if values.dtype.kind == "f" or stored.axes not in ("HW", "colors"):
            return "probabilities"
        if values.dtype == np.uint16 and self.classes.num_classes == 2:
            if values.max() == 1:
                raise SegfocusError(
                    f"{path}: expected a 16-bit probability of the foreground, got only 0 and 1, which may be labels; "
                    "try --prediction-kind labels (or probabilities)"
                )
            return "probabilities"
        return "labels"

    def _labels(self, stored: Stored, path: Path) -> UInt8[np.ndarray, "height width"]:
        values = stored.values
        if stored.axes not in ("HW", "colors") or (stored.axes == "colors" and self.ids == "train"):
            advice = (
                "--prediction-ids raw for colours" if stored.axes == "colors" else "--prediction-kind probabilities"
            )
            raise SegfocusError(
                f"{path}: expected labels, one value a pixel, got an array {list(values.shape)}; try {advice}"
            )
        if values.dtype == np.bool_:
            values = values.view(np.uint8)
        elif values.dtype.kind == "f":
            values = _whole(values, path)
        if self.ids == "raw":
            return self.classes.encode(values, str(path))
        if values.dtype != np.uint8 and (values.min() < 0 or values.max() > IGNORE):
            raise SegfocusError(
                f"{path}: expected train ids below {self.classes.num_classes} or 255, got values from {values.min()} "
                f"to {values.max()}; try --prediction-ids raw, or 255 where there is no prediction"
            )
        return values.astype(np.uint8)

    def _probabilities(
        self, stored: Stored, size: tuple[int, int], path: Path
    ) -> Float32[np.ndarray, "classes height width"]:
        """Of each class, checked, at the size of the file."""
        if stored.axes == "colors":
            raise SegfocusError(f"{path}: expected probabilities, one value a pixel and class, got a colour picture")
        values = as_fractions(self._channels_first(stored, size, path), path)
        if len(values) == 1:
            return np.concatenate([1 - values, values])
        check_sums(values, stored.values.dtype, path)
        return values if self.ids == "train" else self._merged(values, path)

    def _channels_first(self, stored: Stored, size: tuple[int, int], path: Path) -> np.ndarray:
        """The stored values as [channels, height, width]."""
        values, two = stored.values, self.classes.num_classes == 2
        if stored.axes == "HW":
            if not two:
                raise SegfocusError(
                    f"{path}: expected probabilities of {self._expected()}, got one value a pixel "
                    f"{list(values.shape)}; try --prediction-kind labels"
                )
            return values[None]
        first, last = self._fits(values.shape[0]), self._fits(values.shape[2])
        if stored.axes == "CHW" or stored.axes == "HWC":
            first, last = first and stored.axes == "CHW", last and stored.axes == "HWC"
        if not first and not last:
            raise SegfocusError(
                f"{path}: expected probabilities of {self._expected()} as [channels, height, width], got an array "
                f"{list(values.shape)}; try --prediction-ids {'train' if self.ids == 'raw' else 'raw'}, or the classes "
                "file the model was trained with"
            )
        if last and (not first or (values.shape[:2] == size and values.shape[1:] != size)):
            return np.moveaxis(values, 2, 0)
        return values

    def _fits(self, channels: int) -> bool:
        if self.ids == "train":
            return channels == self.classes.num_classes
        return channels > self._largest_raw

    @property
    def _largest_raw(self) -> int:
        """Channel of the class with the largest raw value."""
        found = [value for raw in self.classes.raw for value in raw if isinstance(value, int)]
        if self.classes.reads_colors or not found:
            raise SegfocusError(
                "predictions: expected integer raw values for channels in raw order, got colours in the classes file; "
                "try --prediction-ids train"
            )
        return max(found)

    def _expected(self) -> str:
        if self.ids == "train":
            return f"{self.classes.num_classes} classes"
        return f"the raw values 0 to {self._largest_raw} or more"

    def _merged(self, values: np.ndarray, path: Path) -> Float32[np.ndarray, "classes height width"]:
        """Channels of raw values -> probabilities of the classes; see `__init__`.  All 0 where only ignored channels
        have any.  Channels that are 0 everywhere, such as those between raw values with gaps, need no class."""
        channels = np.flatnonzero([channel.any() for channel in values])
        train_ids = self.classes.encode(channels[None], f"{path}: channels of probabilities (in raw order)")[0]
        merged = np.zeros((self.classes.num_classes, *values.shape[1:]), np.float32)
        for channel, train_id in zip(channels, train_ids, strict=True):
            if train_id != IGNORE:
                merged[train_id] += values[channel]
        if IGNORE in train_ids:
            total = merged.sum(0)
            np.divide(merged, total, out=merged, where=total > 0)
        return merged

    def _to_size(self, channels: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
        """[channels, height, width] at the label's size."""
        found = channels.shape[1:]
        if found == size:
            return channels
        if self.resize is None or (found == size[::-1] and min(found) > 1):
            turned = found == size[::-1]
            advice = (
                "to turn it: height and width look swapped" if turned else "--resize nearest, or predict at that size"
            )
            raise SegfocusError(
                f"{path}: expected the label's size {size[0]}x{size[1]}, got {found[0]}x{found[1]}; try {advice}"
            )
        if self.resize == "bilinear" and channels.dtype == np.uint8:
            raise SegfocusError(f"{path}: expected probabilities for --resize bilinear, got labels; try nearest")
        resized = np.empty((len(channels), *size), channels.dtype)
        for channel, out in zip(channels, resized, strict=True):
            cv2.resize(channel, size[::-1], dst=out, interpolation=_INTERPOLATION[self.resize])
        return resized


def refuse_foreign(
    labels: UInt8[np.ndarray, "height width"], target: UInt8[np.ndarray, "height width"], classes: Classes, path: Path
) -> None:
    """Refuse predicted values that are no class; where the truth is void (255) any value is accepted.

    Raises:
        SegfocusError: names the file and the values.
    """
    foreign = labels[(labels >= classes.num_classes) & (target != IGNORE)]
    if not foreign.size:
        return
    values = np.unique(foreign)
    shown = ", ".join(map(str, values[:5])) + (" and more" if values.size > 5 else "")
    if values.tolist() == [IGNORE] and classes.num_classes > 2:
        advice = "a class for every pixel: 255 stands for no prediction"
    elif classes.num_classes == 2:
        advice = "--prediction-ids raw, or --prediction-kind probabilities where values are 0 to 255"
    else:
        advice = "--prediction-ids raw where these are the masks' own values"
    raise SegfocusError(
        f"{path}: expected train ids 0 to {classes.num_classes - 1}, got {shown} at {foreign.size} labelled pixels; "
        f"try {advice}"
    )


def _without_single_axis(stored: Stored, size: tuple[int, int]) -> Stored:
    """[1, height, width] and [height, width, 1] as [height, width]."""
    shape = stored.values.shape
    if stored.axes in ("HW", "colors"):
        return stored
    if shape[2] == 1 and (stored.axes == "HWC" or (stored.axes == "unknown" and shape[:2] == size)):
        return Stored(stored.values[:, :, 0], "HW", stored.called)
    if shape[0] == 1 and (stored.axes == "CHW" or (stored.axes == "unknown" and shape[:2] != size)):
        return Stored(stored.values[0], "HW", stored.called)
    return stored


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    """Floats that hold labels, as integers."""
    if not (np.isfinite(values).all() and (values == np.rint(values)).all() and abs(values).max() < 2**53):
        raise SegfocusError(f"{path}: expected labels, got fractions or NaN; try --prediction-kind probabilities")
    return values.astype(np.int64)


def _stored_as(stored: Stored) -> str:
    return "colours" if stored.axes == "colors" else str(stored.values.dtype)
