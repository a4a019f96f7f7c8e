"""CascadePSP through the package `segmentation-refinement`: a published refiner with weights of its own, if installed.

Cheng, Chung, Tai, Tang, "CascadePSP: Toward Class-Agnostic and Very High-Resolution Segmentation via Global and Local
Refinement", CVPR 2020.  The package fetches its weights when it is used for the first time.

It sees the picture (RGB) and the mask p > 0.5: how sure the base was is lost, and so is every class but one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from segfocus.errors import SegfocusError
from segfocus.methods.base import check_count
from segfocus.methods.base_logits import LEAST
from segfocus.methods.counted import CountedRefiner

_MODULE = "segmentation_refinement"


def installed() -> bool:
    """Whether the package is there; nothing is imported."""
    return find_spec(_MODULE) is not None


class CascadePSP(CountedRefiner):
    """The published network, one picture after the other.

    Args:
        num_classes: two.
        side: L: longer side, px, that pictures are reduced to for the global step, and size of the local windows.
        fast: the global step alone.

    Raises:
        SegfocusError: the package is not installed, or more than two classes.
        ValueError: a side that is no whole number from 1.
    """

    fitting = "none"
    reads_picture = True
    exportable = False
    export_refusal = "its network is that of another package, which takes NumPy arrays"

    def __init__(self, num_classes: int = 2, *, side: int = 900, fast: bool = False):
        super().__init__(num_classes)
        if num_classes != 2:
            raise SegfocusError(f"cascadepsp: expected two classes, got {num_classes}; try crf or guided_filter")
        check_count("side", side, 900)
        if not installed():
            raise SegfocusError(
                "cascadepsp: expected the package segmentation-refinement, got none; "
                "try pip install segmentation-refinement"
            )
        self.side, self.fast = side, fast
        self._networks: dict[str, Any] = {}
        """the package's refiner on each device it was used on: fetched weights are no part of a checkpoint"""

    def refined_logits(
        self, logits: Float[Tensor, "batch channels height width"], probabilities: Tensor, image: Tensor | None
    ) -> Float[Tensor, "batch channels height width"]:
        assert image is not None
        network = self._network(logits.device)
        masks = _bytes((probabilities[:, 1] > 0.5).float())
        pictures = _bytes(image.permute(0, 2, 3, 1))
        refined = [
            network.refine(picture, mask, fast=self.fast, L=self.side)
            for picture, mask in zip(pictures, masks, strict=True)
        ]
        found = torch.from_numpy(np.stack(refined))[:, None].to(logits) / 255
        return found.clamp(LEAST, 1 - LEAST).logit()

    def _network(self, device: torch.device) -> Any:
        name = str(device)
        if name not in self._networks:
            self._networks[name] = import_module(_MODULE).Refiner(device=name)
        return self._networks[name]


def _bytes(values: Tensor) -> np.ndarray:
    """Numbers in [0, 1] as 0 ... 255."""
    return (values * 255).round().byte().cpu().numpy()
