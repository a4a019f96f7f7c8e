"""What decides which pixels belong together: the choices that all backends of region construction share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RegionRules:
    """How pixels are grouped into regions and scored (Shen et al. 2020, section 3.1).

    Raises:
        ValueError: a value of another type or out of its range, or components without end points, which joins nearly
            everything.
    """

    threshold: float = 0.8
    """two pixels may join when their mean affinity (F_ij + F_ji) / 2 exceeds this; in (0, 1)"""
    end_points: bool = True
    """whether the two pixels themselves count on the line between them (released: no)"""
    grouping: Literal["first", "components"] = "first"
    """"first": each pixel follows the first pixel in raster order that it may join; "components": connected components
    of all pairs that may join"""
    divergence: Literal["jensen_shannon", "bernoulli"] = "jensen_shannon"
    """E: Jensen-Shannon divergence of the class distributions in bits; or (released) that of the row pixel's most
    probable class against the rest, in nats, with probabilities clamped to [0.001, 0.99], not symmetric"""
    evidence: Literal["both", "boundary", "semantic"] = "both"
    """what the affinity is made of; "boundary" takes E = 0, "semantic" takes D = 0"""
    min_region: int = 8
    """smaller regions are absorbed by the nearest larger one; 1 keeps all"""
    max_regions: int | None = 256
    """only so many of the largest regions of a picture are kept, the others absorbed; None keeps all"""

    def __post_init__(self) -> None:
        choices = {
            "grouping": ("first", "components"),
            "divergence": ("jensen_shannon", "bernoulli"),
            "evidence": ("both", "boundary", "semantic"),
        }
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"{name}: expected one of {', '.join(valid)}, got {getattr(self, name)!r}; try {valid[0]}"
                )
        # True is a number to Python, and NaN fails every comparison
        if isinstance(self.threshold, bool) or not (isinstance(self.threshold, int | float) and 0 < self.threshold < 1):
            raise ValueError(f"threshold: expected an affinity in (0, 1), got {self.threshold!r}; try 0.8")
        if not isinstance(self.end_points, bool):
            raise ValueError(f"end_points: expected true or false, got {self.end_points!r}; try true")
        if not _is_count(self.min_region):
            raise ValueError(
                f"min_region: expected a whole number of pixels from 1, got {self.min_region!r}; try 8 (1 keeps all)"
            )
        if not (self.max_regions is None or _is_count(self.max_regions)):
            raise ValueError(
                f"max_regions: expected a whole number of regions from 1, or none, got {self.max_regions!r}; "
                "try 256 (none keeps all)"
            )
        if self.grouping == "components" and not self.end_points and self.evidence != "semantic":
            raise ValueError(
                "grouping: expected first without end points, got components: neighbouring pixels then always see "
                "a line without boundary, and regions run into each other; try end_points true"
            )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
