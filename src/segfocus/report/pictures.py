"""The pictures of a report: each streams through once, and only the worst few leave something behind.

Of each picture its counts stay, of the worst pictures and windows their small renderings, so the memory does not
grow with the number or the size of the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.metrics.confusion import VOID, confusion_matrix, scores_from_confusion
from segfocus.report.context import attention_image, draw_regions
from segfocus.report.crops import Crop, commonest_mistake, densest_windows, draw_crop, window_side
from segfocus.report.images import Entry, Image, draw, embed
from segfocus.report.offsets import OffsetScale, Pending, place_of_offsets
from segfocus.report.tables import hex_color
from segfocus.report.thresholds import draw_maps

_Kept = TypeVar("_Kept")
_Drawn = TypeVar("_Drawn", "Card", Crop)
CROP_KINDS = ("wrong", "thin", "broken", "fixed")
"""what windows are chosen by: wrong pixels, those of classes marked thin, and against a baseline"""
_ALIKE = 6
"""a kind of mistake gets at most one of so many windows (but at least one window)"""


@dataclass(frozen=True)
class Card:
    """What stays of one of the worst pictures."""

    name: str
    error_share: float
    miou: float
    confusions: list[dict[str, Any]]
    images: list[Image]
    offsets: Pending | None = None
    """its offsets, to be drawn"""


class Worst(Generic[_Kept]):
    """The items of the highest rank, with at most `alike` of one group; among equals the earlier one.

    Keeping the best so far is exact although items come one by one: sets with at most k items and at most m of a
    group form a matroid, where it is enough to drop the lowest of those that clash.
    """

    def __init__(self, most: int, alike: int | None = None) -> None:
        self.most = most
        self.alike = most if alike is None else alike
        self._seen = 0
        self._kept: list[tuple[float, int, str, _Kept]] = []

    def accepts(self, rank: float, group: str | None = None) -> bool:
        """Whether an item of this rank (and group, where it is known) would stay: ask before drawing it."""
        if self.most < 1:
            return False
        clash = [item[0] for item in self._kept if item[2] == group]
        if len(clash) >= self.alike:
            return rank > min(clash)
        return len(self._kept) < self.most or rank > min(item[0] for item in self._kept)

    def add(self, rank: float, item: _Kept, group: str = "") -> None:
        self._seen += 1
        self._kept.append((rank, -self._seen, group, item))
        clash = [kept for kept in self._kept if kept[2] == group]
        for rivals, limit in ((clash, self.alike), (self._kept, self.most)):
            if len(rivals) > limit:
                self._kept.remove(min(rivals, key=lambda kept: kept[:2]))
                break

    def items(self) -> list[_Kept]:
        """Highest rank first."""
        return [kept[3] for kept in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]


class Pictures:
    """Takes pictures one by one and keeps their counts and the renderings of the worst."""

    def __init__(self, classes: Classes, worst: int = 12, image_size: int = 640, crops: int | None = None) -> None:
        """
        Args:
            classes: names and colours.
            worst: pictures kept, those with the largest share of wrong pixels.
            image_size: px on the longer side of their renderings.
            crops: windows kept, those with the most wrong pixels; default as many as pictures.  Half as many again
                for pixels of classes marked thin, and with a baseline for broken and for fixed pixels.
        """
        self.classes = classes
        self.image_size = image_size
        self.confusion = np.zeros((classes.num_classes, classes.num_classes), np.int64)
        self.seen = 0
        self.offset_scale = OffsetScale()
        crops = worst if crops is None else crops
        self._cards: Worst[Card] = Worst(worst)
        self._crops: dict[str, Worst[Crop]] = {
            kind: Worst(crops if kind == "wrong" else (crops + 1) // 2, alike=max(1, crops // _ALIKE))
            for kind in CROP_KINDS
        }

    def add(self, entry: Entry) -> None:
        """Count one picture, and render it and its windows where they are among the worst so far.

        Raises:
            SegfocusError: labels that are no classes, or sizes that differ.
        """
        entry.check()
        counts = confusion_matrix(entry.target, entry.prediction, self.classes.num_classes)
        self.confusion += counts
        self.seen += 1
        if entry.offsets is not None:
            self.offset_scale.add(entry.offsets)
        labelled = int(counts.sum())
        if labelled == 0:
            return
        error_share = 1 - int(counts.trace()) / labelled
        if self._cards.accepts(error_share):
            self._cards.add(error_share, _card(entry, counts, error_share, self.classes, self.image_size))
        for kind, mask in _masks(entry, self.classes).items():
            self._add_crops(entry, kind, mask)

    def cards(self) -> list[Card]:
        """The worst pictures, worst first."""
        return [self._with_offsets(card) for card in self._cards.items()]

    def crops(self, kind: str = "wrong") -> list[Crop]:
        """The windows with the most pixels of a kind of `CROP_KINDS`, most first."""
        return [self._with_offsets(crop) for crop in self._crops[kind].items()]

    def alike(self, kind: str) -> int:
        """How many windows of one kind of mistake are kept at most."""
        return self._crops[kind].alike

    def _with_offsets(self, item: _Drawn) -> _Drawn:
        """With the offset picture, on the scale of all pictures so far."""
        longest = self.offset_scale.longest
        if item.offsets is None or longest is None:
            return item
        return replace(item, images=item.offsets.into(item.images, longest), offsets=None)

    def _add_crops(self, entry: Entry, kind: str, mask: np.ndarray) -> None:
        kept, side = self._crops[kind], window_side(*mask.shape)
        if not side or not kept.accepts(int(np.count_nonzero(mask)) / side**2):
            return
        guess = entry.baseline if kind == "fixed" and entry.baseline is not None else entry.prediction
        for window in densest_windows(mask, side):
            mistake = commonest_mistake(entry.target, guess, mask, window)
            if kept.accepts(window.share, mistake.group):
                kept.add(window.share, draw_crop(entry, window, self.classes, mistake), mistake.group)


def confusions_of(matrix: np.ndarray, classes: Classes, most: int) -> list[dict[str, Any]]:
    """The largest entries off the diagonal: classes with colours, pixels, share of all labelled pixels and of the
    true class's."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    found = []
    for truth, guess in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if pixels := int(wrong[truth, guess]):
            found.append(
                {
                    "truth": classes.names[truth],
                    "truth_color": hex_color(classes.colors[truth]),
                    "guess": classes.names[guess],
                    "guess_color": hex_color(classes.colors[guess]),
                    "pixels": pixels,
                    "share": pixels / int(matrix.sum()),
                    "of_class": pixels / int(matrix[truth].sum()),
                }
            )
    return found


def _masks(entry: Entry, classes: Classes) -> dict[str, np.ndarray]:
    """Pixels of each of `CROP_KINDS` that the entry can have."""
    labelled = entry.target != VOID
    wrong = (entry.prediction != entry.target) & labelled
    masks = {"wrong": wrong}
    if any(classes.thin):
        is_thin = np.zeros(256, bool)
        is_thin[: classes.num_classes] = classes.thin
        masks["thin"] = wrong & is_thin[entry.target]
    if entry.baseline is not None:
        before = (entry.baseline != entry.target) & labelled
        masks |= {"broken": wrong & ~before, "fixed": before & ~wrong}
    return masks


def _card(entry: Entry, counts: np.ndarray, error_share: float, classes: Classes, size: int) -> Card:
    shown = [*draw(entry, classes), *draw_regions(entry)]
    offsets = None
    if entry.offsets is not None:
        offsets = Pending(entry.offsets, place_of_offsets(shown), entry.target.shape, longest_side=size)
    if entry.importance is not None and entry.picture is not None:
        # drawn at the picture's own size, where the grid's cells are squares of whole pixels; shrunk with the others
        drawn = viz.heat_map(entry.importance, picture=entry.picture)
        if entry.selected is not None:
            drawn = viz.outline(drawn, entry.selected)
        shown.append(("importance", drawn, False))
    images = [embed(title, viz.fit(image, size), flat) for title, image, flat in shown]
    images += draw_maps(entry, classes, size)
    if (attention := attention_image(entry, classes, size)) is not None:
        images.append(attention)
    return Card(
        name=entry.name,
        error_share=error_share,
        miou=scores_from_confusion(counts)["miou"],
        confusions=confusions_of(counts, classes, 3),
        images=images,
        offsets=offsets,
    )
