"""One self-contained HTML page that shows where a prediction is wrong."""

from segfocus.report.builder import Entry, Pictures, build_report, write_report

__all__ = ["Entry", "Pictures", "build_report", "write_report"]
