"""TensorBoard's log beside metrics.csv."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger

from segfocus.files import writing


class Board(TensorBoardLogger):
    """TensorBoard's logger, with a full disk said in one line.

    Its event file is written by a thread, whose error comes back at any later call.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with writing(self.log_dir):
            super().log_metrics(metrics, step)

    def save(self) -> None:
        with writing(self.log_dir):
            super().save()

    def finalize(self, status: str) -> None:
        with writing(self.log_dir):
            super().finalize(status)
