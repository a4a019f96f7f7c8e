"""metrics.csv: the one log that every run writes."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from segfocus.files import write_bytes, writing


class MetricsFile:
    """A CSV file that is only ever appended to; a row goes to disk at once.  New columns extend the header.

    After a resume from an earlier state the repeated steps appear twice; the later row counts.  A row that a kill cut
    off is removed by the first write: the file is untouched in processes that write nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self._opened = False

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; None leaves its cell empty."""
        with writing(self.path):
            if not self._opened:
                self._open()
            new = [key for key in row if key not in self.columns]
            if new:
                self._extend(new)
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns, restval="").writerow(row)

    def _open(self) -> None:
        self._opened = True
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            os.truncate(self.path, complete)
        self.columns = next(csv.reader(content[:complete].decode("utf-8").splitlines()), [])

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
        write_bytes(self.path, text.getvalue().encode("utf-8"))


def score_columns(scores: dict[str, Any]) -> dict[str, Any]:
    """Validation scores as columns."""
    flat = {f"val_{key}": scores[key] for key in ("miou", "pixel_accuracy", "mean_accuracy")}
    flat |= {f"val_boundary_iou_{distance}": value for distance, value in scores["boundary_iou"].items()}
    return flat | {f"val_iou_{name}": value for name, value in scores["per_class"].items()}
