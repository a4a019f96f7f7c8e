"""What decides which pixels belong together: the choices that all backends of region construction share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RegionRules:
    """How pixels are grouped into regions and scored (Shen et al. 2020, section 3.1).

    Raises:
        ValueError: a value out of its range, or components without end points, which joins nearly everything.
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
                raise ValueError(f"{name}: expected one of {', '.join(valid)}, got {getattr(self, name)!r}")
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold: expected an affinity in (0, 1), got {self.threshold}")
        if self.min_region < 1:
            raise ValueError(f"min_region: expected at least 1 pixel, got {self.min_region}")
        if self.max_regions is not None and self.max_regions < 1:
            raise ValueError(f"max_regions: expected at least 1 region or none, got {self.max_regions}")
        if self.grouping == "components" and not self.end_points and self.evidence != "semantic":
            raise ValueError(
                "grouping: expected first without end points, got components: neighbouring pixels then always see "
                "a line without boundary, and regions run into each other; try end_points true"
            )
