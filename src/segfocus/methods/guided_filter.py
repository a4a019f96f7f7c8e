"""GuidedFilter: in every window the map becomes the linear function of the picture that is nearest to it.

He, Sun, Tang, "Guided Image Filtering", TPAMI 35 (6), 2013, section 3, with a guide in colour.

| here | there | what |
|---|---|---|
| image | I | the guide, three colours |
| probabilities | p | what is filtered |
| slope, offset | a_k, b_k | of window k: least squares of q_i = a_k · I_i + b_k to p, plus ε abs(a_k)² a pixel |
| radius, softness | r, ε | half of a window, and how little slope it gets |
| refined | q | mean of what all windows over a pixel say |

Where this differs: windows are cut off by the frame, and means are of the pixels that are left (as in the authors'
code).  Values are cut to [0, 1].  Of two classes the foreground alone is filtered; of more every class: filtering is
linear, so they sum to 1 until they are cut.
"""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from segfocus.methods.base import Pairs, check_count, check_number
from segfocus.methods.base_logits import LEAST
from segfocus.methods.counted import Contest, CountedRefiner, as_batch, checked_pairs

RADII = (2, 4, 8)
"""px; windows that `fit` tries"""
SOFTNESS = (1e-4, 1e-3, 1e-2)
"""values that `fit` tries"""


class GuidedFilter(CountedRefiner):
    """The maps of any network, filtered along the picture's edges.

    Args:
        num_classes: two or more.
        radius: a window has 2 radius + 1 px a side; `fit` finds it.
        softness: variance of a colour, in [0, 1]², below which a window counts as flat; `fit` finds it.

    Raises:
        ValueError: numbers that are not above 0.
    """

    reads_picture = True
    found_radius: Tensor
    softness: Tensor

    def __init__(self, num_classes: int = 2, *, radius: int = 4, softness: float = 1e-3):
        super().__init__(num_classes)
        check_count("radius", radius, 4)
        check_number("softness", softness, 1e-3)
        if softness == 0:
            raise ValueError("softness: expected a number above 0, got 0; try 0.001")
        self.radius = radius  # a number of Python, for graphs; the buffer is what a checkpoint keeps
        self.register_buffer("found_radius", torch.tensor(radius))
        self.register_buffer("softness", torch.tensor(float(softness)))
        self.register_load_state_dict_post_hook(_take_radius)

    def refined_logits(
        self, logits: Float[Tensor, "batch channels height width"], probabilities: Tensor, image: Tensor | None
    ) -> Float[Tensor, "batch channels height width"]:
        assert image is not None
        return self._logits(guided_filter(image, self._filtered(probabilities), self.radius, self.softness))

    def _filtered(self, probabilities: Tensor) -> Tensor:
        return probabilities[:, 1:] if self.num_classes == 2 else probabilities

    def _logits(self, refined: Tensor) -> Tensor:
        if self.num_classes == 2:
            return refined.clamp(LEAST, 1 - LEAST).logit()
        return refined.clamp(LEAST, 1).log()

    @torch.no_grad()
    def fit(self, pairs: Pairs) -> None:
        """The best of `RADII` and `SOFTNESS`, by IoU of the foreground (of more classes the mean IoU).

        Raises:
            SegfocusError: maps, truths, pictures or classes that do not fit one another, or no labelled pixel.
        """
        candidates = list(product(RADII, SOFTNESS))
        contest = Contest(self.num_classes, len(candidates))
        for probabilities, truth, picture in checked_pairs(pairs, self.num_classes, pictures=True):
            assert picture is not None
            maps, image = as_batch(probabilities, picture, self.softness.device)
            maps = self._filtered(maps)
            for number, (radius, softness) in enumerate(candidates):
                contest.add(number, truth, self._logits(guided_filter(image, maps, radius, softness)))
        radius, softness = candidates[contest.best()]
        self.radius = radius
        self.found_radius.fill_(radius)
        self.softness.fill_(softness)


def _take_radius(module: GuidedFilter, incompatible_keys: object) -> None:
    module.radius = int(module.found_radius)


def guided_filter(
    image: Float[Tensor, "batch 3 height width"],
    maps: Float[Tensor, "batch maps height width"],
    radius: int,
    softness: float | Float[Tensor, ""],
) -> Float[Tensor, "batch maps height width"]:
    """q of the picture and each map; values may lie somewhat outside those of `maps`."""
    first, second = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]
    color = box_mean(image, radius)
    mean = box_mean(maps, radius)
    covariance = box_mean(image[:, first] * image[:, second], radius) - color[:, first] * color[:, second]
    red, red_green, red_blue, green, green_blue, blue = (part[:, None] for part in covariance.unbind(1))
    # to each colour: maps x height x width
    toward = [
        box_mean(image[:, place : place + 1] * maps, radius) - color[:, place : place + 1] * mean for place in range(3)
    ]
    # (covariance + softness) slope = toward, by L D Lᵀ of the 3 x 3 matrix: cofactors would lose all digits where the
    # colours are nearly proportional, as in grey pictures
    red, green, blue = red + softness, green + softness, blue + softness
    lower_green, lower_blue = red_green / red, red_blue / red
    green = green - lower_green * red_green
    between = green_blue - lower_green * red_blue
    lower = between / green
    blue = blue - lower_blue * red_blue - lower * between
    of_red, of_green, of_blue = toward[0], toward[1], toward[2]
    of_green = of_green - lower_green * of_red
    of_blue = of_blue - lower_blue * of_red - lower * of_green
    slope_blue = of_blue / blue
    slope_green = of_green / green - lower * slope_blue
    slope_red = of_red / red - lower_green * slope_green - lower_blue * slope_blue
    slopes = (slope_red, slope_green, slope_blue)
    offset = mean
    for place, slope in enumerate(slopes):
        offset = offset - slope * color[:, place : place + 1]
    refined = box_mean(offset, radius)
    for place, slope in enumerate(slopes):
        refined = refined + box_mean(slope, radius) * image[:, place : place + 1]
    return refined


def box_mean(maps: Float[Tensor, "batch channels height width"], radius: int) -> Tensor:
    """Mean over the (2 radius + 1)² window around each pixel, of what of it lies inside the frame."""
    for axis in (-2, -1):
        size = maps.shape[axis]
        room = (0, 0, radius, radius) if axis == -2 else (radius, radius)
        place = torch.arange(size, device=maps.device)
        count = (place + radius + 1).clamp(max=size) - (place - radius).clamp(min=0)
        total = _running_sum(functional.pad(maps, room), 2 * radius + 1, axis, size)
        maps = total / (count[:, None] if axis == -2 else count).to(maps.dtype)
    return maps


def _running_sum(maps: Tensor, width: int, axis: int, size: int) -> Tensor:
    """Sums of `width` successive values, from sums of 1, 2, 4, ... of them: few passes, nothing large to cancel."""
    total, done, span = None, 0, 1
    while True:
        if width & span:
            part = maps.narrow(axis, done, size)
            total = part if total is None else total + part
            done += span
        if 2 * span > width:
            assert total is not None
            return total
        length = maps.shape[axis] - span
        maps = maps.narrow(axis, 0, length) + maps.narrow(axis, span, length)
        span *= 2
