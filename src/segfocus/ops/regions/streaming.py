"""Region construction in plain PyTorch without tables of all pairs, on any device.

All pairs that lie the same number of columns apart are worked on together, as rows: there the samples of a line are
shifted rows of the map, so that every step is a few long vector operations, and memory grows with pixels ** 1.5 at
most.  Rows that cannot matter are left out early; every bound used for that is exact, so the result is that of
`definition`.  The backward pass computes the lines once more instead of keeping them.

Where this differs from the definition: a maximum that lies at several places of a line gives its gradient, both ways,
to the first of them as seen from the left (from above on lines that run down); only where these are the two end points
does each direction give it to the pixel that it starts from, as there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from segfocus.ops.regions.definition import HIGHEST, LOWEST, TINY, top_classes
from segfocus.ops.regions.rules import RegionRules

# bounds that leave pairs out keep this distance, so that rounding cannot drop a pair that joins
SLACK = 1e-5


@torch.no_grad()
def group(
    boundary: Float[Tensor, "height width"], semantic: Float[Tensor, "classes height width"], rules: RegionRules
) -> Int[Tensor, " pixels"]:
    """Leader of each pixel, never behind it in raster order; see `definition.group`."""
    picture = _Picture(boundary, semantic, rules)
    leaders = torch.arange(boundary.numel(), device=boundary.device)
    first = rules.grouping == "first"
    # far leaders first, as they make nearer ones needless; near joins first, as most pixels of a component touch
    for view in (1, 0) if first else (0, 1):
        for pairs in picture.pairs(view, longest_first=first):
            here, there = pairs.here(picture.index[view]), pairs.there(picture.index[view])
            if first:
                low, high = torch.minimum(here, there), torch.maximum(here, there)
                wanted = low < leaders[high]
            else:
                wanted = leaders[here] != leaders[there]
            here, there = _joined(picture, pairs, wanted)
            if not first:
                _unite(leaders, here, there)
            else:
                leaders.scatter_reduce_(0, torch.maximum(here, there), torch.minimum(here, there), "amin")
    return leaders


@torch.no_grad()
def scores_forward(
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
) -> Float[Tensor, " pixels"]:
    """J: mean affinity of each pixel to its region, itself included; see `definition.scores_forward`."""
    picture = _Picture(boundary, semantic, rules)
    # a pixel's line to itself is that pixel
    total = _Sum(1 - boundary.flatten() if picture.own_boundary else torch.ones_like(boundary).flatten())
    for view in (0, 1):
        for pairs, same in _within(picture, view, regions):
            here, there = pairs.select(picture.index[view], same)
            open_line = (1 - picture.line_maxima(pairs)[0])[same]
            forth, back = picture.divergence(here, there)
            total.add(here, open_line * (1 - forth))
            total.add(there, open_line * (1 - back))
            total.carry()
    return (total.values / torch.bincount(regions)[regions]).to(boundary.dtype)


@torch.no_grad()
def scores_backward(
    gradient: Float[Tensor, " pixels"],
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "classes height width"]]:
    """Gradients of the boundary and class probabilities for a gradient of the scores."""
    picture = _Picture(boundary, semantic, rules)
    share = gradient / torch.bincount(regions)[regions]
    of_boundary = _Sum(-share if picture.own_boundary else torch.zeros_like(share))
    of_semantic = _Sum(torch.zeros_like(semantic).flatten())
    for view in (0, 1):
        for pairs, same in _within(picture, view, regions):
            here, there = pairs.select(picture.index[view], same)
            maxima, steps = picture.line_maxima(pairs, with_steps=True)
            forth, back = picture.divergence(here, there)
            weight_forth, weight_back = share[here], share[there]
            if rules.evidence != "semantic":
                weights = (forth - 1) * weight_forth, (back - 1) * weight_back
                picture.give_boundary(of_boundary, pairs, same, steps, *weights)
            closed = maxima[same] - 1
            picture.give_semantic(of_semantic, here, there, closed * weight_forth, closed * weight_back)
            of_boundary.carry()
            of_semantic.carry()
    return (
        of_boundary.values.to(boundary.dtype).view_as(boundary),
        of_semantic.values.to(semantic.dtype).view_as(semantic),
    )


class _Sum:
    """Sums of very many small numbers: in float64, or where the device has none in two stages with what rounding lost.

    Plain float32 would lose as much as the tolerance between backends where a region is large.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.to(_widest(values.device)).clone()
        self.compensated = self.values.dtype == torch.float32
        self.part, self.lost = torch.zeros_like(self.values), torch.zeros_like(self.values)

    def add(self, places: Tensor, values: Tensor) -> None:
        into = self.part if self.compensated else self.values
        into.index_add_(0, places, values.to(into.dtype))

    def carry(self) -> None:
        """After every few values a place: add what has gathered, keeping what rounding drops (Kahan)."""
        if self.compensated:
            wanted = self.part - self.lost
            total = self.values + wanted
            self.lost = (total - self.values) - wanted
            self.values = total
            self.part.zero_()


def _widest(device: torch.device) -> torch.dtype:
    """The most precise numbers of a device: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class _Pairs(NamedTuple):
    """Pairs of pixels `reach` columns and `shift` rows apart, one row of pairs for each row they start in."""

    view: int
    row: Tensor  # [rows]
    shift: Tensor  # [rows]
    reach: int

    def here(self, grid: Tensor) -> Tensor:
        return grid[:, : grid.shape[1] - self.reach].index_select(0, self.row)

    def there(self, grid: Tensor) -> Tensor:
        return grid[:, self.reach :].index_select(0, self.row + self.shift)

    def select(self, index: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel numbers of the chosen pairs."""
        return self.here(index)[chosen], self.there(index)[chosen]

    def keep(self, rows: Tensor) -> _Pairs:
        return self._replace(row=self.row[rows], shift=self.shift[rows])


class _Picture:
    """What the pairs of a picture are judged by; view 1 is the transposed picture, for lines that run down."""

    def __init__(self, boundary: Tensor, semantic: Tensor, rules: RegionRules) -> None:
        self.rules = rules
        self.own_boundary = rules.end_points and rules.evidence != "semantic"
        index = torch.arange(boundary.numel(), device=boundary.device).view_as(boundary)
        self.boundary = (boundary.contiguous(), boundary.T.contiguous())
        self.index = (index, index.T.contiguous())
        self.semantic = semantic.flatten(1).contiguous()
        if rules.divergence == "bernoulli":
            self.top = top_classes(semantic).flatten()
            self.own = self.semantic.gather(0, self.top[None])[0].clamp(LOWEST, HIGHEST)
        else:
            self.entropy = torch.special.entr(self.semantic).sum(0)

    def pairs(self, view: int, longest_first: bool = False) -> Iterator[_Pairs]:
        """Every pair of different pixels once, over both views; exact diagonals belong to view 0."""
        height, width = self.index[view].shape
        device = self.semantic.device
        reaches = range(width - 1, 0, -1) if longest_first else range(1, width)
        for reach in reaches:
            most = min(height - 1, reach - view)
            shift = torch.arange(-most, most + 1, device=device)
            rows = height - shift.abs()
            start = (rows.cumsum(0) - rows + shift.clamp_max(0)).repeat_interleave(rows)
            row = torch.arange(len(start), device=device) - start
            yield _Pairs(view, row, shift.repeat_interleave(rows), reach)

    def line_maxima(self, pairs: _Pairs, with_steps: bool = False) -> tuple[Tensor, Tensor | None]:
        """D of each pair, and at which step from `here` (-1: no boundary on the line)."""
        boundary = self.boundary[pairs.view]
        here, there = pairs.here(boundary), pairs.there(boundary)
        if self.own_boundary:
            highest = torch.maximum(here, there)
            steps = torch.where(there > here, pairs.reach, 0).short() if with_steps else None
        else:
            highest = torch.zeros_like(here)
            steps = torch.full_like(here, -1, dtype=torch.short) if with_steps else None
        if self.rules.evidence == "semantic":
            return highest, steps
        for step in range(1, pairs.reach):
            near, fraction = _crossing(pairs.shift, step, pairs.reach, boundary.dtype)
            near += pairs.row
            column = boundary[:, step : step + highest.shape[1]]
            above = column.index_select(0, near)
            below = column.index_select(0, near.add_(1).clamp_max_(len(boundary) - 1))
            # in place: what counts here is memory traffic
            value = below.sub_(above).mul_(fraction[:, None]).add_(above)
            if steps is not None:
                steps.masked_fill_(value > highest, step)
            torch.maximum(highest, value, out=highest)
        return highest, steps

    def variation_bound(self, pairs: _Pairs) -> Tensor | None:
        """Whether the class distributions are near enough to join: E >= (sum |C_i - C_j| / 2)^2 / (2 ln 2)."""
        if self.rules.evidence == "boundary" or self.rules.divergence == "bernoulli":
            return None
        most = 2 * math.sqrt(2 * math.log(2) * (1 - self.rules.threshold)) + SLACK
        total = torch.zeros((), device=self.semantic.device, dtype=self.semantic.dtype)
        for probability in self.semantic:
            grid = probability.view_as(self.boundary[0])
            grid = grid.T if pairs.view else grid
            total = (pairs.here(grid) - pairs.there(grid)).abs_().add_(total)
        return total <= most

    def divergence(self, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """E of each pair (pixel numbers) as seen from `here`, and as seen from `there`."""
        if self.rules.evidence == "boundary":
            none = torch.zeros(len(here), device=here.device, dtype=self.semantic.dtype)
            return none, none
        if self.rules.divergence == "bernoulli":
            return self._bernoulli(here, there)[0], self._bernoulli(there, here)[0]
        joint = (self.entropy[here] + self.entropy[there]).mul_(-0.5)
        for probability in self.semantic:
            joint += torch.special.entr((probability[here] + probability[there]).mul_(0.5))
        joint = joint.div_(math.log(2)).clamp_(0, 1)
        return joint, joint

    def _bernoulli(self, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        row = self.own[here]
        column = self.semantic[self.top[here], there].clamp(LOWEST, HIGHEST)
        middle = (row + column) / 2

        def both(probability: Tensor) -> Tensor:
            return torch.special.entr(probability) + torch.special.entr(1 - probability)

        return (both(middle) - (both(row) + both(column)) / 2).clamp_(min=0), row, column

    def give_boundary(
        self, total: _Sum, pairs: _Pairs, same: Tensor, steps: Tensor | None, forth: Tensor, back: Tensor
    ) -> None:
        """Add to `total` the gradient of pairs whose D has the gradients `forth` and `back`.

        It goes to the two pixels that the maximum lies between.
        """
        assert steps is not None
        index = self.index[pairs.view]
        row, column = same.nonzero(as_tuple=True)
        step = steps[same].long()
        if self.own_boundary:
            # both ends are the maximum: the way back starts from the other one
            here, there = pairs.select(self.boundary[pairs.view], same)
            tied = (step == 0) & (here == there)
            total.add(pairs.there(index)[same], back.where(tied, 0))
            back = back.masked_fill(tied, 0)
        weight = forth + back
        on_line = step >= 0
        row, column, step, weight = row[on_line], column[on_line], step[on_line], weight[on_line]
        whole, fraction = _crossing(pairs.shift[row], step, pairs.reach, weight.dtype)
        near, column = pairs.row[row] + whole, column + step
        total.add(index[near, column], weight * (1 - fraction))
        total.add(index[(near + 1).clamp_max(len(index) - 1), column], weight * fraction)

    def give_semantic(self, total: _Sum, here: Tensor, there: Tensor, forth: Tensor, back: Tensor) -> None:
        """Add to `total` the class gradient of pairs whose E has the gradients `forth` and `back`."""
        if self.rules.evidence == "boundary":
            return
        if self.rules.divergence == "bernoulli":
            for one, other, weight in ((here, there, forth), (there, here, back)):
                _, row, column = self._bernoulli(one, other)
                middle = torch.logit((row + column) / 2)
                for pixel, probability in ((one, row), (other, column)):
                    slope = 0.5 * weight * (torch.logit(probability) - middle)
                    slope.masked_fill_((probability <= LOWEST) | (probability >= HIGHEST), 0)
                    total.add(self.top[one] * len(self.top) + pixel, slope)
            return
        weight = (forth + back) * (0.5 / math.log(2))
        for label, probability in enumerate(self.semantic):
            first = label * len(probability)
            one, other = probability[here], probability[there]
            middle = ((one + other) / 2).clamp_(min=TINY).log_()
            total.add(first + here, one.clamp_(min=TINY).log_().sub_(middle).mul_(weight))
            total.add(first + there, other.clamp_(min=TINY).log_().sub_(middle).mul_(weight))


def _crossing(shift: Tensor, step: Tensor | int, reach: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Row that a line has reached after some steps, relative to its start, and how far it is towards the next."""
    whole = torch.div(shift * step, reach, rounding_mode="floor")
    return whole, (shift * step - whole * reach).to(dtype) / reach


def _within(picture: _Picture, view: int, regions: Tensor) -> Iterator[tuple[_Pairs, Tensor]]:
    """Rows with pairs inside a region, and which pairs these are."""
    grid = regions[picture.index[view]]
    for pairs in picture.pairs(view):
        same = pairs.here(grid) == pairs.there(grid)
        rows = same.any(1)
        if rows.any():
            yield pairs.keep(rows), same[rows]


def _joined(picture: _Picture, pairs: _Pairs, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel numbers of the wanted pairs whose affinity exceeds the threshold."""
    rules = picture.rules
    boundary = picture.boundary[pairs.view]
    most = 1 - rules.threshold + SLACK
    pairs, wanted = _narrow(pairs, wanted)
    near = picture.variation_bound(pairs)
    if near is not None:
        pairs, wanted = _narrow(pairs, wanted.logical_and_(near))
    if picture.own_boundary:
        wanted &= torch.maximum(pairs.here(boundary), pairs.there(boundary)) <= most
        pairs, wanted = _narrow(pairs, wanted)
    if not len(pairs.row):
        return pairs.select(picture.index[pairs.view], wanted)
    maxima = picture.line_maxima(pairs)[0]
    wanted &= maxima <= most
    here, there = pairs.select(picture.index[pairs.view], wanted)
    forth, back = picture.divergence(here, there)
    joined = (1 - maxima[wanted]) * (1 - (forth + back) / 2) > rules.threshold
    return here[joined], there[joined]


def _narrow(pairs: _Pairs, wanted: Tensor) -> tuple[_Pairs, Tensor]:
    rows = wanted.any(1)
    return pairs.keep(rows), wanted[rows]


def _unite(leaders: Tensor, here: Tensor, there: Tensor) -> None:
    """Lead the components of both pixels of each pair by the lower of their leaders."""
    while True:
        one, other = leaders[here], leaders[there]
        apart = one != other
        if not apart.any():
            return
        here, there, one, other = here[apart], there[apart], one[apart], other[apart]
        leaders.scatter_reduce_(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        while not torch.equal(leaders, onward := leaders[leaders]):
            leaders.copy_(onward)
