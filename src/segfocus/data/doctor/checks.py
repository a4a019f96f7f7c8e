"""From what was counted to problems in words: what is wrong, what it does, what to try."""

from __future__ import annotations

from collections.abc import Iterable

from segfocus.data.classes import IGNORE, Classes
from segfocus.data.doctor.advice import is_thin, other_two_values
from segfocus.data.doctor.census import Census
from segfocus.data.doctor.findings import ClassRow, Place, Problem
from segfocus.data.doctor.listing import Item, many, problem, shared_recordings
from segfocus.data.similarity import same_views

_LEVELS = ("error", "warning", "note")
_SHOWN = 8

_FILES: dict[str, tuple[str, str]] = {
    "unreadable-picture": ("{n} cannot be read; training stops there; try to fetch or export them again", "picture"),
    "unreadable-mask": ("{n} cannot be read; training stops there; try to fetch or export them again", "mask"),
    "too-large": ("{n} with more pixels than --max-pixels; training refuses them; try --max-pixels N", "picture"),
    "size-mismatch": (
        "{n} of another size than their picture; training refuses them; try to export masks at the picture's size "
        "(pictures are turned upright as their EXIF data say)",
        "mask",
    ),
    "unmapped-values": (
        "{n} with values that the classes file does not have; training stops there{more}; try to add them to a "
        "class's raw values or to ignore",
        "mask",
    ),
    "too-many-values": (
        "{n} with more values than classes can be (254): instance ids or packed numbers; try the masks of class ids",
        "mask",
    ),
}


def problems_of(
    census: Census, classes: Classes | None, rows: tuple[ClassRow, ...], items: list[Item]
) -> list[Problem]:
    """All problems but those of pairing, errors first.

    Args:
        classes: given, or found in the masks; None where neither.
        rows: the table of `classes`.
    """
    found = [*_broken_files(census), *_mask_values(census, classes), *_copies(census), *_recordings(items)]
    if len(items) == 1:
        found.append(Problem("error", "single-pair", "a single pair: training needs two or more, one for validation"))
    found += [*_views(census), *_splits(census, rows), *_notes(census, rows)]
    return in_order(found)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Errors, warnings, notes."""
    return sorted(problems, key=lambda each: _LEVELS.index(each.level))


def _broken_files(census: Census) -> Iterable[Problem]:
    two_values = other_two_values(census)
    for code, (text, kind) in _FILES.items():
        places = census.places.get(code, [])
        if places and not (code == "unmapped-values" and two_values):
            more = _unmapped(census) if code == "unmapped-values" else ""
            yield problem("error", code, text.format(n=many(len(places), kind), more=more), places)


def _mask_values(census: Census, classes: Classes | None) -> Iterable[Problem]:
    if census.classes is not None and other_two_values(census):
        text = _two_values_text(census.classes)
        yield problem("error", "masks-0-255", text, [item.mask for item in census.only_0_255])
    elif census.only_0_255 and census.with_1 and not census.with_1_and_255 and set(census.raw) == {0, 1, IGNORE}:
        text = (
            f"{many(len(census.only_0_255), 'mask')} with 255 and no 1, {census.with_1} with 1 and no 255; if both are "
            "the same class, try to write all masks in one way: 255 would not be learnt as that class"
        )
        yield problem("warning", "masks-0-1-255", text, [item.mask for item in census.only_0_255])
    for code, how in (("lossy-mask", "lossy compression (JPEG)"), ("smoothed-mask", "smooth resizing or JPEG")):
        if places := census.places.get(code):
            text = (
                f"{many(len(places), 'mask')} spoilt by {how}: shades between the classes{_main_values(census)}; try "
                "to export them again as PNG, resized by nearest neighbour only"
            )
            yield problem("error", code, text, places)
    if places := census.places.get("lossy-mask-kept"):
        text = f"{many(len(places), 'mask')} in a lossy format, with right values so far; try PNG"
        yield problem("warning", "lossy-mask", text, places)
    if census.classes is not None or not census.raw:
        return
    largest = max((value for value in census.raw if isinstance(value, int)), default=0)
    if largest >= 1000 and classes is not None:
        text = (
            f"masks hold values up to {largest}: these look like ids of instances, each of which would become a class; "
            "try the masks of class ids, or --classes FILE"
        )
        yield Problem("warning", "instance-ids", text)
    if any(isinstance(value, tuple) for value in census.raw):
        shown = ", ".join(str(list(v)) for v in sorted(v for v in census.raw if isinstance(v, tuple))[:3])
        text = f"masks hold colours (such as {shown}), which need a classes file; try --classes with the one suggested"
        yield Problem("error", "colours-without-classes", text)
    elif classes is None and "too-many-values" not in census.places:
        values = sorted(value for value in census.raw if isinstance(value, int))
        shown = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
        count = f"{'over ' if census.overflow else ''}{len(set(values) - {IGNORE})}"
        text = f"expected masks of 2 to 254 values beside 255, got {count} ({shown}); try --classes FILE"
        yield Problem("error", "no-classes", text)


def _two_values_text(classes: Classes) -> str:
    lost = f"'{classes.names[1]}'" if classes.num_classes == 2 else "every class but one"
    what = "ignores 255" if {IGNORE, (IGNORE,) * 3} & set(classes.ignore) else "has no 255"
    suggested = " (as in the one suggested)" if classes.num_classes == 2 else ""
    return (
        f"masks hold 0 and 255, but the classes file {what}: {lost} would never be learnt; try raw: [255] for the "
        f"class that 255 stands for, and leave 255 out of ignore{suggested}"
    )


def _unmapped(census: Census) -> str:
    """Which values, how much they are, and whether all are shifted by one."""
    values = sorted(census.unmapped, key=lambda value: -census.unmapped[value].pixels)
    total = max(1, sum(seen.pixels for seen in census.raw.values()))
    shown = ", ".join(f"{value} ({census.unmapped[value].pixels / total:.2%})" for value in values[:_SHOWN])
    rest = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return f": {shown}{rest} of all pixels{_shifted(census)}"


def _shifted(census: Census) -> str:
    assert census.classes is not None
    known = {value for raw in census.classes.raw for value in raw if isinstance(value, int)}
    values = {value for value in census.raw if isinstance(value, int)} - {IGNORE}
    if known and values and min(values) == min(known) + 1 and max(values) == max(known) + 1:
        return "; all values lie one above those of the classes file: is its numbering off by one?"
    return ""


def _main_values(census: Census) -> str:
    total = sum(census.spoilt.values())
    main = [(value, count / total) for value, count in census.spoilt.most_common(3) if count >= 0.01 * total]
    return f" (most pixels are {', '.join(f'{value}: {share:.0%}' for value, share in main)})" if main else ""


def _copies(census: Census) -> Iterable[Problem]:
    across, conflicting, within = [], [], 0
    for copies in census.copies.values():
        (first, mask), rest = copies[0], copies[1:]
        for item, other_mask in rest:
            if item.split != first.split:
                across.append(Place(str(item.picture), f"also {first.picture}"))
            else:
                within += 1
            if mask and other_mask and mask != other_mask:
                conflicting.append(Place(str(item.mask), f"and {first.mask}"))
    if across:
        text = f"{many(len(across), 'picture')} in two splits, pixel by pixel: scores would be too good"
        yield problem("error", "copies-across-splits", text, across)
    if conflicting:
        text = f"{many(len(conflicting), 'pair')} with the picture of another but a different mask; try to keep one"
        yield problem("warning", "copies-with-other-masks", text, conflicting)
    if within:
        text = (
            f"{many(within, 'picture')} more than once in one split, pixel by pixel: they count more often than others"
        )
        yield Problem("note", "copies-within-split", text, count=within)


def _views(census: Census) -> Iterable[Problem]:
    names = list(census.splits)
    identical = {item.picture for copies in census.copies.values() for item, _ in copies}
    places = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            one, other = census.splits[first], census.splits[second]
            for row, column, likeness in same_views(one.prints, other.prints):
                picture, like = other.names[column].picture, one.names[row].picture
                if not (picture in identical and like in identical):
                    places.append(Place(str(picture), f"like {like} ({likeness:.2f})"))
    if places:
        text = (
            f"{many(len(places), 'picture')} nearly the same as one in another split (compressed again, resized, the "
            "next video frame): scores would be too good; look at them, and try to keep such pictures in one split"
        )
        yield problem("warning", "near-copies-across-splits", text, places)


def _recordings(items: list[Item]) -> Iterable[Problem]:
    series = shared_recordings(items)
    if not series:
        return
    shown = "; ".join(
        f"{name}* ({', '.join(f'{split} {count}' for split, count in splits.items())})"
        for name, splits in list(series.items())[:3]
    )
    rest = f" and {len(series) - 3} more" if len(series) > 3 else ""
    text = (
        f"{many(len(series), 'series')} of pictures in more than one split, by their names: {shown}{rest}. If these "
        "are frames of a video or pieces of a picture, scores would be too good; try to hold out whole series"
    )
    yield Problem("warning", "recordings-across-splits", text)


def _splits(census: Census, rows: tuple[ClassRow, ...]) -> Iterable[Problem]:
    never = [row.name for row in rows if not row.pixels]
    if never and len(never) < len(rows) and not other_two_values(census):
        text = f"{many(len(never), 'class')} without a single pixel: {_names(never)}; are the raw values right?"
        yield Problem("warning", "classes-that-never-occur", text)
    consequences = {"train": "cannot be learnt", "val": "not part of the mean IoU there"}
    for split in census.splits if len(census.splits) > 1 else ():
        absent = [row.name for row in rows if row.pixels and not row.files.get(split)]
        if absent:
            what = consequences.get(split, "not scored there")
            text = f"{many(len(absent), 'class')} missing from {split}, so {what}: {_names(absent)}"
            yield Problem("warning", f"classes-missing-from-{split}", text)
    empty = census.places.get("nothing-labelled", [])
    if empty and not (census.classes is None and set(census.raw) <= {0, IGNORE}):
        text = f"{many(len(empty), 'mask')} with nothing but ignored values: nothing is learnt from them"
        yield problem("warning", "nothing-labelled", text, empty)


def _notes(census: Census, rows: tuple[ClassRow, ...]) -> Iterable[Problem]:
    if census.classes is not None:
        thin = [row.name for row, marked in zip(rows, census.classes.thin, strict=True) if not marked and is_thin(row)]
        if thin:
            text = (
                f"{many(len(thin), 'class')} hardly anywhere over 3 px from an edge: {_names(thin)} (thin, or small); "
                "'thin: true' in the classes file has reports score them on their own"
            )
            yield Problem("note", "thin-classes", text)
    if len(census.mask_kinds) > 1:
        yield Problem("note", "several-kinds-of-masks", f"several kinds of masks: {_counted(census.mask_kinds)}")
    deep = sum(count for kind, count in census.picture_kinds.items() if "16-bit" in kind)
    if deep:
        yield Problem("note", "deep-pictures", f"{many(deep, 'picture')} of 16 bits, which are read as 8 bits")
    alpha = sum(count for kind, count in census.picture_kinds.items() if "RGBA" in kind or "alpha" in kind)
    if alpha:
        yield Problem("note", "transparency", f"{many(alpha, 'picture')} with transparency, which is dropped")
    grey = sum(count for kind, count in census.picture_kinds.items() if kind.startswith(("grey", "1-bit")))
    if 0 < grey < sum(census.picture_kinds.values()):
        text = f"{grey} of {sum(census.picture_kinds.values())} pictures grey, the rest in colour"
        yield Problem("note", "grey-and-colour", text)


def _names(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
