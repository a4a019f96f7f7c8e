"""Predictions of many pictures as files: each written whole or not at all, resumable, bad files named at the end."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segfocus.data.classes import Classes
from segfocus.data.pictures import list_pictures
from segfocus.errors import SegfocusError
from segfocus.files import write_bytes
from segfocus.inference.output_folder import begin, check_kinds, work_through, written_since
from segfocus.inference.prediction import Prediction
from segfocus.inference.predictor import Predictor

SUFFIXES = {"labels": ".png", "color": ".png", "overlay": ".jpg", "probabilities": ".npz"}
"""What can be saved: folder below the output folder -> file type."""


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
    kinds = check_kinds(save, SUFFIXES)
    for kind in kinds:
        if kind in ("color", "overlay") and predictor.classes is None:
            raise SegfocusError(f"save: '{kind}' needs classes with colours; try Predictor(model, classes)")
    named = _named_pictures([Path(path) for path in pictures], out)
    files = {name: [out / kind / f"{name}{SUFFIXES[kind]}" for kind in kinds] for name in named}
    every = [file for group in files.values() for file in group]
    begun = begin(out, every, named.values(), predictor.settings(), overwrite)

    def predict(name: str) -> list[Path]:
        prediction = predictor(named[name], name)
        for kind, file in zip(kinds, files[name], strict=True):
            write_bytes(file, encode(prediction, kind, predictor.classes))
        return files[name]

    return work_through(
        {name: [path] for name, path in named.items()},
        begun,
        lambda name, since: all(written_since(file, since) for file in files[name]),
        predict,
        unit="picture",
        purpose="predicted",
        progress=progress,
        on_error=on_error,
    )


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
