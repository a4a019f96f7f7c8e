"""MapRefiner: a probability map of any network, and its picture where that is read -> a Prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from segfocus.checkpoint import Checkpoint, load
from segfocus.data.classes import Classes
from segfocus.data.maps import grey_rendering
from segfocus.errors import SegfocusError
from segfocus.inference.prediction import Prediction
from segfocus.inference.predictor import choose_device, weights_digest
from segfocus.inference.tiles import Read, Write, check_tiles, refine_array, refine_tiled
from segfocus.methods.base import Refiner

AFTER_RESIZING = cv2.INTER_LINEAR


class MapRefiner:
    """Runs a refiner on maps, in float32, without gradients.

    Args:
        model: a checkpoint file, a loaded `Checkpoint`, or a Refiner (which is set to eval mode and moved).
        window: height and width of a tile in px, multiples of the refiner's `grid`; None sees maps whole.
        stride: step of the tiles; three quarters of them when None.
        resize: height and width that maps are brought to first, and back from after (the paper's way); no window then.
        shifts: average over patches moved by half of their side, four passes.
        device: "auto" (cuda, then mps, then cpu) or any torch device.
        channels_last: memory layout; faster convolutions on CPUs and tensor cores.

    Raises:
        SegfocusError: a model that is no refiner, a window or device that cannot be used; and what `segfocus.load`
            raises.
    """

    def __init__(
        self,
        model: Refiner | Checkpoint | Path | str,
        *,
        window: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        resize: Sequence[int] | None = None,
        shifts: bool = False,
        device: str | torch.device = "auto",
        channels_last: bool = True,
    ) -> None:
        if isinstance(model, str | Path):
            model = load(model)
        self.classes: Classes | None = None
        if isinstance(model, Checkpoint):
            self.classes = model.classes
            model = model.model  # pyright: ignore[reportAssignmentType]
        if not isinstance(model, Refiner):
            raise SegfocusError(
                f"expected a refiner of maps, got {type(model).__name__}, which sees pictures; try segfocus predict"
            )
        self.device = choose_device(device)
        self.model = model.eval().to(device=self.device, dtype=torch.float32)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.window, self.stride = check_tiles(window, stride, model.grid)
        self.resize = None if resize is None else (int(resize[0]), int(resize[1]))
        if self.resize is not None and self.window is not None:
            raise SegfocusError(
                f"window: expected none where maps are resized to {self.resize[0]}x{self.resize[1]}, got "
                f"{self.window[0]}x{self.window[1]}; try one of the two"
            )
        self.shifts = shifts

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    def refine(
        self,
        probabilities: Float32[np.ndarray, "classes height width"],
        picture: UInt8[np.ndarray, "picture_height picture_width 3"] | None = None,
    ) -> Float32[np.ndarray, "classes height width"]:
        """Refined probabilities of one map.

        Raises:
            SegfocusError: another number of classes, a picture of another size, or none where one is read.
        """
        self._check(len(probabilities), picture is not None)
        size = probabilities.shape[1:]
        if self.resize is not None:
            probabilities = _resized(probabilities, self.resize, cv2.INTER_AREA)
            if picture is not None:
                picture = cv2.resize(picture, self.resize[::-1], interpolation=cv2.INTER_AREA)
        how: dict[str, Any] = {"window": self.window, "stride": self.stride, "grid": self.model.grid}
        found = refine_array(self._tile, probabilities, picture, shifts=self.shifts, device=self.device, **how)
        return found if self.resize is None else _resized(found, size, AFTER_RESIZING)

    def refine_streamed(self, read: Read, size: tuple[int, int], write: Write) -> None:
        """A map that is read and written by rows of tiles: see `segfocus.inference.tiles.refine_tiled`.

        Raises:
            SegfocusError: maps that are resized, which takes all of them at once.
        """
        if self.resize is not None:
            raise SegfocusError("expected maps at their own size to be refined by tiles; try without resize")
        refine_tiled(
            self._tile, read, size, write, window=self.window, stride=self.stride, grid=self.model.grid,
            shifts=self.shifts, device=self.device,
        )  # fmt: skip

    def __call__(
        self,
        probabilities: Float32[np.ndarray, "classes height width"],
        picture: UInt8[np.ndarray, "picture_height picture_width 3"] | None = None,
        name: str = "map",
    ) -> Prediction:
        """Refined labels and probabilities, beside the base's; errors as `refine`."""
        found = self.refine(probabilities, picture)
        return Prediction(
            labels=_labels(found),
            probabilities=found,
            importance=None,
            selected=None,
            name=name,
            picture=grey_rendering(probabilities) if picture is None else picture,
            initial_labels=_labels(probabilities),
            initial_kind="base",
            base_probabilities=probabilities,
            patch=None if self.resize is not None else getattr(self.model, "patch", None),
        )

    def settings(self) -> dict[str, Any]:
        """What decides a refined map, JSON safe: a hash of the weights, and how maps are gone through."""
        return {
            "weights": weights_digest(self.model),
            "window": self.window and list(self.window),
            "stride": self.stride and list(self.stride),
            "resize": self.resize and list(self.resize),
            "shifts": self.shifts,
        }

    def _check(self, classes: int, pictured: bool) -> None:
        if classes != self.num_classes:
            raise SegfocusError(
                f"expected a map of {self.num_classes} classes, as the refiner has, got {classes} channels; try the "
                "maps it was trained for"
            )
        if self.model.reads_picture and not pictured:
            raise SegfocusError(
                f"{type(self.model).__name__}: expected the map's picture, got none; try --images FOLDER"
            )

    def _tile(self, probabilities: Tensor, picture: Tensor | None) -> Tensor:
        return one_pass(self.model, probabilities, picture)


def one_pass(
    model: Refiner,
    probabilities: Float[Tensor, "batch classes height width"],
    image: Float[Tensor, "batch 3 height width"] | None = None,
) -> Float[Tensor, "batch classes height width"]:
    """What a refiner makes of maps.  Of three or more classes those of the base, bit for bit, where the largest one is
    at least the model's `keep_above`, if it has one: logarithm and softmax would not give them back exactly."""
    found = model(probabilities, image).probabilities()
    keep_above = getattr(model, "keep_above", None)
    if keep_above is None or model.num_classes == 2:
        return found
    return torch.where(probabilities.amax(1, keepdim=True) >= keep_above, probabilities.to(found), found)


@torch.no_grad()
def refined(
    model: Refiner,
    probabilities: Float[Tensor, "batch classes height width"],
    image: Float[Tensor, "batch 3 height width"] | None = None,
    *,
    window: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    resize: Sequence[int] | None = None,
    shifts: bool = False,
) -> Float[Tensor, "batch classes height width"]:
    """Probabilities that a refiner, as it is, makes of a batch; arguments as `MapRefiner`."""
    if window is None and resize is None and not shifts:
        return one_pass(model, probabilities, image)
    device = probabilities.device

    def tile(part: Tensor, look: Tensor | None) -> Tensor:
        return one_pass(model, part, look)

    found = []
    for index in range(len(probabilities)):
        values = probabilities[index].float().cpu().numpy()
        size, picture = values.shape[1:], None
        if image is not None:
            picture = (image[index].permute(1, 2, 0).cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8)
        if resize is not None:
            values = _resized(values, resize, cv2.INTER_AREA)
            picture = None if picture is None else cv2.resize(picture, (resize[1], resize[0]))
        values = refine_array(
            tile, values, picture, window=window, stride=stride, grid=model.grid, shifts=shifts, device=device
        )
        found.append(torch.from_numpy(values if resize is None else _resized(values, size, AFTER_RESIZING)))
    return torch.stack(found).to(device)


def _resized(
    values: Float32[np.ndarray, "classes height width"], size: Sequence[int], how: int
) -> Float32[np.ndarray, "classes _ _"]:
    if tuple(values.shape[1:]) == (size[0], size[1]):
        return values
    return np.stack([cv2.resize(channel, (size[1], size[0]), interpolation=how) for channel in values])


def _labels(probabilities: Float32[np.ndarray, "classes height width"]) -> UInt8[np.ndarray, "height width"]:
    """Of two classes the foreground where its probability exceeds 0.5."""
    if len(probabilities) == 2:
        return (probabilities[1] > 0.5).astype(np.uint8)
    return probabilities.argmax(0).astype(np.uint8)
