"""What a first prediction is called on the page, the network's own or what a refiner was given, when the final one is
compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segfocus.report.tables import dig


@dataclass(frozen=True)
class Before:
    """Words for what the prediction is compared with."""

    heading: str = "What changed"
    column: str = "Baseline"
    words: str = "baseline"
    """inside a sentence, after "the" """
    define: str | None = None
    """key of `DEFINITIONS`"""


_FIRST = {
    "initial": Before("What borrowing changed", "Initial", "initial prediction", "initial"),
    "coarse": Before("What the context changed", "Coarse", "coarse prediction", "coarse"),
    "base": Before("What refining changed", "Base", "base's prediction", "base"),
}
"""kind of a baseline that is the network's own or what it refines -> words; see
`segfocus.inference.prediction.Prediction.initial_kind`"""


def before(scores: Mapping[str, Any]) -> Before:
    """The words for the baseline of these scores."""
    return _FIRST.get(dig(scores, "baseline", "kind") or "", Before())
