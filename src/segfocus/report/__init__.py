"""One self-contained HTML page that shows where a prediction is wrong."""

from segfocus.report.builder import build_report, write_report
from segfocus.report.images import Entry
from segfocus.report.pictures import Pictures

__all__ = ["Entry", "Pictures", "build_report", "write_report"]
