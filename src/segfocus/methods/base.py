"""What a method is: a Segmenter turns pictures into an Output, a Refiner turns probability maps into one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from segfocus.output import Output


class Base(nn.Module, ABC):
    """A network that methods build on: picture -> (logits, features).

    `forward` returns logits "batch channels h w" at the network's own stride and the feature map
    "batch feature_channels h w" they were computed from; `feature_channels` says how many channels that has.
    """

    feature_channels: int

    @abstractmethod
    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes _ _"], Float[Tensor, "batch features _ _"]]: ...


class _Method(nn.Module, ABC):
    """What segmenters and refiners share."""

    num_classes: int
    exportable: ClassVar[bool] = True
    """False where torch.compile(fullgraph=True) or export cannot work; `export_refusal` then says why"""
    export_refusal: ClassVar[str] = ""

    @abstractmethod
    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Named scalar terms, already weighted: their sum is minimised.

        `target` holds train ids at the input's resolution, 255 = ignore.  A batch without any labelled pixel
        gives finite zeros with a gradient.
        """


class Segmenter(_Method):
    """A method that sees a picture.  `forward` never sees labels; any size from 1x1 up; batch 1 trains."""

    @abstractmethod
    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Output:
        """Picture in [0, 1] (normalised inside) -> Output with logits at the picture's resolution."""


class Refiner(_Method):
    """A method that sees another network's probability maps, and the picture where it wants it."""

    @abstractmethod
    def forward(
        self,
        probabilities: Float[Tensor, "batch classes height width"],
        image: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Output:
        """Probabilities in [0, 1] -> Output with refined logits at the same resolution."""


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Raise a ValueError that lists what is valid; type annotations alone stop nobody at run time."""
    if value not in valid:
        raise ValueError(f"{name}: expected one of {', '.join(valid)}, got {value!r}")
