"""Probability maps of any network with their masks, to train a refiner on; pictures too, where it reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from segfocus.data.arrays import ARRAY_EXTENSIONS
from segfocus.data.classes import IGNORE, Classes
from segfocus.data.dataset import Sample, SegmentationDataset, sample_seed
from segfocus.data.folder import classes_of_masks, names_held_out
from segfocus.data.map_files import open_map
from segfocus.data.matching import Source, match_files
from segfocus.data.pairs import Pair
from segfocus.data.pictures import PICTURE_EXTENSIONS, read_mask, read_picture
from segfocus.data.transforms import PhotometricJitter, largest_share
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

if TYPE_CHECKING:
    from torchvision import tv_tensors

_ATTEMPTS = 10


class MapSample(Sample):
    """A sample of `MapsDataset`."""

    probabilities: Float32[Tensor, "classes height width"]
    """in [0, 1]"""


class MapsDataset(SegmentationDataset):
    """Probability maps on disk, with masks and perhaps pictures.

    Where there are no pictures `image` is a grey rendering of the map, to look at.

    Args:
        pairs: maps (as `picture`) and masks.
        classes: of the masks; the maps have their channels, or of two classes the second's alone.
        pictures: one for each pair, or None.
        logits: the maps hold logits.
        transform: of training samples; None gives maps at their own size.
        seed: of the augmentation.
        max_pixels: larger maps and pictures are refused.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: Classes,
        pictures: Sequence[Path] | None = None,
        logits: bool = False,
        transform: MapTransform | None = None,
        seed: int = 0,
        max_pixels: int = 180_000_000,
    ) -> None:
        super().__init__(pairs, classes, None, seed, max_pixels)
        self.pictures = None if pictures is None else list(pictures)
        self.logits = logits
        self.map_transform = transform

    def __getitem__(self, key: int | tuple[int, int]) -> MapSample:
        """One transformed sample; keys and errors as `SegmentationDataset`."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        probabilities = torch.from_numpy(self.read_map(index))
        picture, labels = self._read(index, probabilities.numpy())
        image, target = torch.from_numpy(picture).permute(2, 0, 1), torch.from_numpy(labels)
        if self.map_transform is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(sample_seed(self.seed, epoch, index % len(self)))
                probabilities, image, target = self.map_transform(probabilities, image, target)
        return {
            "image": image.float().div_(255),
            "target": target.long(),
            "name": self.pairs[index].name,
            "probabilities": probabilities,
        }

    def read_map(self, index: int) -> Float32[np.ndarray, "classes height width"]:
        """The map as stored: probabilities in [0, 1], a channel a class, two of a two-class task.

        Raises:
            SegfocusError: a file that holds no such map (it is named).
        """
        file = open_map(self.pairs[index].picture, self.classes.num_classes, logits=self.logits)
        height, width = file.size
        if height * width > self.max_pixels:
            raise SegfocusError(
                f"{self.pairs[index].picture}: expected at most {self.max_pixels} pixels, got {width}x{height}; try "
                "segfocus refine apply, which reads parts, or --max-pixels"
            )
        return file.read(slice(0, height), slice(0, width))

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
        """Picture (RGB, or the map in grey) and train ids as stored."""
        return self._read(index, None if self.pictures is not None else self.read_map(index))

    def _read(self, index: int, probabilities: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        pair = self.pairs[index]
        if self.pictures is not None:
            picture = read_picture(self.pictures[index], self.max_pixels)
        else:
            assert probabilities is not None
            picture = grey_rendering(probabilities)
        size = picture.shape[:2] if probabilities is None else probabilities.shape[1:]
        if self.pictures is not None and picture.shape[:2] != size:
            raise _other_size(self.pictures[index], picture.shape[:2], pair.picture, size)
        assert pair.mask is not None
        labels = self._mask(pair.mask)
        if labels.shape != size:
            raise _other_size(pair.mask, labels.shape, pair.picture, size)
        return picture, labels

    def _mask(self, path: Path) -> UInt8[np.ndarray, "height width"]:
        return self.classes.encode(read_mask(path, self.max_pixels, colors=self.classes.reads_colors), str(path))

    def only(self, indices: Iterable[int]) -> MapsDataset:
        """These maps alone, with their pictures."""
        indices = list(indices)
        part = super().only(indices)
        assert isinstance(part, MapsDataset)
        part.pictures = None if self.pictures is None else [self.pictures[index] for index in indices]
        return part

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a map in pixels, without reading it where its kind of file allows that."""
        return open_map(self.pairs[index].picture, self.classes.num_classes, logits=self.logits).size


def grey_rendering(probabilities: Float32[np.ndarray, "classes height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """A map as a grey picture: the foreground's probability, of more classes the largest one."""
    grey = probabilities[1] if len(probabilities) == 2 else probabilities.max(0)
    return np.repeat((grey * 255).round().astype(np.uint8)[:, :, None], 3, 2)


class MapTransform:
    """Random crop, mirror images and quarter turns of map, picture and mask alike; jitter of the picture's colours.

    A map smaller than the crop goes on mirrored, void in the mask.  Numbers come from torch's global generator.

    Args:
        config: `resize`, `crop`, `max_class_share` (see `RandomScaledCrop`), `flip`, `turn`, `jitter`.

    Raises:
        SegfocusError: sizes that are no height and width, or a `scale` other than 1: maps are refined at their size.
    """

    def __init__(self, config: DataConfig) -> None:
        for name, size in (("crop", config.crop), ("resize", config.resize)):
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise SegfocusError(f"data.{name}: expected height and width in pixels, got {size}; try 256 256")
        if list(config.scale) != [1.0, 1.0]:
            raise SegfocusError(
                f"data.scale: expected 1 1 for maps, which are refined at their own size, got {config.scale}; try 1 1"
            )
        self.config = config
        self.jitter = PhotometricJitter(config.jitter) if config.jitter else None

    def __call__(
        self,
        probabilities: Float32[Tensor, "classes height width"],
        image: UInt8[Tensor, "3 height width"],
        target: UInt8[Tensor, "height width"],
    ) -> tuple[Float32[Tensor, "classes _ _"], UInt8[Tensor, "3 _ _"], UInt8[Tensor, "_ _"]]:
        """Map, picture and mask, changed alike."""
        config = self.config
        if config.resize is not None:
            probabilities, image, target = resized(probabilities, image, target, (config.resize[0], config.resize[1]))
        if config.crop is not None:
            probabilities, image, target = self._cropped(probabilities, image, target, config.crop)
        together = (probabilities, image, target)
        if config.flip and _coin():
            together = tuple(part.flip(-1) for part in together)
        if config.turn:
            if _coin():
                together = tuple(part.flip(-2) for part in together)
            if target.shape[0] == target.shape[1] and _coin():
                together = tuple(part.transpose(-1, -2) for part in together)
        probabilities, image, target = (part.contiguous() for part in together)
        if self.jitter is not None:
            from torchvision import tv_tensors

            changed: tv_tensors.Image = self.jitter(tv_tensors.Image(image))[0]
            image = changed.as_subclass(Tensor)
        return probabilities, image, target

    def _cropped(
        self, probabilities: Tensor, image: Tensor, target: Tensor, crop: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        height, width = target.shape
        tall, wide = min(crop[0], height), min(crop[1], width)
        for _ in range(_ATTEMPTS):
            top, left = _draw(height - tall), _draw(width - wide)
            part = target[top : top + tall, left : left + wide]
            if largest_share(part.numpy()) <= self.config.max_class_share or (tall, wide) == (height, width):
                break
        rows, columns = slice(top, top + tall), slice(left, left + wide)
        target = target[rows, columns]
        if (tall, wide) != tuple(crop):
            padded = torch.full((crop[0], crop[1]), IGNORE, dtype=target.dtype)
            padded[:tall, :wide] = target
            down, across = _mirrored(tall, crop[0]), _mirrored(wide, crop[1])
            probabilities, image = (part[:, rows, columns][:, down][:, :, across] for part in (probabilities, image))
            return probabilities, image, padded
        return probabilities[:, rows, columns], image[:, rows, columns], target


def resized(
    probabilities: Float32[Tensor, "classes height width"],
    image: UInt8[Tensor, "3 height width"],
    target: UInt8[Tensor, "height width"],
    size: tuple[int, int],
) -> tuple[Float32[Tensor, "classes _ _"], UInt8[Tensor, "3 _ _"], UInt8[Tensor, "_ _"]]:
    """All three at `size` (height, width): means of areas, as in ThreshNet's paper; labels by nearest neighbour, those
    of a two-class task where half of the area has them."""
    if tuple(target.shape) == size:
        return probabilities, image, target
    values = np.stack([_area(channel, size) for channel in probabilities.numpy()])
    picture = np.stack([_area(channel, size) for channel in image.numpy()])
    labels = target.numpy()
    nearest = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    if len(probabilities) == 2:
        foreground = _area((labels == 1).astype(np.float32), size) >= 0.5
        nearest = np.where(nearest == IGNORE, nearest, foreground.astype(np.uint8))
    return torch.from_numpy(values), torch.from_numpy(picture), torch.from_numpy(nearest)


def classes(config: DataConfig) -> Classes:
    """The classes found in the masks, as the folder reader finds them."""
    return classes_of_masks([pair.mask for pair, _ in _rows(config) if pair.mask is not None], config.max_pixels)


def dataset(
    config: DataConfig, split: str, classes: Classes, transform: Callable[..., Any] | None, seed: int
) -> MapsDataset:
    """The maps of a split: "all", or "val" (a share, data.val_share, told by the names) and "train", the others.

    Any `transform` stands for `MapTransform` of the configuration: pictures are changed with their maps.

    Raises:
        SegfocusError: folders missing, maps without mask or picture (listed), too few to hold some out.
    """
    rows = _rows(config)
    if split != "all":
        held_out = names_held_out([pair.name for pair, _ in rows], config.val_share)
        rows = [row for row in rows if (row[0].name in held_out) == (split == "val")]
    pictures = [picture for _, picture in rows if picture is not None]
    change = None if transform is None else MapTransform(config)
    pairs = [pair for pair, _ in rows]
    return MapsDataset(
        pairs, classes, pictures if config.images else None, config.logits, change, seed, config.max_pixels
    )


def _rows(config: DataConfig) -> list[tuple[Pair, Path | None]]:
    """Map with mask, and its picture."""
    if not config.maps or not config.masks:
        missing = "data.maps" if not config.maps else "data.masks"
        raise SegfocusError(f"maps: expected data.maps and data.masks, got no {missing}; try --{missing} FOLDER")
    maps = Source("--maps", Path(config.maps), "", extensions=ARRAY_EXTENSIONS)
    others = [Source("--masks", Path(config.masks), "")]
    if config.images:
        others.append(Source("--images", Path(config.images), "", extensions=PICTURE_EXTENSIONS))
    found, _ = match_files(maps, others, word="map")
    return [(Pair(row.files["--maps"], row.files["--masks"], row.name), row.files.get("--images")) for row in found]


def _area(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA)


def _mirrored(length: int, wanted: int) -> Tensor:
    """Indices of `wanted` pixels: those there are, then back and forth."""
    index = torch.arange(wanted) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def _coin() -> bool:
    return bool(torch.rand(()) < 0.5)


def _draw(largest: int) -> int:
    """Uniform in 0..largest."""
    return int(torch.randint(largest + 1, ()))


def _other_size(path: Path, found: Sequence[int], of: Path, size: Sequence[int]) -> SegfocusError:
    return SegfocusError(
        f"{path}: expected the size of its map {of}, {size[0]}x{size[1]} (height x width), got {found[0]}x{found[1]}; "
        "try maps at the masks' size"
    )
