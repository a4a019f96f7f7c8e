"""Region construction compiled for the processor; the backend "numba" (extra `fast`).

Same definition as `definition.py`, without its N x N tables.  Two ways through the pairs, both exact:

* Grouping (`numba_pairs`) goes pair by pair and stops as early as it may.  F = (1 - D)(1 - E) exceeds the threshold
  only where both factors do, so a line ends at its first sample above 1 - threshold, and classes are compared first by
  what needs no logarithm: E in bits is at least V^2 / (2 ln 2), where V, the total variation of the distributions, is
  at least the difference in any one class.
* Scores (`numba_blocks`) go displacement by displacement.  For a fixed displacement the weights of a line's samples are
  the same all over the picture, so that a step of the line is a shifted copy of a row: many neighbouring pairs at once,
  and only blocks that hold a pair of one region.  Lines closer to vertical do so in the transposed picture.
  Backward computes the lines again and keeps where their maxima lie.

The work is cut into parts that depend on the picture's size alone, each with sums of its own, added in order: the
result does not depend on the number of threads (PyTorch's: `torch.set_num_threads`).  The threads are Python's, whose
lock the compiled code does not hold, because numba's own may neither be entered twice at once nor survive a fork.

Where this differs from the definition: a maximum that lies at several places of a line gives its gradient, both ways,
to the first of them as seen from the left (from above on lines that run down); only where these are the two end points
does each direction give it to the pixel that it starts from, as there.

Source: Shen et al., "RANet: Region Attention Network for Semantic Segmentation", NeurIPS 2020, equations 1 to 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from segfocus.ops.regions import numba_blocks as blocks
from segfocus.ops.regions import numba_math as math
from segfocus.ops.regions import numba_pairs as pairs
from segfocus.ops.regions.definition import HIGHEST, LOWEST
from segfocus.ops.regions.rules import RegionRules

# as many threads can share the work; the gradients of many classes get fewer parts, each needing a map a class
_PARTS = 16
_GRADIENT_BYTES = 2**25


def group(
    boundary: Float[Tensor, "height width"], semantic: Float[Tensor, "classes height width"], rules: RegionRules
) -> Int[Tensor, " pixels"]:
    """Leader of each pixel: the first pixel it may join, or the lowest pixel of its component.

    Args:
        boundary: probability that a pixel lies on a boundary, in [0, 1].
        semantic: probability of each class, in [0, 1].
        rules: see `RegionRules`.

    Returns:
        Index of a pixel (row * width + column) for every pixel, at most its own.  It has no gradient.
    """
    lines, classes = _array(boundary), _array(semantic)
    counted, kind = _kinds(rules)
    leaders = np.arange(lines.size)
    limit = 1.0 - rules.threshold
    # with end points, a pixel that is itself on a boundary has no partner
    open_pixels = lines.ravel() < limit if counted == math.WHOLE_LINES else np.ones(lines.size, bool)
    pixels = np.flatnonzero(open_pixels)
    by_class = classes.reshape(len(classes), -1)[:, pixels]
    if kind == math.BERNOULLI:
        by_class = by_class.clip(LOWEST, HIGHEST)
    elif kind == math.NO_CLASSES:
        by_class = np.zeros((1, len(pixels)), lines.dtype)
    # Bernoulli: the mean of two divergences in nats, of which one is of this class, E >= (p - q)^2 / 2
    reach = 2 * limit**0.5 if kind == math.BERNOULLI else (2 * np.log(2) * limit) ** 0.5
    candidates = pairs.Pairs(
        boundary=np.pad(lines.ravel(), (0, lines.shape[1] + 1)),
        width=lines.shape[1],
        by_class=by_class,
        by_pixel=np.ascontiguousarray(by_class.T),
        entropy=-(by_class * _logarithms(by_class)).sum(0),
        top=by_class.argmax(0),
        pixels=pixels,
        rows=pixels // lines.shape[1],
        columns=pixels % lines.shape[1],
        threshold=lines.dtype.type(rules.threshold),
        reach=lines.dtype.type(reach),
        lines=counted,
        kind=kind,
    )
    if rules.grouping == "first":
        _share_out(lambda part: pairs.follow_first(leaders, candidates, part, _PARTS), _PARTS)
    else:
        pairs.join_all(leaders, candidates, True, 0, 1)
        forests = np.tile(leaders, (_PARTS, 1))
        _share_out(lambda part: pairs.join_all(forests[part], candidates, False, part, _PARTS), _PARTS)
        pairs.join_forests(leaders, forests)
    return torch.from_numpy(leaders).to(boundary.device)


def scores_forward(
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
) -> Float[Tensor, " pixels"]:
    """J_i, the mean of F_ij over the pixels j of i's region, i among them (equation 5).

    Args:
        boundary: probability that a pixel lies on a boundary, in [0, 1].
        semantic: probability of each class, in [0, 1].
        regions: region of each pixel, from 0 without gaps.
        rules: see `RegionRules`.

    Returns:
        Scores in [0, 1].
    """
    lines, members = _array(boundary), regions.detach().cpu().numpy()
    sums = np.ones(lines.shape)
    if _kinds(rules)[0] == math.WHOLE_LINES:
        sums -= lines
    for layout, turned in _layouts(lines, _array(semantic), members, rules):
        parts = np.zeros((_PARTS, layout.boundary.size))
        _share_out(_scores_part(parts, layout), _PARTS)
        sums += turned(parts.sum(0).reshape(layout.height + 1, -1)[:-1, : layout.width])
    scores = sums.ravel() / np.bincount(members)[members]
    return torch.from_numpy(scores.astype(lines.dtype)).to(boundary.device)


def scores_backward(
    gradient: Float[Tensor, " pixels"],
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "classes height width"]]:
    """Gradients of `scores_forward` to boundary and semantic probabilities, the regions being constant.

    Args:
        gradient: gradient of the scores.
        boundary: as in `scores_forward`.
        semantic: as in `scores_forward`.
        regions: as in `scores_forward`.
        rules: see `RegionRules`.

    Returns:
        Gradient of `boundary` and gradient of `semantic`.
    """
    lines, classes, members = _array(boundary), _array(semantic), regions.detach().cpu().numpy()
    weights = (_array(gradient) / np.bincount(members)[members].astype(lines.dtype)).reshape(lines.shape)
    to_lines, to_classes = np.zeros(lines.shape), np.zeros(classes.shape)
    if _kinds(rules)[0] == math.WHOLE_LINES:
        to_lines -= weights
    for layout, turned in _layouts(lines, classes, members, rules):
        count = int(np.clip(_GRADIENT_BYTES // max(layout.classes.nbytes, 1), 2, _PARTS))
        line_parts = np.zeros((count, layout.boundary.size))
        class_parts = np.zeros((count, layout.classes.size), classes.dtype)
        shares = _padded(turned(weights)).ravel()
        _share_out(_gradients_part(line_parts, class_parts, shares, layout), count)
        to_lines += turned(line_parts.sum(0).reshape(layout.height + 1, -1)[:-1, : layout.width])
        if layout.count:
            found = class_parts.sum(0).reshape(layout.height + 1, layout.count, -1)[:-1, :, : layout.width]
            to_classes += turned(found.transpose(1, 0, 2))
    return (
        torch.from_numpy(to_lines.astype(lines.dtype)).to(boundary.device),
        torch.from_numpy(to_classes.astype(classes.dtype)).to(boundary.device),
    )


def _scores_part(parts: np.ndarray, layout: blocks.Layout) -> Callable[[int], None]:
    return lambda part: blocks.add_scores(parts[part], layout, part, len(parts))


def _gradients_part(
    line_parts: np.ndarray, class_parts: np.ndarray, shares: np.ndarray, layout: blocks.Layout
) -> Callable[[int], None]:
    count = len(line_parts)
    return lambda part: blocks.add_gradients(line_parts[part], class_parts[part], shares, layout, part, count)


def _share_out(work: Callable[[int], None], parts: int) -> None:
    """Run every part, on as many threads as PyTorch would take."""
    threads = min(torch.get_num_threads(), parts)
    if threads == 1:
        for part in range(parts):
            work(part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(parts)))


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _kinds(rules: RegionRules) -> tuple[int, int]:
    """Which lines and which divergence the rules ask for."""
    lines = math.WHOLE_LINES if rules.end_points else math.INNER_LINES
    kind = math.BERNOULLI if rules.divergence == "bernoulli" else math.JENSEN_SHANNON
    return (
        math.NO_LINES if rules.evidence == "semantic" else lines,
        math.NO_CLASSES if rules.evidence == "boundary" else kind,
    )


def _logarithms(values: np.ndarray) -> np.ndarray:
    result = np.empty(values.shape, values.dtype)
    math.logarithms(np.ascontiguousarray(values).ravel(), result.ravel())
    return result


def _padded(array: np.ndarray, fill: int = 0) -> np.ndarray:
    """[..., rows, columns] with LANES columns and a row more, so that no block has to look where it ends."""
    margins = [(0, 0)] * (array.ndim - 2) + [(0, 1), (0, blocks.LANES)]
    return np.pad(array, margins, constant_values=fill)


def _layouts(
    lines: np.ndarray, classes: np.ndarray, members: np.ndarray, rules: RegionRules
) -> Iterator[tuple[blocks.Layout, Callable[[np.ndarray], np.ndarray]]]:
    """The picture, then the transposed picture; and what turns maps between the picture and each of them."""
    counted, kind = _kinds(rules)
    if kind == math.NO_CLASSES:
        classes = classes[:0]
    for transposed in (False, True):

        def turned(array: np.ndarray, transposed: bool = transposed) -> np.ndarray:
            return array.swapaxes(-1, -2) if transposed else array

        boundary = _padded(turned(lines))
        # a row's classes side by side: a block reads few pages
        padded = np.ascontiguousarray(_padded(turned(classes)).transpose(1, 0, 2))
        logs = _logarithms(padded)
        top = classes.argmax(0) if kind == math.BERNOULLI else np.zeros(lines.shape, np.int64)
        height, width = turned(lines).shape
        yield (
            blocks.Layout(
                boundary=boundary.ravel(),
                classes=padded.ravel(),
                logs=logs.ravel(),
                entropy=-(padded * logs).sum(1).ravel(),
                top=_padded(turned(top)).astype(np.uintp).ravel(),
                regions=_padded(turned(members.reshape(lines.shape)), -1).astype(np.int32).ravel(),
                height=height,
                width=width,
                count=len(classes),
                diagonal=not transposed,
                lines=counted,
                kind=kind,
            ),
            turned,
        )
