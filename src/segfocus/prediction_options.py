"""Options that several verbs share: how predictions are made, and checks of what was typed."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfocus.errors import SegfocusError, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def add_prediction_options(parser: ArgumentParser) -> None:
    """Add --window, --stride, --scales, --flip, --no-flip, --focus, --adaptive, --device; see `evaluation_changes`."""
    parser.add_argument("--window", metavar="HxW", help="sliding window in pixels, or 'none' [as in the recipe]")
    parser.add_argument(
        "--stride", metavar="HxW", help="step of the window in pixels [two thirds of a --window, else as in the recipe]"
    )
    parser.add_argument("--scales", metavar="X,X", help="scales whose predictions are averaged [as in the recipe]")
    parser.add_argument("--flip", action="store_true", help="average with the prediction of the mirrored picture")
    parser.add_argument("--no-flip", action="store_true", help="do not, whatever the recipe says")
    parser.add_argument(
        "--focus", metavar="K", help="FoR-Net: share of the regions that are refined, 0 to 1, or 'none' [as trained]"
    )
    parser.add_argument(
        "--adaptive",
        metavar="SHARE",
        help="FoR-Net: refine the fewest regions that hold this share of a picture's importance, or 'none'",
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps [auto]")


def evaluation_changes(values: Namespace) -> dict[str, Any]:
    """The given prediction options as fields of the recipe's evaluation section.

    Raises:
        SegfocusError: values that make no sense.
    """
    changes: dict[str, Any] = {}
    for name in ("window", "stride"):
        given = values.get(name)
        if given is not None:
            changes[name] = None if given == "none" else list(size(given, f"--{name}"))
    if "window" in changes and (changes["window"] is None or "stride" not in changes):
        changes["stride"] = None  # the recipe's belongs to the recipe's window
    if values.scales is not None:
        changes["scales"] = numbers(values.scales, "--scales", float)
    if values.flip and values.no_flip:
        raise SegfocusError("expected one of --flip and --no-flip, got both")
    if values.flip or values.no_flip:
        changes["flip"] = values.flip
    shares = {name: values.get(name) for name in ("focus", "adaptive") if values.get(name) is not None}
    if len(shares) == 2 and "none" not in shares.values():
        raise SegfocusError("expected one of --focus and --adaptive, got both; try one of them")
    if shares:
        changes |= {"focus": None, "adaptive": None}  # whatever the recipe says
    for name, text in shares.items():
        changes[name] = None if text == "none" else share(text, f"--{name}", least_is_zero=name == "focus")
    if values.get("boundary_distances") is not None:
        changes["boundary_distances"] = numbers(values.boundary_distances, "--boundary-distances", int)
    return changes


def numbers(text: str, option: str, kind: type) -> list[Any]:
    """Numbers above 0 of a text like 1,2,3."""
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        raise SegfocusError(f"{option}: expected numbers like 1,2,3, got '{text}'") from None
    if any(number <= 0 for number in found):
        raise SegfocusError(f"{option}: expected numbers above 0, got '{text}'")
    return found


def share(text: str, option: str, least_is_zero: bool = True) -> float:
    """A number from 0 (or above 0) to 1 of a text like 0.25."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1 or (found == 0 and not least_is_zero):
        low = "from 0" if least_is_zero else "above 0, up"
        raise SegfocusError(f"{option}: expected a share {low} to 1, for example 0.25, got '{text}'")
    return found


def size(text: str, option: str) -> tuple[int, int]:
    """Height and width of a text like 360x480."""
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SegfocusError(f"{option}: expected HEIGHTxWIDTH in pixels, for example 360x480, got '{text}'")
    return int(parts[0]), int(parts[1])


def pair(values: list[int] | None) -> tuple[int, int] | None:
    """A recipe's list of two as a pair."""
    return None if values is None else (values[0], values[1])


def one_of_each(text: str, valid: tuple[str, ...], option: str = "--save") -> tuple[str, ...]:
    """The different words of a text like labels,overlay, in order."""
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for kind in kinds:
        if kind not in valid:
            raise SegfocusError(f"{option}: unknown '{kind}'; {nearest(kind, valid)}")
    if not kinds:
        raise SegfocusError(f"{option}: expected some of {','.join(valid)}, got nothing")
    return kinds


def add_metrics_option(parser: ArgumentParser, default: str) -> None:
    """Add --metrics; see `chosen_metrics`."""
    from segfocus.metrics.suite import GROUPS

    parser.add_argument("--metrics", metavar="NAMES", help=f"basic, all, or some of {','.join(GROUPS)} [{default}]")


def chosen_metrics(text: str | None) -> str | list[str] | None:
    """Groups of scores of a text like regions,thin; None where none was given.

    Raises:
        SegfocusError: an unknown group.
    """
    from segfocus.metrics.suite import GROUPS

    if text is None or text in ("basic", "all"):
        return text
    return list(one_of_each(text, (*GROUPS, "basic", "all"), "--metrics"))


def add_max_pixels(parser: ArgumentParser) -> None:
    """Add --max-pixels; see `max_pixels_changes`."""
    parser.add_argument("--max-pixels", type=int, metavar="N", help="larger pictures are refused [as in the recipe]")


def max_pixels_changes(values: Namespace, changes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`changes` of a recipe with --max-pixels, where given, as data.max_pixels.

    Raises:
        SegfocusError: less than one pixel.
    """
    if values.max_pixels is None:
        return changes
    if values.max_pixels < 1:
        raise SegfocusError(f"--max-pixels: expected 1 or more, got {values.max_pixels}")
    return {**changes, "data": {**changes.get("data", {}), "max_pixels": values.max_pixels}}


def check_target(path: str | None, option: str, folder: bool = False) -> None:
    """Refuse a file (or with `folder` a folder) that could not be written, before the work that fills it.

    Raises:
        SegfocusError: it is of the other kind, or its folder is not there and cannot be made, or not be written.
    """
    if path is None:
        return
    target = Path(path)
    if target.exists() and target.is_dir() != folder:
        expected, got = ("a folder", "a file") if folder else ("a file", "a folder")
        raise SegfocusError(f"{option}: expected {expected} to write, got {path}, which is {got}; try another")
    above = target if folder else target.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        got = "cannot be written" if above.is_dir() else "is no folder"
        raise SegfocusError(f"{option}: expected a place to write {path}, got {above}, which {got}; try another")
