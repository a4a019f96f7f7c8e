"""Transform chains for training and evaluation (torchvision v2, on tv_tensors).

Random numbers come from torch's global generator, which SegmentationDataset seeds for each sample.  Pictures stay
8-bit until the last step, and the random scale and crop first choose the window in the picture as stored, so that
only pixels which are kept get resized.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from segfocus.data.classes import IGNORE
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

PAD_COLOR = (124, 116, 104)
"""RGB outside a picture, the mean of ImageNet: about zero once a network has normalised it"""
_ATTEMPTS = 10
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def training_transform(config: DataConfig) -> v2.Transform:
    """Random scale and crop, mirror, brightness / contrast / saturation, then float32 in [0, 1].

    Without `config.crop` pictures keep their own size: a random scale would make sizes differ within a batch.

    Raises:
        SegfocusError: a crop, scale, share or jitter out of range.
    """
    steps: list[torch.nn.Module] = []
    if config.crop is not None:
        steps.append(RandomScaledCrop(config.crop, config.scale, config.max_class_share))
    if config.flip:
        steps.append(v2.RandomHorizontalFlip(0.5))
    if config.jitter:
        steps.append(PhotometricJitter(config.jitter))
    return v2.Compose([*steps, _to_float()])


def evaluation_transform() -> v2.Transform:
    """The picture at its own size, float32 in [0, 1]."""
    return _to_float()


def _to_float() -> v2.Transform:
    return v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)


class RandomScaledCrop(v2.Transform):
    """A window of a randomly scaled picture, always `size` pixels; what lies outside the picture is padded.

    The scale is uniform in `scale`.  A window in which one class holds more than `max_class_share` of the labelled
    pixels, or which has none, is drawn again, up to ten times; the last one stays.  A picture smaller than the
    crop is placed at a random position (padding: PAD_COLOR, mask 255).  The picture is resized with antialiasing,
    the mask by nearest neighbour on the same pixel-centre grid.

    Args:
        size: height and width in pixels.
        scale: smallest and largest scale.
        max_class_share: in (0, 1]; 1 takes any window that has a label.
    """

    def __init__(self, size: list[int], scale: list[float], max_class_share: float = 1.0) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise SegfocusError(f"data.crop: expected height and width in pixels, got {size}; try 360 480")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise SegfocusError(f"data.scale: expected the smallest and the largest scale, got {scale}; try 0.5 2")
        if not 0 < max_class_share <= 1:
            raise SegfocusError(f"data.max_class_share: expected a share in (0, 1], got {max_class_share}; try 0.75")
        self.size = (size[0], size[1])
        self.scale = (scale[0], scale[1])
        self.max_class_share = max_class_share

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        height, width = mask.shape[-2:]
        scale = float(torch.empty(()).uniform_(*self.scale))
        window_height, kept_height = _extent(height, self.size[0], scale)
        window_width, kept_width = _extent(width, self.size[1], scale)
        labels = mask.as_subclass(torch.Tensor).numpy()
        for _ in range(_ATTEMPTS):
            top, left = _draw(height - window_height), _draw(width - window_width)
            if largest_share(labels[top : top + window_height, left : left + window_width]) <= self.max_class_share:
                break
            if (window_height, window_width) == (height, width):
                break
        rows, columns = slice(top, top + window_height), slice(left, left + window_width)
        resized = _resize(image.as_subclass(torch.Tensor)[:, rows, columns], (kept_height, kept_width), smooth=True)
        kept = _resize(mask.as_subclass(torch.Tensor)[None, rows, columns], (kept_height, kept_width), smooth=False)[0]
        if (kept_height, kept_width) == self.size:
            return tv_tensors.Image(resized), tv_tensors.Mask(kept)
        down, right = _draw(self.size[0] - kept_height), _draw(self.size[1] - kept_width)
        rows, columns = slice(down, down + kept_height), slice(right, right + kept_width)
        canvas = torch.tensor(PAD_COLOR, dtype=image.dtype)[:, None, None].repeat(1, *self.size)
        canvas[:, rows, columns] = resized
        padded = torch.full(self.size, IGNORE, dtype=mask.dtype)
        padded[rows, columns] = kept
        return tv_tensors.Image(canvas), tv_tensors.Mask(padded)


class PhotometricJitter(v2.Transform):
    """Random brightness, contrast and saturation, each by a factor uniform in [1 - strength, 1 + strength].

    The three are affine in the colours, so they are one 3x4 matrix a picture, applied in one pass over 8-bit
    pixels with one clipping at the end (torchvision's ColorJitter clips after each).

    Args:
        strength: in [0, 1].
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        if not 0 <= strength <= 1:
            raise SegfocusError(f"data.jitter: expected a strength in [0, 1], got {strength}; try 0.4")
        self.strength = strength

    def forward(self, image: tv_tensors.Image, *others: Any) -> tuple[Any, ...]:
        factors = torch.empty(3).uniform_(1 - self.strength, 1 + self.strength).tolist()
        pixels = np.ascontiguousarray(image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy())
        changed = cv2.transform(pixels, jitter_matrix(pixels, *factors))
        return (tv_tensors.Image(torch.from_numpy(changed).permute(2, 0, 1)), *others)


def jitter_matrix(pixels: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """3x4 matrix for cv2.transform: brightness about black, contrast about the mean grey, saturation about grey."""
    mean_gray = float(_LUMA @ np.array(cv2.mean(pixels)[:3], np.float32)) * brightness
    saturate = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * _LUMA
    return np.hstack([contrast * brightness * saturate, np.full((3, 1), (1 - contrast) * mean_gray, np.float32)])


def largest_share(labels: np.ndarray) -> float:
    """Share of the commonest class among the labelled pixels, 1 where nothing is labelled."""
    counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    total = float(counts.sum())
    return float(counts.max()) / total if total else 1.0 + 1e-6


def _extent(length: int, crop: int, scale: float) -> tuple[int, int]:
    """Pixels of the stored picture inside the crop, and the pixels they fill in the crop, along one axis."""
    wanted = max(1, round(crop / scale))
    if wanted <= length:
        return wanted, crop
    return length, max(1, min(crop, round(length * scale)))


def _draw(largest: int) -> int:
    """Uniform in 0..largest."""
    return int(torch.randint(largest + 1, ()))


def _resize(values: torch.Tensor, size: tuple[int, int], smooth: bool) -> torch.Tensor:
    if tuple(values.shape[-2:]) == size:
        return values
    mode = v2.InterpolationMode.BILINEAR if smooth else v2.InterpolationMode.NEAREST_EXACT
    return functional.resize_image(values, list(size), interpolation=mode, antialias=smooth)
