"""How much of probability maps is uncertain: where a network is sure of every pixel, a refiner has nothing to learn."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

if TYPE_CHECKING:
    from segfocus.data.maps import MapsDataset

_log = logging.getLogger("segfocus")

CERTAIN = 0.95
"""largest probability from which a pixel counts as certain: of two classes, outside (0.05, 0.95)"""
SATURATED = 0.01
"""share of uncertain pixels below which maps are called saturated"""


def uncertain_pixels(probabilities: Float32[np.ndarray, "classes height width"]) -> int:
    """Number of pixels whose largest probability lies below `CERTAIN`."""
    return int((probabilities.max(0) < CERTAIN).sum())


def uncertain_share(dataset: MapsDataset, most: int = 32) -> float:
    """Share of the uncertain pixels in maps of a data set, of very many in `most` of them, evenly spread.

    Raises:
        SegfocusError: a map that cannot be read.
    """
    indices = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(int)
    maps = (dataset.read_map(int(index)) for index in indices)
    counts = np.array([(uncertain_pixels(values), values[0].size) for values in maps]).sum(0)
    return float(counts[0] / counts[1])


def say_saturated(share: float, where: str) -> None:
    """Warn where too few pixels of maps are uncertain, see `SATURATED`."""
    if share < SATURATED:
        _log.warning(
            "%s: the maps are saturated: only %.2f %% of the pixels have no probability of %g or more; a refiner "
            "learns little from them; try maps of pictures that the base was not trained on (refine export-maps "
            "--folds), or of an earlier checkpoint",
            where,
            100 * share,
            CERTAIN,
        )
