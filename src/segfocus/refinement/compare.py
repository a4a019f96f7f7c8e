"""The leaderboard of refiners on anyone's probability maps: what each gains, breaks and costs; a page and JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from segfocus.errors import SegfocusError
from segfocus.files import write_json, write_text
from segfocus.refinement.cost import processor, quiet
from segfocus.refinement.entrants import BASE, CONTROL, Entrant, choose
from segfocus.refinement.fitting import STEPS, Budget, fitted
from segfocus.refinement.parts import Folders, Part
from segfocus.refinement.rows import base_row, scored_row
from segfocus.refinement.scores import RowScores

_log = logging.getLogger("segfocus")
_SETTINGS = "settings.json"
LEADERBOARD = "leaderboard.json"
PATCH = 64
"""px of the oracle's patches"""


def compare(
    maps: str | Path,
    masks: str | Path,
    *,
    out: str | Path,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    methods: str | Sequence[str | Path] = "all",
    fit_maps: str | Path | None = None,
    fit_masks: str | Path | None = None,
    fit_images: str | Path | None = None,
    logits: bool = False,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    patch: int = PATCH,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Fit, train and score refiners on probability maps, and write OUT/leaderboard.json and OUT/report.html.

    Rows: `segfocus.refinement.entrants.ENTRANTS` and checkpoints of refiners.  What must be fitted or trained is so on
    the `fit_` folders; without them on a half of the maps, told by their names, and the other half is scored (all of
    them where nothing is to be fitted, as with checkpoints alone).  Each finished row is kept in OUT: the same call
    goes on where it stopped, and one with other `methods` makes new ones alone.

    Args:
        maps: probability maps of any network, a file a picture: npy, npz, PNG of 8 or 16 bits, TIFF; [height, width]
            of the foreground of two classes, or a channel a class.
        masks: true masks, called like the maps.
        out: folder of the page, the scores and the runs.
        images: pictures, called like the maps; refiners that read them are left out of "all" without.
        classes: classes file or name; None: found in the masks.
        methods: "all", or names of rows and checkpoint files (.safetensors) of refiners.
        fit_maps, fit_masks, fit_images: of the pictures to fit by.
        logits: the maps hold logits.
        minutes, steps: of each training; `STEPS` steps when neither is given.
        seed: of the trainings.
        patch: side of the oracle's patches, px.
        device: "auto", or any torch device.
        overwrite: make all rows anew, whatever comparison `out` holds.
        progress: bars on standard error where that is a terminal.

    Returns:
        What leaderboard.json holds: `rows`, best first, each with the keys of `RowScores.described` and {"name",
        "title", "method", "fitting", "checkpoint" (below `out`), "fit_seconds", "ms_per_megapixel", "other_work"
        (share of the processors that other processes had meanwhile), "peak_memory" (bytes), "parameters"};
        `thresholds_add`: ThreshNet's score less that of its control; `left_out` {row: why}; `failures`: one line for
        each file that was left out and each row that could not be made, so that an empty list says that all went well.

    Raises:
        SegfocusError: before anything is written: folders, classes, methods or numbers that cannot be used, `out` the
            maps' folder or holding another comparison.  Later: no map can be scored, a file cannot be written.
        KeyboardInterrupt: Ctrl-C; finished rows are kept.
    """
    out = Path(out)
    given = Folders(Path(maps), Path(masks), None if images is None else Path(images))
    fit_given = _fit_folders(fit_maps, fit_masks, fit_images, images)
    _check(out, given, fit_given, minutes, steps, patch)
    scored = Part.open(given, classes, logits)
    entrants, left_out = choose(methods, scored.classes.num_classes, images is not None)
    if fit_given is not None:
        fit_from = "maps of their own"
        fit = Part.open(fit_given, scored.classes, logits)
    elif any(entrant.fitting in ("counted", "trained") for entrant in entrants):
        fit_from = "half of the maps, told by their names"
        fit, scored = scored.split()
    else:
        fit_from = "nothing was fitted"
        fit = scored.only([])
    settings = {
        "scored": scored.digest(),
        "fit": fit.digest(),
        "classes": scored.classes.to_dict(),
        "logits": logits,
        "steps": None if minutes is not None else steps or STEPS,
        "minutes": minutes,
        "seed": seed,
        "patch": patch,
    }
    fresh = _begin(out, settings, overwrite)
    classes_file = out / "classes.yaml"
    write_text(classes_file, yaml.safe_dump(scored.classes.to_dict(), sort_keys=False))

    def bar(names: Sequence[str], words: str) -> Iterable[str]:
        return tqdm(names, words, unit="picture", file=sys.stderr, disable=None if progress else True, leave=False)

    rows = out / "rows"
    base = None if fresh else RowScores.load(rows / BASE, scored.classes)
    if base is None:
        base = base_row(scored, bar(scored.names, BASE))
        fit, unread = fit.readable(bar(fit.names, "reading"))
        base[1]["failures"] += unread
        base[0].save(rows / BASE, base[1] | {"fitted_by": fit.names})
    base_scores, base_about = base
    scored = scored.only(base_scores.pictures)
    fit = fit.only(base_about.get("fitted_by", fit.names))
    failures = list(base_about["failures"])
    budget = Budget(fit, out / "runs", classes_file, logits, steps, minutes, seed, device)
    counted = {BASE: base_scores}
    found = [_described(entrants[0], base_scores, base_scores, {})]
    for entrant in entrants[1:]:
        try:
            kept = None if fresh else RowScores.load(rows / entrant.name, scored.classes)
            if kept is None or kept[1].get("of") != _identity(entrant):
                kept = _made(entrant, budget, scored, patch, device, bar(scored.names, entrant.name))
                kept[0].save(rows / entrant.name, kept[1])
            counted[entrant.name] = kept[0]
            found.append(_described(entrant, kept[0], base_scores, kept[1]))
        except SegfocusError as error:
            failures.append(f"{entrant.name}: {error}")
            _log.warning("%s: %s", entrant.name, error)
        except KeyboardInterrupt:  # a training would say how to go on with itself alone
            raise KeyboardInterrupt(f"stopped at row {entrant.name}; the same command goes on from there") from None
    results = _results(found, scored, fit, fit_from, settings, left_out, failures)
    results["thresholds_add"] = _thresholds_add(counted)
    write_json(out / LEADERBOARD, results)
    from segfocus.refinement.page import write_page

    write_page(out / "report.html", results, scored, base_scores.classes, device)
    return results


def _made(
    entrant: Entrant, budget: Budget, scored: Part, patch: int, device: str, names: Iterable[str]
) -> tuple[RowScores, dict[str, Any]]:
    """One row, fitted and scored."""
    checkpoint, seconds = (None, None) if entrant.method is None else fitted(entrant, budget)
    row, about = scored_row(entrant, scored, checkpoint, patch, device, names)
    about |= {"of": _identity(entrant), "fit_seconds": seconds}
    if checkpoint is not None:
        below = entrant.checkpoint is None
        shown = checkpoint.relative_to(budget.folder.parent) if below else checkpoint.resolve()
        about["checkpoint"] = shown.as_posix()
    return row, about


def _identity(entrant: Entrant) -> str:
    """What tells a checkpoint from another one of the same name."""
    if entrant.checkpoint is None:
        return entrant.name
    return hashlib.sha256(entrant.checkpoint.read_bytes()).hexdigest()


def _described(entrant: Entrant, row: RowScores, base: RowScores, about: dict[str, Any]) -> dict[str, Any]:
    keys = ("checkpoint", "fit_seconds", "ms_per_megapixel", "other_work", "peak_memory", "peak_memory_of")
    return {
        "name": entrant.name,
        "title": entrant.title,
        "method": entrant.method,
        "fitting": entrant.fitting,
        **{key: about.get(key) for key in (*keys, "memory_failure", "parameters")},
        **row.described(base),
        "pictures": row.pictures,
    }


def _results(
    found: list[dict[str, Any]],
    scored: Part,
    fit: Part,
    fit_from: str,
    settings: dict[str, Any],
    left_out: dict[str, str],
    failures: list[str],
) -> dict[str, Any]:
    """The leaderboard, best first; rows without a score come last."""
    from segfocus.training.environment import describe_environment

    def order(row: dict[str, Any]) -> float:
        value = row["score"]["value"]
        return -1.0 if value is None else value

    shares = [row["other_work"] for row in found if row["other_work"] is not None]
    binary = scored.classes.num_classes == 2
    return {
        "maps": Path(*scored.folders.maps.parts[-2:]).as_posix(),
        "about": {**describe_environment(settings["seed"]), "processor": processor()},
        "score": "foreground_iou" if binary else "miou",
        "classes": list(scored.classes.names),
        "foreground": scored.classes.names[1] if binary else None,
        "n_pictures": len(scored),
        "n_fit_pictures": len(fit),
        "fit_from": fit_from,
        "quiet": quiet(max(shares)) if shares else None,
        "other_work": max(shares) if shares else None,
        "settings": {key: settings[key] for key in ("logits", "steps", "minutes", "seed", "patch")},
        "rows": sorted(found, key=order, reverse=True),
        "left_out": left_out,
        "failures": failures,
    }


def _thresholds_add(counted: dict[str, RowScores]) -> dict[str, Any] | None:
    """What ThreshNet scores beyond the same network without thresholds, {"value", "interval"}; None without both."""
    if not {"threshnet", CONTROL} <= set(counted):
        return None
    return counted["threshnet"].described(counted[CONTROL])["difference"]


def _fit_folders(
    maps: str | Path | None, masks: str | Path | None, pictures: str | Path | None, images: str | Path | None
) -> Folders | None:
    if maps is None and masks is None and pictures is None:
        return None
    if maps is None or masks is None:
        raise SegfocusError("compare: expected --fit-maps and --fit-masks together, got one of them; try both")
    if images is not None and pictures is None:
        raise SegfocusError("compare: expected --fit-images beside --images and --fit-maps, got none; try --fit-images")
    return Folders(Path(maps), Path(masks), None if images is None or pictures is None else Path(pictures))


def _check(
    out: Path, given: Folders, fit: Folders | None, minutes: float | None, steps: int | None, patch: int
) -> None:
    """Refuse folders that would be scored and fitted by, or written to and read from, and numbers that say nothing."""
    if minutes is not None and steps is not None:
        raise SegfocusError("compare: expected --minutes or --steps, got both; try one of them")
    for name, value, least in (("minutes", minutes, 0), ("steps", steps, 0), ("patch", patch, 0)):
        if value is not None and not value > least:
            raise SegfocusError(f"compare: expected {name} above 0, got {value}; try {'64' if name == 'patch' else 10}")
    if out.exists() and not out.is_dir():
        raise SegfocusError(f"compare: expected a folder for the report, got the file {out}; try another --out")
    if fit is not None and fit.maps.resolve() == given.maps.resolve():
        raise SegfocusError(
            f"compare: expected other maps to fit by than those that are scored, got {fit.maps} for both; "
            "leave --fit-maps out to fit by a half of them"
        )
    for folder in (*given, *(fit or ())):
        if folder is None:
            continue
        inner, outer = out.resolve(), folder.resolve()
        if inner == outer or outer in inner.parents:
            raise SegfocusError(f"output folder {out}: expected one outside of {folder}, which is read; try another")


def _begin(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Make the folder, or go on in it; whether the rows in it do not count.

    Raises:
        SegfocusError: it holds another comparison, or other files.
    """
    record = out / _SETTINGS
    settings = json.loads(json.dumps(settings))  # as it comes back from the file: keys become words, tuples lists
    if record.is_file() and not overwrite:
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != settings:
            other = [key for key in settings if not isinstance(before, dict) or before.get(key) != settings[key]]
            raise SegfocusError(
                f"{out}: expected a new folder or this comparison, got one with other {', '.join(other)}; "
                "try another --out, or --overwrite"
            )
        return False
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise SegfocusError(
            f"{out}: expected a new folder, got one that holds files; try another --out, or --overwrite"
        )
    if overwrite:
        _clear(out)
    write_json(record, settings)
    return True


def _clear(out: Path) -> None:
    """Remove the rows, runs and links of an earlier comparison, and nothing else."""
    for name in ("rows", "runs", "fit"):
        if (out / name).is_dir() and (out / _SETTINGS).is_file():
            shutil.rmtree(out / name)
