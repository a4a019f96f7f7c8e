"""metrics.csv: the one log that every run writes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from segfocus.errors import SegfocusError
from segfocus.files import write_atomically


class MetricsFile:
    """A CSV file that is only ever appended to; a row goes to disk at once.  New columns extend the header.

    After a resume from an earlier state the repeated steps appear twice; the later row counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            self.columns = next(csv.reader(text.splitlines()), [])
            if text and not text.endswith("\n"):  # a kill cut the last row off: the next one starts a line
                with path.open("a", encoding="utf-8") as file:
                    file.write("\n")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; None leaves its cell empty."""
        new = [key for key in row if key not in self.columns]
        if new:
            self._extend(new)
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns, restval="").writerow(row)
        except OSError as error:
            raise SegfocusError(f"cannot write {self.path}: {error.strerror or error}; try freeing space") from error

    def _extend(self, new: list[str]) -> None:
        rows: list[dict[str, str]] = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [{key: value for key, value in row.items() if key} for row in csv.DictReader(file)]
        self.columns += new
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        with write_atomically(self.path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def score_columns(scores: dict[str, Any]) -> dict[str, Any]:
    """Validation scores as columns."""
    flat = {f"val_{key}": scores[key] for key in ("miou", "pixel_accuracy", "mean_accuracy")}
    flat |= {f"val_boundary_iou_{distance}": value for distance, value in scores["boundary_iou"].items()}
    return flat | {f"val_iou_{name}": value for name, value in scores["per_class"].items()}
