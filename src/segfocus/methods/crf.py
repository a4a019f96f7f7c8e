"""MeanFieldCRF: neighbouring pixels of similar colour get the same class, found by mean-field iterations.

Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011, here with
pairs of pixels inside a window alone, as in Teichmann, Cipolla, "Convolutional CRFs for Semantic Segmentation", BMVC
2019.  ThreshNet's paper compares with the former ("DenseCRF").

| here | there | what |
|---|---|---|
| probabilities | exp(-ψ_u) | the base's maps (unary potential) |
| weight, position_width, color_width | w⁽¹⁾, θ_α, θ_β | appearance kernel: near and of similar colour (equation 3) |
| smooth_weight, smooth_width | w⁽²⁾, θ_γ | smoothness kernel: near (equation 3) |
| belief | Q | what the pixels believe now (algorithm 1) |
| - | μ | Potts: every unequal pair costs the same (section 2) |

Q_i(l) ∝ p_i(l) exp(Σ_j k_ij Q_j(l)) over the neighbours j ≠ i, `iterations` times for all pixels at once.  Of two
classes only the difference of their messages counts: Q_j(1) - Q_j(0) = tanh(logit / 2).

Where this differs:
* A window in place of all pixels: exact sums, no permutohedral lattice.  `dilation` widens it without more neighbours.
* Each kernel is divided by sqrt(n_i n_j), n: its sum over the window, the pixel itself included.  A weight then means
  the same for every window, at the frame and in busy places (the authors' later code does so too, by default).
* Colours in [0, 1], not 0 ... 255.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from segfocus.methods.base import Pairs, check_count, check_number
from segfocus.methods.base_logits import base_logits
from segfocus.methods.counted import Contest, CountedRefiner, as_batch, checked_pairs

WEIGHTS = (1.0, 3.0, 10.0)
"""appearance weights that `fit` tries"""
COLOR_WIDTHS = (0.02, 0.05, 0.12)
"""colour widths that `fit` tries"""
_HELD = 2**26
"""numbers of an appearance kernel that are kept from one iteration to the next; of a larger one none"""

Shift = tuple[int, int]


class MeanFieldCRF(CountedRefiner):
    """A conditional random field on the maps of any network and the picture.

    Args:
        num_classes: two or more.
        weight: of the appearance kernel; `fit` finds it.
        color_width: standard deviation of the appearance kernel, colours in [0, 1]; `fit` finds it.
        position_width: its standard deviation in space, px.
        smooth_weight: of the smoothness kernel.
        smooth_width: its standard deviation, px.
        radius: neighbours of a pixel: `radius` rows and columns to each side.
        dilation: px between rows and columns of the appearance kernel's neighbours (the smoothness kernel's touch).
        iterations: how often all beliefs are renewed.

    Raises:
        ValueError: numbers that are not above 0.
    """

    reads_picture = True
    exportable = False
    export_refusal = "its window is cut at the frame of the picture, whose size a graph would fix"
    weight: Tensor
    color_width: Tensor

    def __init__(
        self,
        num_classes: int = 2,
        *,
        weight: float = 3.0,
        color_width: float = 0.05,
        position_width: float = 40.0,
        smooth_weight: float = 0.3,
        smooth_width: float = 2.0,
        radius: int = 5,
        dilation: int = 4,
        iterations: int = 5,
    ):
        super().__init__(num_classes)
        check_number("weight", weight, 3.0)
        check_number("smooth_weight", smooth_weight, 1.0)
        widths = {"color_width": color_width, "position_width": position_width, "smooth_width": smooth_width}
        for name, value in widths.items():
            check_number(name, value, 1.0)
            if value == 0:
                raise ValueError(f"{name}: expected a number above 0, got 0; try {0.1 if name == 'color_width' else 2}")
        for name, count in (("radius", radius), ("dilation", dilation), ("iterations", iterations)):
            check_count(name, count, 5)
        self.position_width, self.smooth_weight, self.smooth_width = position_width, smooth_weight, smooth_width
        self.radius, self.dilation, self.iterations = radius, dilation, iterations
        self.register_buffer("weight", torch.tensor(float(weight)))
        self.register_buffer("color_width", torch.tensor(float(color_width)))

    def refined_logits(
        self, logits: Float[Tensor, "batch channels height width"], probabilities: Tensor, image: Tensor | None
    ) -> Float[Tensor, "batch channels height width"]:
        assert image is not None
        return self._mean_field(logits, self._appearance(image, self.color_width), self.weight)

    def _appearance(self, image: Float[Tensor, "batch 3 height width"], color_width: Tensor | float) -> Appearance:
        return Appearance(image, color_width, self.position_width, self.radius, self.dilation)

    def _mean_field(
        self, unary: Float[Tensor, "batch channels height width"], appearance: Appearance, weight: Tensor | float
    ) -> Float[Tensor, "batch channels height width"]:
        """Algorithm 1; beliefs as logits."""
        smoothness = Smoothness(unary, self.smooth_width, self.radius)
        logits = unary
        for _ in range(self.iterations):
            belief = (logits / 2).tanh() if logits.shape[1] == 1 else logits.softmax(1)
            message = weight * appearance.message(belief) + self.smooth_weight * smoothness.message(belief)
            logits = unary + message
        return logits

    @torch.no_grad()
    def fit(self, pairs: Pairs) -> None:
        """The best of `WEIGHTS` and `COLOR_WIDTHS`, by IoU of the foreground (of more classes the mean IoU).

        Raises:
            SegfocusError: maps, truths, pictures or classes that do not fit one another, or no labelled pixel.
        """
        device = self.weight.device
        candidates = list(product(COLOR_WIDTHS, WEIGHTS))
        contest = Contest(self.num_classes, len(candidates))
        for probabilities, truth, picture in checked_pairs(pairs, self.num_classes, pictures=True):
            assert picture is not None
            maps, image = as_batch(probabilities, picture, device)
            unary = base_logits(maps, self.num_classes)
            for width_number, color_width in enumerate(COLOR_WIDTHS):
                appearance = self._appearance(image, color_width)
                for weight_number, weight in enumerate(WEIGHTS):
                    number = width_number * len(WEIGHTS) + weight_number
                    contest.add(number, truth, self._mean_field(unary, appearance, weight))
        color_width, weight = candidates[contest.best()]
        self.color_width.fill_(color_width)
        self.weight.fill_(weight)


class Appearance:
    """Messages through the appearance kernel exp(-|x_i - x_j|² / 2θ_α² - |I_i - I_j|² / 2θ_β²), one picture each.

    One shift of the picture against itself at a time serves both pixels of every pair; how alike they are is computed
    once, or, of large pictures, again for each message.
    """

    def __init__(
        self,
        image: Float[Tensor, "batch 3 height width"],
        color_width: Tensor | float,
        position_width: float,
        radius: int,
        dilation: int,
    ):
        self.image, self.color_width, self.position_width = image, color_width, position_width
        height, width = image.shape[-2:]
        steps = range(-radius, radius + 1)
        shifts = [
            (row * dilation, column * dilation) for row, column in product(steps, steps) if (row, column) > (0, 0)
        ]
        self.shifts = [shift for shift in shifts if shift[0] < height and abs(shift[1]) < width]
        small = len(self.shifts) * len(image) * height * width <= _HELD
        self.held = list(self._alike()) if small else None
        total = torch.ones_like(image[:, :1])
        for shift, alike in self._pairs():
            total[earlier(shift)] += alike
            total[later(shift)] += alike
        self.norm = total.rsqrt()

    def _alike(self) -> Iterator[Tensor]:
        for shift in self.shifts:
            color = (self.image[earlier(shift)] - self.image[later(shift)]).square().sum(1, keepdim=True)
            place = (shift[0] ** 2 + shift[1] ** 2) / (2 * self.position_width**2)
            yield (color / (-2 * self.color_width**2) - place).exp()

    def _pairs(self) -> Iterator[tuple[Shift, Tensor]]:
        return zip(self.shifts, self.held if self.held is not None else self._alike(), strict=True)

    def message(self, belief: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Σ_j k_ij belief_j of each pixel i."""
        belief = belief * self.norm
        total = torch.zeros_like(belief)
        for shift, alike in self._pairs():
            total[earlier(shift)].addcmul_(alike, belief[later(shift)])
            total[later(shift)].addcmul_(alike, belief[earlier(shift)])
        return total * self.norm


class Smoothness:
    """Messages through the smoothness kernel exp(-|x_i - x_j|² / 2θ_γ²): first along columns, then along rows."""

    def __init__(self, like: Float[Tensor, "batch channels height width"], smooth_width: float, radius: int):
        self.taps = [float(torch.tensor(-(step**2) / (2 * smooth_width**2)).exp()) for step in range(radius + 1)]
        self.norm = self._spread(torch.ones_like(like[:1, :1])).rsqrt()

    def _spread(self, maps: Tensor) -> Tensor:
        for axis in (0, 1):
            total = maps.clone()
            for step, tap in enumerate(self.taps[1:], 1):
                if step < maps.shape[axis - 2]:
                    shift = (step, 0) if axis == 0 else (0, step)
                    total[earlier(shift)] += tap * maps[later(shift)]
                    total[later(shift)] += tap * maps[earlier(shift)]
            maps = total
        return maps

    def message(self, belief: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Σ_j k_ij belief_j of each pixel i."""
        belief = belief * self.norm
        return (self._spread(belief) - belief) * self.norm


def earlier(shift: Shift) -> tuple:
    """Of the pairs of pixels that lie `shift` (rows from 0, columns) apart the first ones: an index of a map."""
    rows, columns = shift
    return (..., slice(0, -rows or None), slice(0, -columns or None) if columns >= 0 else slice(-columns, None))


def later(shift: Shift) -> tuple:
    """The second ones, in the same order."""
    rows, columns = shift
    return (..., slice(rows, None), slice(columns, None) if columns >= 0 else slice(0, columns))
