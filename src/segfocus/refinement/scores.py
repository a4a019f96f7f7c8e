"""The scores of one row of the leaderboard: counted picture by picture, kept in files, compared with the base's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.files import write_atomically, write_json
from segfocus.metrics.changes import KINDS, changes
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import VOID
from segfocus.metrics.suite import Suite

DISTANCES = (1, 3, 5, 15)
"""px of the Boundary IoU"""


class RowScores:
    """Scores of one row, and how its pixels changed against the base.

    `pictures` holds, by name, the labelled pixels of each of `segfocus.metrics.changes.KINDS`.
    """

    def __init__(self, classes: Classes) -> None:
        groups = ["overlap", "calibration", "intervals", *(["binary"] if classes.num_classes == 2 else [])]
        self.classes = classes
        self.suite = Suite(classes, groups, DISTANCES, probabilities=True)
        self.pictures: dict[str, list[int]] = {}

    def add(
        self,
        name: str,
        target: UInt8[np.ndarray, "height width"],
        labels: UInt8[np.ndarray, "rows columns"],
        probabilities: Float32[np.ndarray, "classes rows columns"],
        base: UInt8[np.ndarray, "rows columns"],
    ) -> None:
        """Count one picture: its truth, the row's prediction, and the base's labels.

        Raises:
            SegfocusError: sizes that differ, values that are no classes or no probabilities; nothing is counted then.
        """
        comparison = Comparison(
            target, labels, self.classes.num_classes, probabilities=probabilities, baseline=base, name=name
        )
        kinds = changes(comparison)
        found = np.bincount(kinds[kinds != VOID], minlength=len(KINDS))
        self.suite.add(comparison)
        self.pictures[name] = found.tolist()

    @property
    def changed(self) -> dict[str, int]:
        """Labelled pixels of each of `KINDS` in all pictures."""
        total = np.sum([[0] * len(KINDS), *self.pictures.values()], axis=0)
        return dict(zip(KINDS, total.tolist(), strict=True))

    def described(self, base: RowScores) -> dict[str, Any]:
        """The row's numbers as strict JSON values: fractions in [0, 1], None where there is nothing to score.

        Keys: `score` and `difference` (to the base), each {"value", "interval"}: the foreground's IoU, pixels of all
        pictures pooled, of three or more classes the mIoU; `boundary_iou` and `boundary_difference` {px: ...} of the
        same; `mae`, `ece`, `brier`, `nll`; `harm_rate`: pixels right in the base and wrong now / right in the base;
        `fixed_rate`: wrong in the base and right now / wrong in the base; `fixed`, `broken`: those pixels; `scores`:
        `Suite.summary`.
        """
        scores, difference = self.suite.summary(), self.suite.difference(base.suite)
        intervals = scores["intervals"]
        changed = self.changed
        right = changed["right"] + changed["broken"]
        wrong = changed["fixed"] + changed["still_wrong"]
        foreground = self.classes.names[1] if self.classes.num_classes == 2 else None
        if foreground is None:
            value, interval, gain = scores["miou"], intervals["miou"], difference["miou"]
            boundary, boundary_gain = scores["boundary_iou"], difference["boundary_iou"]
        else:
            value, interval = scores["per_class"][foreground], intervals["per_class"][foreground]
            gain = difference["per_class"][foreground]
            boundary, boundary_gain = (
                {distance: values[foreground] for distance, values in part["boundary_iou_per_class"].items()}
                for part in (scores, difference)
            )
        return {
            "score": {"value": value, "interval": interval},
            "difference": gain,
            "boundary_iou": boundary,
            "boundary_difference": boundary_gain,
            "mae": scores.get("binary", {}).get("mae"),
            **{name: scores["calibration"][name] for name in ("ece", "brier", "nll")},
            "harm_rate": changed["broken"] / right if right else None,
            "fixed_rate": changed["fixed"] / wrong if wrong else None,
            "fixed": changed["fixed"],
            "broken": changed["broken"],
            "scores": scores,
        }

    def save(self, file: Path, about: Mapping[str, Any]) -> None:
        """Write the counts as FILE.npz, then `about` and the pictures as FILE.json, whose presence says: finished."""
        with write_atomically(file.with_suffix(".npz")) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **self.suite.counts)  # pyright: ignore[reportArgumentType]
        write_json(file.with_suffix(".json"), {**about, "pictures": self.pictures})

    @classmethod
    def load(cls, file: Path, classes: Classes) -> tuple[RowScores, dict[str, Any]] | None:
        """What `save` wrote, and its `about`; None where the row is not finished.

        Raises:
            SegfocusError: damaged files, or counts of other classes.
        """
        if not file.with_suffix(".json").is_file():
            return None
        row = cls(classes)
        try:
            about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            row.pictures = about.pop("pictures")
            with np.load(file.with_suffix(".npz")) as stored:
                for name, counts in row.suite.counts.items():
                    counts[...] = stored[name]
        except (OSError, ValueError, KeyError) as error:
            raise SegfocusError(
                f"{file.with_suffix('.npz')}: expected the counts of a finished row, got: "
                f"{' '.join(str(error).split())}; remove {file.with_suffix('.json').name} to make it again"
            ) from error
        return row, about
