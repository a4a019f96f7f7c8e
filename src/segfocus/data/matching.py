"""Files of several folders that belong to one picture: matched by relative path without extension and ending."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segfocus.data.pictures import PICTURE_EXTENSIONS, list_files
from segfocus.errors import SegfocusError

_log = logging.getLogger("segfocus")
_SHOWN = 10


@dataclass(frozen=True)
class Source:
    """A folder with at most one file for each picture."""

    option: str
    """what names the folder on the command line: '--predictions'"""
    folder: Path
    suffix_option: str
    """what names the ending: '--prediction-suffix'"""
    suffix: str = ""
    """ending of the names (before the extension) that is left out; files without it are passed over"""
    extensions: Collection[str] = PICTURE_EXTENSIONS
    optional: bool = False
    """pictures without such a file are kept"""


@dataclass(frozen=True)
class Row:
    """One picture's files."""

    name: str
    """relative path without extension and ending, with /"""
    files: Mapping[str, Path]
    """option -> file; an optional one may be absent"""


def match_files(
    labels: Source, others: Sequence[Source], allow_missing: bool = False, word: str = "label"
) -> tuple[list[Row], list[str]]:
    """Rows of all labels that have a file in every source that is not optional, sorted by name.

    `word` is what messages call a file of `labels`.  Files without a label are left out with a notice, as are, with
    `allow_missing`, labels that lack one.

    Returns:
        The rows, and the names of the labels that lack a file.

    Raises:
        SegfocusError: a folder is missing or empty, no file has the ending, two files have one name, nothing matches,
            or (without `allow_missing`) labels lack a file: the first are listed.
    """
    found = {source.option: named_files(source) for source in (labels, *others)}
    wanted = found[labels.option]
    missing: dict[str, None] = {}
    for source in others:
        absent = [name for name in wanted if name not in found[source.option]]
        if len(absent) == len(wanted):
            raise _no_match(labels, wanted, source, found[source.option], word)
        if extra := len(found[source.option]) - len(wanted) + len(absent):
            _log.info(
                "%s: %d of %d files have no %s and are left out", source.folder, extra, len(found[source.option]), word
            )
        if not absent:
            continue
        if source.optional:
            _log.warning("%s: none for %d of %d %ss", source.folder, len(absent), len(wanted), word)
            continue
        if not allow_missing:
            advice = "--allow-missing to score the others alone" if word == "label" else "to add them"
            raise SegfocusError(
                f"{source.option} {source.folder}: expected a file for each of {len(wanted)} {word}s, got none for "
                f"{len(absent)}: {_listed(absent)}; try {advice}"
            )
        _log.warning("%s: %d of %d labels have no file there and are left out", source.folder, len(absent), len(wanted))
        missing |= dict.fromkeys(absent)
    rows = [
        Row(name, {option: files[name] for option, files in found.items() if name in files})
        for name in wanted
        if name not in missing
    ]
    if not rows:
        raise SegfocusError(f"{labels.folder}: expected a label with a file in every folder, got none")
    return rows, list(missing)


def named_files(source: Source) -> dict[str, Path]:
    """Relative path without extension and ending -> file, sorted; hidden files and folders are left out.

    Raises:
        SegfocusError: no such folder, no such files, none with the ending, or two with one name.
    """
    folder = source.folder
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise SegfocusError(f"{source.option} {folder}: expected a folder, got {got}; try its full path")
    paths = list_files(folder, source.extensions)
    if not paths:
        raise _empty(source)
    names: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not name.endswith(source.suffix):
            continue
        name = name.removesuffix(source.suffix)
        if name in names:
            raise SegfocusError(
                f"{source.option} {folder}: expected one file called '{name}', got {names[name].name} and {path.name}; "
                "try a folder of one kind"
            )
        names[name] = path
    if not names:
        raise SegfocusError(
            f"{source.suffix_option}: expected names that end in '{source.suffix}' in {folder}, got {len(paths)} files "
            f"such as '{paths[0].stem}'"
        )
    if passed := len(paths) - len(names):
        _log.info("%s: %d files do not end in '%s' and are passed over", folder, passed, source.suffix)
    return names


def guess_suffixes(firsts: list[str], seconds: list[str]) -> tuple[str, str] | None:
    """Endings of two folders' names without which most of some of the first would be among the second; None if there
    are none."""
    votes: Counter[tuple[str, str]] = Counter()
    some = firsts[:: max(1, len(firsts) // 20)]
    for first in some:
        for second in seconds:
            shared = _shared_start(first, second)
            if shared and not shared.endswith("/"):
                votes[first[len(shared) :], second[len(shared) :]] += 1
    if not votes:
        return None
    # several kinds of masks (label ids, instance ids) fit equally: label ids are what is meant
    most = max(votes.values())
    fitting = [ends for ends, count in votes.items() if count == most]
    best = min(fitting, key=lambda ends: (not ends[1].lower().endswith(("labelids", "label", "mask", "gt")), ends))
    return best if most * 2 > len(some) else None


def _shared_start(first: str, second: str) -> str:
    """What two names have in common from the left, without separators at its end."""
    different = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return first[: min(len(first), len(second)) if different is None else different].rstrip("_-. ")


def _empty(source: Source) -> SegfocusError:
    others = list_files(source.folder)
    got = f"{len(others)} other files such as {others[0].name}" if others else "an empty folder"
    lossy = any(path.suffix.lower() in (".jpg", ".jpeg") for path in others)
    advice = "PNG: JPEG changes values" if lossy else "the folder above or below"
    endings = ", ".join(sorted(source.extensions))
    return SegfocusError(f"{source.option} {source.folder}: expected files ({endings}), got {got}; try {advice}")


def _no_match(
    labels: Source, wanted: Collection[str], source: Source, found: Collection[str], word: str
) -> SegfocusError:
    """Says what the names look like on both sides, and the option that would make them equal where one would."""
    label, file = next(iter(wanted)), next(iter(found))
    shorter = sorted((name for name in found if label.startswith(name)), key=len)
    longer = sorted((name for name in found if name.startswith(label)), key=len)
    stems = {name.rsplit("/", 1)[-1] for name in found}
    if word != "label":  # their names have no option that leaves endings out
        advice = "to rename one of the two"
    elif shorter:
        advice = f"{labels.suffix_option} {label.removeprefix(shorter[-1])}"
    elif longer:
        advice = f"{source.suffix_option} {longer[0].removeprefix(label)}"
    elif label.rsplit("/", 1)[-1] in stems:
        advice = "the folder above or below: only the subfolders differ"
    elif endings := guess_suffixes(list(wanted), list(found)):
        options = zip((labels.suffix_option, source.suffix_option), endings, strict=True)
        advice = " ".join(f"{option} {ending}" for option, ending in options if ending)
    else:
        advice = f"{labels.suffix_option} or {source.suffix_option} to leave out endings"
    return SegfocusError(
        f"{source.option} {source.folder}: expected files called like the {word}s, such as '{label}', got such as "
        f"'{file}'; try {advice}"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
