"""A base trained on its own: what a method that wraps it is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from segfocus.losses import cross_entropy, ohem_cross_entropy
from segfocus.methods.base import Base, Segmenter
from segfocus.ops.resample import enlarge
from segfocus.output import Output


class PlainSegmenter(Segmenter):
    """A base's logits, enlarged to the picture.

    Args:
        base: any Base.
        num_classes: two or more; those of the base.
        class_weights: of the cross-entropy, one a class.
        ohem: online hard example mining instead of the plain cross-entropy, for the main logits.

    Raises:
        ValueError: another number of classes or class weights than the base has.
    """

    takes = "base"

    def __init__(
        self, base: Base, num_classes: int, *, class_weights: Sequence[float] | None = None, ohem: bool = False
    ):
        super().__init__()
        if base.num_classes != num_classes:
            raise ValueError(f"base: expected {num_classes} classes, got {base.num_classes}")
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(f"class_weights: expected {num_classes} values, got {len(class_weights)}")
        self.base, self.num_classes, self.ohem = base, num_classes, ohem
        self.class_weights: Tensor | None
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Output:
        maps = self.base.maps(image)
        extras = dict(maps.extras)
        aux_logits = {**extras.pop("aux_logits", {}), **maps.auxiliary}
        size = (image.shape[-2], image.shape[-1])
        return Output(logits=enlarge(maps.logits, self.base.stride, 1, size), aux_logits=aux_logits, **extras)

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Cross-entropy (or OHEM) of the logits and, by the base's factors, cross-entropy of its auxiliary maps."""
        main = ohem_cross_entropy if self.ohem else cross_entropy
        terms = {"cross_entropy": main(output.logits, target, class_weights=self.class_weights)}
        size = (target.shape[-2], target.shape[-1])
        for name, weight in self.base.auxiliary_weights.items():
            large = enlarge(output.aux_logits[name], self.base.stride, 1, size)
            terms[name] = weight * cross_entropy(large, target, class_weights=self.class_weights)
        return terms | self.base.terms(output, target)
