"""Sums over all pairs, taken one look at a time: memory grows by a fingerprint a picture (1 kB) and nothing else."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from segfocus.data.classes import IGNORE, Classes, Raw
from segfocus.data.doctor.findings import Place
from segfocus.data.doctor.listing import Item
from segfocus.data.doctor.look import UNMAPPED, Look, Values
from segfocus.data.similarity import Fingerprint

MOST_VALUES = 1000
"""different mask values that are kept; masks with more hold no classes"""
SMOOTHED = 20
"""a mask with more values that are no class was compressed with loss or resized smoothly"""


@dataclass
class Seen:
    """How often a mask value or a class was met."""

    files: int = 0
    pixels: int = 0
    edge: int = 0
    """its pixels near another label"""
    labelled: int = 0
    """labelled pixels in the masks that hold it"""
    labelled_edge: int = 0
    """of these near another label"""
    void: int = 0
    """ignored pixels in the masks that hold it"""
    void_edge: int = 0
    """of these near another label"""

    def __add__(self, other: Seen) -> Seen:
        return Seen(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def with_void(self) -> Seen:
        """The same where what was held for void (255) is a class."""
        return dataclasses.replace(
            self, labelled=self.labelled + self.void, labelled_edge=self.labelled_edge + self.void_edge
        )


@dataclass
class SplitCensus:
    """One split."""

    pairs: int = 0
    usable: int = 0
    """pairs without an error"""
    classes: dict[Raw, Seen] = field(default_factory=dict)
    """train id (or mask value, without classes) -> its pixels; 255 holds the ignored"""
    prints: list[Fingerprint] = field(default_factory=list)
    names: list[Item] = field(default_factory=list)
    """the pair of each fingerprint"""


class Census:
    """Takes looks one by one; what they add up to is in its fields.

    Args:
        classes: of the classes file; None: each value counts for itself and 255 as ignored.
    """

    def __init__(self, classes: Classes | None = None) -> None:
        self.classes = classes
        self.splits: dict[str, SplitCensus] = {}
        self.raw: dict[Raw, Seen] = {}
        """every mask value"""
        self.overflow = False
        """whether there were more values than are kept"""
        self.unmapped: dict[Raw, Seen] = {}
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.picture_kinds: Counter[str] = Counter()
        self.mask_kinds: Counter[str] = Counter()
        self.places: defaultdict[str, list[Place]] = defaultdict(list)
        """code of a problem -> files"""
        self.only_0_255: list[Item] = []
        """masks that hold 255 and else at most 0"""
        self.with_1 = 0
        """masks that hold 1 but not 255"""
        self.with_1_and_255 = 0
        self.spoilt: Counter[Raw] = Counter()
        """values of masks that lossy compression or smoothing spoilt, in pixels"""
        self._digests: dict[bytes, list[tuple[Item, bytes]]] = {}
        self.copies: dict[bytes, list[tuple[Item, bytes]]] = {}
        """digest of a picture that is there more than once -> its pairs and the digests of their masks"""

    def add(self, look: Look) -> None:
        """Count one pair."""
        split = self.splits.setdefault(look.item.split, SplitCensus())
        split.pairs += 1
        for code, why in look.broken:
            file = look.item.mask if code == "unreadable-mask" else look.item.picture
            self.places[code].append(Place(str(file), why))
        fine = not look.broken and self._sizes_agree(look)
        if look.size is not None:
            self._add_picture(look, split)
        if look.values is not None:
            self.mask_kinds[look.mask_kind] += 1
            fine &= self._add_mask(look, look.values, split)
        split.usable += fine

    def _sizes_agree(self, look: Look) -> bool:
        if look.size == look.mask_size:
            return True
        (height, width), (mask_height, mask_width) = look.size or (0, 0), look.mask_size or (0, 0)
        why = f"{mask_height}x{mask_width}, its picture {height}x{width}"
        if (height, width) == (mask_width, mask_height):
            why += " (turned)"
        self.places["size-mismatch"].append(Place(str(look.item.mask), why))
        return False

    def _add_picture(self, look: Look, split: SplitCensus) -> None:
        assert look.size is not None
        self.sizes[look.size] += 1
        self.picture_kinds[look.picture_kind] += 1
        if look.print is not None:
            split.prints.append(look.print)
            split.names.append(look.item)
        same = self._digests.setdefault(look.digest, [])
        same.append((look.item, look.mask_digest))
        if len(same) > 1:
            self.copies[look.digest] = same

    def _add_mask(self, look: Look, values: Values, split: SplitCensus) -> bool:
        """Whether training can use the mask."""
        file = str(look.item.mask)
        if self._spoilt(look, values):
            self.spoilt.update(dict(zip(values.raw, values.pixels.tolist(), strict=True)))
            self.places["lossy-mask" if look.lossy else "smoothed-mask"].append(
                Place(file, f"{len(values.raw)} different values")
            )
            return False
        if look.lossy:
            self.places["lossy-mask-kept"].append(Place(file))
        if len(values.raw) > MOST_VALUES:
            self.overflow = True
            self.places["too-many-values"].append(Place(file, f"{len(values.raw)} different values"))
            return False
        self._add_values(look.item, values)
        self._add_classes(file, values, split)
        outside = [value for value, one in zip(values.raw, values.train_ids, strict=True) if one == UNMAPPED]
        if self.classes is not None and outside:
            shown = ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else "")
            self.places["unmapped-values"].append(Place(file, shown))
            return False
        return True

    def _spoilt(self, look: Look, values: Values) -> bool:
        """Whether the values are no classes any more but shades between them."""
        if self.classes is not None:
            outside = int((values.train_ids == UNMAPPED).sum())
            return outside > SMOOTHED or (look.lossy and outside > 0)
        if look.lossy:
            return not set(values.raw) <= {0, 255}
        if len(values.raw) <= SMOOTHED or not all(isinstance(value, int) and value < 256 for value in values.raw):
            return False
        # without classes: nearly everything is one of two values, and those between hug the edges
        main = np.argsort(values.pixels)[-2:]
        rest, rest_edge = (counts.sum() - counts[main].sum() for counts in (values.pixels, values.edge))
        return bool(rest <= 0.2 * values.pixels.sum() and rest_edge >= 0.9 * rest)

    def _add_values(self, item: Item, values: Values) -> None:
        held = set(values.raw)
        if 255 in held and held <= {0, 255}:
            self.only_0_255.append(item)
        self.with_1 += 1 in held and 255 not in held
        self.with_1_and_255 += {1, 255} <= held
        for index, value in enumerate(values.raw):
            pixels, edge = int(values.pixels[index]), int(values.edge[index])
            tables = [self.raw]
            if self.classes is not None and values.train_ids[index] == UNMAPPED:
                tables.append(self.unmapped)
            for table in tables:
                if value not in table and len(table) >= MOST_VALUES:
                    self.overflow = True
                    continue
                table[value] = table.get(value, Seen()) + Seen(1, pixels, edge)

    def _add_classes(self, file: str, values: Values, split: SplitCensus) -> None:
        void = values.train_ids == IGNORE
        counted = ~void if self.classes is None else ~void & (values.train_ids != UNMAPPED)
        around = [int(counts[where].sum()) for where in (counted, void) for counts in (values.pixels, values.edge)]
        if around[0] == 0:
            self.places["nothing-labelled"].append(Place(file))
        for key, pixels, edge in self._by_class(values):
            if key in split.classes or len(split.classes) < MOST_VALUES:
                split.classes[key] = split.classes.get(key, Seen()) + Seen(1, pixels, edge, *around)

    def _by_class(self, values: Values) -> list[tuple[Raw, int, int]]:
        """(train id or value, pixels, edge pixels) of what the mask holds."""
        if self.classes is None:
            return list(zip(values.raw, values.pixels.tolist(), values.edge.tolist(), strict=True))
        rows = []
        for train_id in sorted(set(values.train_ids.tolist()) - {UNMAPPED}):
            chosen = values.train_ids == train_id
            rows.append((train_id, int(values.pixels[chosen].sum()), int(values.edge[chosen].sum())))
        return rows
