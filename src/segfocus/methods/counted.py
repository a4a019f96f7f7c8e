"""What refiners share whose parameters are counted on pairs of map and truth, or that have none: nothing is trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, UInt8
from torch import Tensor

from segfocus.data.classes import IGNORE
from segfocus.errors import SegfocusError
from segfocus.methods.base import Pairs, Refiner
from segfocus.methods.base_logits import base_logits
from segfocus.metrics.confusion import confusion_matrix, scores_from_confusion
from segfocus.output import Output, logit_channels

_SAMPLE = 2**21
"""most numbers (pixels x classes) that `sample_pixels` keeps"""


class CountedRefiner(Refiner):
    """A refiner without training: `refined_logits` says what it does, its state is in buffers, so checkpoints hold it.

    Args:
        num_classes: two (background and foreground) or more.
    """

    fitting = "counted"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        logit_channels(num_classes)
        self.num_classes = num_classes

    @abstractmethod
    def refined_logits(
        self,
        logits: Float[Tensor, "batch channels height width"],
        probabilities: Float[Tensor, "batch classes height width"],
        image: Float[Tensor, "batch 3 height width"] | None,
    ) -> Float[Tensor, "batch channels height width"]:
        """The base's logits (`base_logits`) and probabilities -> better logits.

        All float32, or all float64; the picture, in [0, 1], is there if `reads_picture`.
        """

    def forward(
        self,
        probabilities: Float[Tensor, "batch classes height width"],
        image: Float[Tensor, "batch channels _ _"] | None = None,
    ) -> Output:
        """Probabilities in [0, 1], one channel a class -> refined logits; `aux_logits["initial"]`: the base's own.

        Computed in float32 (of float64 maps in float64), under autocast too.

        Raises:
            SegfocusError: another number of channels; no picture, or one that does not fit, where one is read.
        """
        logits = base_logits(probabilities, self.num_classes)
        picture = None
        if self.reads_picture:
            picture = _checked_picture(image, probabilities, type(self).__name__).to(logits.dtype)
        refined = self.refined_logits(logits, probabilities.to(logits.dtype), picture)
        return Output(refined, aux_logits={"initial": logits})

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Not there.

        Raises:
            SegfocusError: always; says what to do instead.
        """
        remedy = "segfocus refine compare, which fits it" if self.fitting == "counted" else "to use it as it is"
        raise SegfocusError(
            f"{type(self).__name__}: expected a refiner with a loss, got one that is not trained; try {remedy}"
        )


def _checked_picture(image: Tensor | None, probabilities: Tensor, name: str) -> Tensor:
    height, width = probabilities.shape[-2:]
    if image is None:
        raise SegfocusError(
            f"{name}: expected the picture beside its probabilities, got none; try --images DIR, or image="
        )
    if image.shape[1] != 3 or image.shape[-2:] != probabilities.shape[-2:]:
        raise SegfocusError(
            f"{name}: expected a picture of 3 channels, {height} x {width} as its probabilities, got "
            f"{image.shape[1]} channels, {image.shape[-2]} x {image.shape[-1]}; try the RGB picture at the map's size"
        )
    return image


def checked_pairs(
    pairs: Pairs, num_classes: int, pictures: bool = False
) -> Iterator[
    tuple[
        Float32[np.ndarray, "classes height width"],
        UInt8[np.ndarray, "height width"],
        UInt8[np.ndarray, "height width 3"] | None,
    ]
]:
    """The pairs one by one, each checked before it is counted.

    Raises:
        SegfocusError: another number of classes, values outside [0, 1] or NaN, a truth of another size or with a value
            that is no class, no or another picture where `pictures` are needed; at the end, if no pixel had a label.
    """
    labelled = 0
    for number, (probabilities, truth, picture) in enumerate(pairs):
        pair = f"pair {number}"
        if len(probabilities) != num_classes:
            raise SegfocusError(
                f"{pair}: expected probabilities of {num_classes} classes, got {len(probabilities)}; "
                "try maps of the task the refiner was built for"
            )
        if truth.shape != probabilities.shape[1:]:
            raise SegfocusError(
                f"{pair}: expected a truth of {' x '.join(map(str, probabilities.shape[1:]))} as its probabilities, "
                f"got {' x '.join(map(str, truth.shape))}; try the mask of the same picture"
            )
        least, most = probabilities.min(), probabilities.max()
        if not (least >= 0 and most <= 1):  # NaN too
            raise SegfocusError(f"{pair}: expected probabilities in [0, 1], got {least} to {most}; try --logits")
        wrong = truth[(truth >= num_classes) & (truth != IGNORE)]
        if wrong.size:
            raise SegfocusError(
                f"{pair}: expected train ids below {num_classes} or {IGNORE} (ignored), got {wrong[0]}; "
                "try the classes that the probabilities have"
            )
        if pictures and (picture is None or picture.shape[:2] != truth.shape):
            found = "none" if picture is None else " x ".join(map(str, picture.shape[:2]))
            raise SegfocusError(
                f"{pair}: expected a picture of {' x '.join(map(str, truth.shape))} as its truth, got {found}; "
                "try --images DIR with the pictures of the maps"
            )
        labelled += np.count_nonzero(truth != IGNORE)
        yield probabilities, truth, picture
    if not labelled:
        raise SegfocusError("fit: expected at least one labelled pixel, got none; try more pictures to fit on")


def sample_pixels(
    pairs: Pairs, num_classes: int, most: int | None = None
) -> tuple[Float32[np.ndarray, "classes pixels"], UInt8[np.ndarray, " pixels"]]:
    """Probabilities and train ids of labelled pixels: of all, or of so many evenly drawn that they stay few.

    Every pixel has the same chance, whatever its picture; the same pairs give the same pixels.

    Args:
        most: numbers (pixels x classes) that are kept; when they become more, each is kept with half the chance.

    Raises:
        SegfocusError: as `checked_pairs`.
    """
    generator = np.random.default_rng(0)
    most = most or _SAMPLE
    chance = np.float32(1)
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for probabilities, truth, _ in checked_pairs(pairs, num_classes):
        labelled = truth != IGNORE
        ticket = generator.random(np.count_nonzero(labelled), np.float32)
        drawn = ticket < chance
        kept.append((ticket[drawn], probabilities[:, labelled][:, drawn], truth[labelled][drawn]))
        while sum(len(part[0]) for part in kept) * num_classes > most:
            chance /= 2
            kept = [(own[own < chance], p[:, own < chance], y[own < chance]) for own, p, y in kept]
    return np.concatenate([part[1] for part in kept], 1), np.concatenate([part[2] for part in kept])


class Contest:
    """Which of several candidates predicts best: IoU of the foreground, of three classes and more the mean IoU, over
    the labelled pixels of all pictures."""

    def __init__(self, num_classes: int, candidates: int):
        self.num_classes = num_classes
        self.confusion: Int64[np.ndarray, "candidates truth guess"] = np.zeros(
            (candidates, num_classes, num_classes), np.int64
        )

    def add(
        self, number: int, truth: UInt8[np.ndarray, "height width"], logits: Float[Tensor, "1 channels height width"]
    ) -> None:
        """Count what candidate `number` says of one picture."""
        labels = Output(logits).labels()[0].cpu().numpy().astype(np.uint8)
        self.confusion[number] += confusion_matrix(truth, labels, self.num_classes)

    def best(self) -> int:
        """Number of the best candidate, of equally good ones the first."""
        scores = [scores_from_confusion(matrix) for matrix in self.confusion]
        values = [score["iou"][1] if self.num_classes == 2 else score["miou"] for score in scores]
        return int(np.nan_to_num(values, nan=-1).argmax())  # no foreground anywhere: all are NaN


def as_batch(
    probabilities: Float32[np.ndarray, "classes height width"],
    picture: UInt8[np.ndarray, "height width 3"],
    device: torch.device,
) -> tuple[Float[Tensor, "1 classes height width"], Float[Tensor, "1 3 height width"]]:
    """One map and its picture, 0 ... 255, as `forward` takes them."""
    colors = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    return torch.from_numpy(probabilities)[None].to(device), colors[None].to(device).float() / 255
