"""Predictions of many pictures as files: each written whole or not at all, resumable, bad files named at the end."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from segfocus.data.classes import Classes
from segfocus.data.pictures import list_pictures
from segfocus.errors import SegfocusError, nearest
from segfocus.files import write_atomically, write_json
from segfocus.inference.predictor import Prediction, Predictor

SUFFIXES = {"labels": ".png", "color": ".png", "overlay": ".jpg", "probabilities": ".npz"}
"""What can be saved: folder below the output folder -> file type."""

_SETTINGS = "predictions.json"


def predict_folder(
    predictor: Predictor,
    pictures: Iterable[str | Path],
    out: str | Path,
    save: Sequence[str] = ("labels", "overlay"),
    overwrite: bool = False,
    progress: bool = True,
    on_error: Callable[[Path, SegfocusError], None] | None = None,
) -> list[Path]:
    """Predict pictures and write OUT/KIND/NAME.SUFFIX; returns the files written now, in order.

    NAME is a picture's path without extension relative to the folder that was given, or the file's own name.

    Kinds: `labels` 8-bit PNG of train ids; `color` PNG of the same ids with the classes' colours as its palette;
    `overlay` JPEG of the picture under the colours; `probabilities` npz, float16 array "probabilities"
    [classes, height, width].

    OUT/predictions.json records weights and settings.  The same call again goes on where it stopped: pictures whose
    files are all there, written since, and newer than the picture are left alone.

    Args:
        pictures: files and folders (searched recursively; an `out` below a folder is left out).
        overwrite: write all anew, whatever `out` holds.
        progress: a bar on standard error where that is a terminal.
        on_error: called with each picture that could not be predicted, and why.

    Raises:
        SegfocusError: before anything is written: nothing to predict, unknown kind, two pictures with one NAME, `out`
            holds a picture's own folder or other predictions.  At the end: some pictures could not be predicted (they
            are named; all others are done).  At once: a file cannot be written (files written before are complete).
    """
    out = Path(out)
    kinds = _check_kinds(save, predictor.classes)
    named = _named_pictures([Path(path) for path in pictures], out)
    files = {name: [out / kind / f"{name}{SUFFIXES[kind]}" for kind in kinds] for name in named}
    begun = _begin(out, named, files, predictor.settings(), overwrite)
    written: list[Path] = []
    failed: list[str] = []
    for name, path in tqdm(named.items(), unit="picture", file=sys.stderr, disable=None if progress else True):
        if all(_finished(file, max(begun, path.stat().st_mtime_ns)) for file in files[name]):
            continue
        try:
            prediction = predictor(path, name)
        except SegfocusError as error:
            failed.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            if on_error is not None:
                on_error(path, error)
            continue
        for kind, file in zip(kinds, files[name], strict=True):
            with write_atomically(file) as temporary:
                temporary.write_bytes(encode(prediction, kind, predictor.classes))
            written.append(file)
    if failed:
        more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise SegfocusError(
            f"{len(failed)} of {len(named)} pictures could not be predicted, the others are done: "
            f"{'; '.join(failed[:5])}{more}"
        )
    return written


def encode(prediction: Prediction, kind: str, classes: Classes | None = None) -> bytes:
    """A prediction as the contents of a file; see `predict_folder` for the kinds (`color`, `overlay` need classes)."""
    if kind == "labels":
        return _opencv_bytes(".png", prediction.labels)
    if kind == "probabilities":
        stream = io.BytesIO()
        with (
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("probabilities.npy", "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array(member, prediction.probabilities.astype(np.float16))
        return stream.getvalue()
    if classes is None:
        raise SegfocusError(f"{kind}: expected classes with colours, got none; try Predictor(model, classes)")
    if kind == "color":
        picture = Image.fromarray(prediction.labels, mode="P")
        picture.putpalette([value for color in classes.colors for value in color])
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return stream.getvalue()
    from segfocus.viz import overlay

    blended = overlay(prediction.picture, prediction.labels, classes)
    return _opencv_bytes(".jpg", cv2.cvtColor(blended, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])


def _opencv_bytes(suffix: str, picture: np.ndarray, options: Sequence[int] = ()) -> bytes:
    try:
        done, data = cv2.imencode(suffix, picture, list(options))
    except cv2.error:  # how OpenCV 4 refuses a size; 5 returns False
        done, data = False, picture
    if not done:
        raise SegfocusError(f"a picture of {picture.shape[1]}x{picture.shape[0]} px does not fit into a {suffix} file")
    return data.tobytes()


def _check_kinds(save: Sequence[str], classes: Classes | None) -> list[str]:
    kinds = list(dict.fromkeys(save))
    for kind in kinds:
        if kind not in SUFFIXES:
            raise SegfocusError(f"save: unknown kind '{kind}'; {nearest(kind, SUFFIXES)}")
        if kind in ("color", "overlay") and classes is None:
            raise SegfocusError(f"save: '{kind}' needs classes with colours; try Predictor(model, classes)")
    if not kinds:
        raise SegfocusError(f"save: expected some of {', '.join(SUFFIXES)}, got none")
    return kinds


def _named_pictures(inputs: Sequence[Path], out: Path) -> dict[str, Path]:
    """Output name -> picture, refusing two pictures for one name and an output folder that holds the pictures."""
    named: dict[str, Path] = {}
    seen: dict[str, Path] = {}
    below = out.resolve()
    for given in inputs:
        if not given.exists():
            raise SegfocusError(f"pictures: expected a file or a folder, got {given}, which does not exist")
        folder = given if given.is_dir() else given.parent
        if folder.resolve() == below:
            raise SegfocusError(f"output folder {out} is also the pictures' folder; try another --out")
        found = list_pictures(given) if given.is_dir() else [given]
        if given.resolve() in below.parents:  # what an earlier call wrote is no picture to predict
            found = [path for path in found if below not in path.resolve().parents]
        for path in found:
            name = path.relative_to(folder).with_suffix("").as_posix()
            earlier = seen.setdefault(name.casefold(), path)  # some file systems do not tell a.png from A.png
            if earlier.resolve() != path.resolve():
                raise SegfocusError(
                    f"{earlier} and {path} would both be written as '{name}'; try one folder at a time, or rename one"
                )
            if earlier is path:
                named[name] = path
    if not named:
        listing = ", ".join(map(str, inputs)) or "nothing"
        raise SegfocusError(f"pictures: expected at least one picture, got none in {listing}")
    return named


def _begin(
    out: Path, named: dict[str, Path], files: dict[str, list[Path]], settings: dict[str, Any], overwrite: bool
) -> int:
    """Refuse an output folder that must not be written; time stamp from which files there are of these settings."""
    if out.exists() and not out.is_dir():
        raise SegfocusError(f"output folder: expected a folder, got the file {out}; try another --out")
    pictures = {path.resolve() for path in named.values()}
    for file in (file for group in files.values() for file in group):
        if file.resolve() in pictures:
            raise SegfocusError(f"{file} is a picture to predict and would be overwritten; try another --out")
    record = out / _SETTINGS
    if not overwrite and record.is_file():
        if _read_settings(record) != settings:
            raise SegfocusError(
                f"{out} holds predictions of another network or with other settings; try another --out or --overwrite"
            )
    else:
        if not overwrite and any(file.exists() for group in files.values() for file in group):
            raise SegfocusError(f"{out} holds files that would be overwritten; try another --out or --overwrite")
        write_json(record, settings)
    return record.stat().st_mtime_ns


def _read_settings(record: Path) -> Any:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except ValueError:  # not ours, or edited: as good as other settings
        return None


def _finished(file: Path, since: int) -> bool:
    return file.is_file() and file.stat().st_mtime_ns >= since
