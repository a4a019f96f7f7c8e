"""What a method is: a Segmenter turns pictures into an Output, a Refiner turns probability maps into one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn

from segfocus.errors import SegfocusError
from segfocus.output import Output


@dataclass(frozen=True)
class BaseMaps:
    """What a base computes for a batch of pictures, on its own grids, padded picture included.

    Cell (r, c) of a grid of stride s begins at pixel (r * s, c * s) of the picture.
    """

    logits: Float[Tensor, "batch channels rows columns"]
    """at `Base.stride`"""
    features: Float[Tensor, "batch features _ _"]
    """the map that a further head may read, at `Base.feature_stride`"""
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    """further logits at `Base.stride`, by name; each has a factor in `Base.auxiliary_weights`"""
    shared: tuple[Tensor, ...] = ()
    """the maps that `Base.branch` begins from, where they were asked for"""
    extras: dict[str, Any] = field(default_factory=dict)
    """further fields of `Output` (importance, boundary_logits, ...), already cut to the picture"""


class Base(nn.Module, ABC):
    """A network that methods build on: picture in [0, 1] of any size -> logits and features.

    Normalises and pads inside (right and bottom, like `Backbone`); never sees labels.
    """

    num_classes: int
    stride: int
    """pixels of the picture a cell of the logits"""
    feature_channels: int
    feature_stride: int
    auxiliary_weights: Mapping[str, float] = MappingProxyType({})
    """factor of each auxiliary map's loss"""
    branch_stages: tuple[int, ...] = ()
    """stages at which a second path may leave the network, see `branch`"""

    @abstractmethod
    def maps(self, image: Float[Tensor, "batch colors height width"], branch_stage: int | None = None) -> BaseMaps:
        """Logits and features; with `branch_stage` also the `shared` maps its branch begins from."""

    def forward(
        self, image: Float[Tensor, "batch colors height width"]
    ) -> tuple[Float[Tensor, "batch channels _ _"], Float[Tensor, "batch features _ _"]]:
        """(logits, features) of `maps`."""
        maps = self.maps(image)
        return maps.logits, maps.features

    def branch(self, stage: int) -> nn.Module:
        """A second path from the shared maps before `stage` to features of `feature_channels` at `feature_stride`.

        Its weights start as copies of the base's.  Called with the `shared` maps, a tuple.

        Raises:
            ValueError: the base has no such stage.
        """
        stages = ", ".join(map(str, self.branch_stages)) or "none"
        raise ValueError(f"{type(self).__name__}: expected a stage to branch at ({stages}), got {stage}")

    def terms(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Further loss terms of the base's own, from the fields it put into `extras`; none by default."""
        return {}


class Method(nn.Module, ABC):
    """What segmenters and refiners share."""

    num_classes: int
    takes: ClassVar[Literal["backbone", "base", "maps"]] = "backbone"
    """what the constructor's first argument is; "maps": none but the number of classes"""
    exportable: ClassVar[bool] = True
    """False where torch.compile(fullgraph=True) or export cannot work; `export_refusal` then says why"""
    export_refusal: ClassVar[str] = ""

    @abstractmethod
    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Named scalar terms, already weighted: their sum is minimised.

        `target` holds train ids at the input's resolution, 255 = ignore.  A batch without any labelled pixel
        gives finite zeros with a gradient.
        """


class Segmenter(Method):
    """A method that sees a picture.  `forward` never sees labels; any size from 1x1 up; batch 1 trains."""

    @abstractmethod
    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Output:
        """Picture in [0, 1] (normalised inside) -> Output with logits at the picture's resolution."""

    def attention(
        self, image: Float[Tensor, "1 channels height width"], row: int, column: int
    ) -> Float[Tensor, "rows columns"] | None:
        """How much each cell of the method's own grid enters what it says about one pixel; None, the default, where
        nothing of the kind exists.

        Args:
            image: ONE picture in [0, 1], as for `forward`.
            row, column: the chosen pixel, in pixels of that picture.

        Returns:
            Numbers >= 0 in a unit of the method's own: only their ratios are compared.
        """
        return None


Pairs = Iterable[
    tuple[
        Float32[np.ndarray, "classes height width"],
        UInt8[np.ndarray, "height width"],
        UInt8[np.ndarray, "height width 3"] | None,
    ]
]
"""(probabilities, truth, picture) of one picture after the other; truth in train ids, 255 = ignore"""


class Refiner(Method):
    """A method that sees another network's probability maps, and the picture where it wants it."""

    takes = "maps"
    reads_picture: ClassVar[bool] = False
    """whether `forward` needs the picture; a SegfocusError where it gets none"""
    fitting: ClassVar[Literal["none", "counted", "trained"]] = "trained"
    """how its parameters are found: there are none, `fit` counts them, or a training on `loss` does"""
    grid: int = 1
    """windows of a large map begin and end at multiples of so many pixels"""

    def fit(self, pairs: Pairs) -> None:
        """Find the parameters of a "counted" refiner; `pairs` is gone through once.

        Raises:
            SegfocusError: a refiner that is trained, or has nothing to find.
        """
        raise SegfocusError(
            f"{type(self).__name__}: expected a refiner whose parameters are counted, got one that "
            + ("has none; leave fit out" if self.fitting == "none" else "is trained; try segfocus refine train")
        )

    @abstractmethod
    def forward(
        self,
        probabilities: Float[Tensor, "batch classes height width"],
        image: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Output:
        """Probabilities in [0, 1] -> Output with refined logits at the same resolution.

        Of two classes `probabilities` has both channels; the logits have one.
        """


def check_count(name: str, value: object, remedy: object) -> None:
    """Raise a ValueError unless it is a whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: expected a whole number from 1, got {value!r}; try {remedy}")


def check_number(name: str, value: object, remedy: object, below: float = inf) -> None:
    """Raise a ValueError unless it is a number in [0, `below`)."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < below:
        limit = "from 0" if below == inf else f"in [0, {below:g})"
        raise ValueError(f"{name}: expected a number {limit}, got {value!r}; try {remedy}")


def check_class_weights(values: Sequence[float] | None, num_classes: int) -> None:
    """Raise a ValueError unless there is one weight from 0 a class, or none at all."""
    if values is None:
        return
    if len(values) != num_classes:
        raise ValueError(
            f"class_weights: expected {num_classes} values, got {len(values)}; try one a class, or class_weights masks"
        )
    for value in values:
        check_number("class_weights", value, 1.0)


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Raise a ValueError that lists what is valid; type annotations alone stop nobody at run time."""
    if value not in valid:
        raise ValueError(f"{name}: expected one of {', '.join(valid)}, got {value!r}")
