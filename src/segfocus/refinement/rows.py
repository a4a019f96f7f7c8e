"""One row of the leaderboard from its refiner to its numbers: predictions, scores, time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from segfocus.errors import SegfocusError
from segfocus.ops.patch_classes import apply_class_bias, best_class_bias
from segfocus.ops.patches import apply_thresholds, best_thresholds_of_all
from segfocus.refinement.cost import OtherWork, Stopwatch, parameters, peak_memory
from segfocus.refinement.entrants import ORACLE, Entrant
from segfocus.refinement.parts import Mapped, Part
from segfocus.refinement.scores import RowScores

if TYPE_CHECKING:
    from segfocus.inference.refiner import MapRefiner

_TINY = np.float32(1e-7)


class Refined(NamedTuple):
    """What a row says about one picture."""

    labels: UInt8[np.ndarray, "height width"]
    probabilities: Float32[np.ndarray, "classes height width"]


Refine = Callable[[str, Mapped], Refined]
"""name and files of a picture -> prediction"""


def base_prediction(mapped: Mapped) -> Refined:
    """The map as given: its most probable class, of two the foreground above 0.5, as refiners cut theirs."""
    values = mapped.probabilities
    labels = values[1] > 0.5 if len(values) == 2 else values.argmax(0)
    return Refined(labels.astype(np.uint8), values)


def open_refiner(checkpoint: Path, device: str) -> MapRefiner:
    """The refiner of a checkpoint, going through maps as its recipe says.

    Raises:
        SegfocusError: the checkpoint cannot be read.
    """
    from segfocus.checkpoint import load
    from segfocus.inference.refiner import MapRefiner

    loaded = load(checkpoint)
    how = loaded.recipe.evaluation
    return MapRefiner(
        loaded,
        window=how.window,
        stride=how.stride,
        resize=loaded.recipe.data.resize,
        shifts=how.shifts,
        device=device,
    )


def refine_by(checkpoint: Path, device: str) -> tuple[Refine, Any]:
    """`open_refiner` as a function, and its network."""
    refiner = open_refiner(checkpoint, device)

    def refine(name: str, mapped: Mapped) -> Refined:
        found = refiner(mapped.probabilities, mapped.picture, name)
        return Refined(found.labels, found.probabilities)

    return refine, refiner.model


def oracle(part: Part, patch: int) -> Refine:
    """What the best thresholds of patches make of each map, chosen by its truth: the upper bound of such thresholds.

    Of two classes those that are best for the foreground's IoU over all pictures (`score="pooled"`), exactly; of three
    or more the bias of each class that leaves most right pixels, found one class at a time.  Probabilities are moved as
    far as the cuts: by -logit(threshold).
    """
    if part.classes.num_classes > 2:

        def biased(name: str, mapped: Mapped) -> Refined:
            bias = best_class_bias(mapped.probabilities, mapped.truth, patch)
            labels = apply_class_bias(mapped.probabilities, bias, patch)
            moved = mapped.probabilities * np.exp(_enlarged(bias, patch, mapped.truth.shape))
            return Refined(labels, moved / np.maximum(moved.sum(0), _TINY))

        return biased
    maps = (part.read(name) for name in part.names)
    found = best_thresholds_of_all(((np.ascontiguousarray(p[1]), truth) for p, truth, _ in maps), patch)
    thresholds = dict(zip(part.names, found, strict=True))

    def cut(name: str, mapped: Mapped) -> Refined:
        own = thresholds[name]
        foreground = np.ascontiguousarray(mapped.probabilities[1])
        labels = apply_thresholds(foreground, own, patch).astype(np.uint8)
        odds = (1 - own) / own
        weighted = foreground * _enlarged(odds[None], patch, labels.shape)[0]
        moved = weighted / np.maximum(weighted + 1 - foreground, _TINY)
        return Refined(labels, np.stack([1 - moved, moved]))

    return cut


def base_row(part: Part, progress: Iterable[str]) -> tuple[RowScores, dict[str, Any]]:
    """Scores of the maps as given.  Pictures whose files cannot be read are left out: `about["failures"]` tells why."""
    row, failures = RowScores(part.classes), []
    for name in progress:
        try:
            mapped = part.read(name)
            found = base_prediction(mapped)
            row.add(name, mapped.truth, found.labels, found.probabilities, found.labels)
        except SegfocusError as error:
            failures.append(str(error) if name in str(error) else f"{name}: {error}")
    if not row.pictures:
        shown = f", first: {failures[0]}" if failures else ""
        raise SegfocusError(f"{part.folders.maps}: expected maps that can be scored, got none of {len(part)}{shown}")
    return row, {"failures": failures}


def scored_row(
    entrant: Entrant, part: Part, checkpoint: Path | None, patch: int, device: str, progress: Iterable[str]
) -> tuple[RowScores, dict[str, Any]]:
    """Scores and cost of a row that is not the base; every picture of `part` can be read.

    Raises:
        SegfocusError: the refiner cannot be made, or refuses a map.
    """
    about: dict[str, Any] = {}
    if entrant.name == ORACLE:
        refine, model = oracle(part, patch), None
    else:
        assert checkpoint is not None
        refine, model = refine_by(checkpoint, device)
        about["parameters"] = parameters(model)
    row, watch, others = RowScores(part.classes), Stopwatch(), OtherWork()
    largest: tuple[int, str] = (0, "")
    for name in progress:
        mapped = part.read(name)
        if not row.pictures:
            refine(name, mapped)  # what happens at first use alone is not timed
        watch.start()
        found = refine(name, mapped)
        watch.stop(mapped.truth.size)
        row.add(name, mapped.truth, found.labels, found.probabilities, base_prediction(mapped).labels)
        largest = max(largest, (mapped.truth.size, name))
    if model is None:  # chosen by the truth: its time and memory tell nothing
        return row, about
    about |= {"ms_per_megapixel": watch.per_megapixel(), "other_work": others.share()}
    about |= {"peak_memory": None, "peak_memory_of": None, "memory_failure": None}
    mapped = part.read(largest[1])
    try:
        peak = peak_memory(checkpoint or Path(), mapped.probabilities, mapped.picture, device)
    except SegfocusError as error:
        return row, about | {"memory_failure": str(error)}
    return row, about | {"peak_memory": peak["bytes"], "peak_memory_of": peak["kind"]}


def _enlarged(
    of_patches: Float32[np.ndarray, "channels rows columns"], patch: int, size: tuple[int, ...]
) -> Float32[np.ndarray, "channels height width"]:
    """Each patch's value at all of its pixels."""
    rows, columns = (np.arange(side) // patch for side in size)
    return of_patches[:, rows][:, :, columns].astype(np.float32)
