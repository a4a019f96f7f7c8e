"""Folders of anyone's probability maps refined: any size, resumable, each file whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from segfocus.data.arrays import ARRAY_EXTENSIONS
from segfocus.data.map_files import MapFile, PictureFile, open_map, open_picture
from segfocus.data.matching import Row, Source, match_files, named_files
from segfocus.data.pictures import MAX_PIXELS
from segfocus.data.probabilities import most_probable
from segfocus.errors import SegfocusError
from segfocus.inference.map_writers import labels_suffix, map_suffix, write_labels, write_map
from segfocus.inference.output_folder import begin, check_kinds, work_through, written_since
from segfocus.inference.predictor import out_of_memory
from segfocus.inference.refiner import MapRefiner

KINDS = ("labels", "probabilities")
"""what can be saved: folders below the output folder"""

_log = logging.getLogger("segfocus")


def refine_folder(
    refiner: MapRefiner,
    maps: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    save: Sequence[str] = KINDS,
    logits: bool = False,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    progress: bool = True,
    on_error: Callable[[Path, SegfocusError], None] | None = None,
) -> list[Path]:
    """Refine all maps of a folder into OUT/KIND/NAME.SUFFIX; returns the files written now, in order.

    NAME is a map's path without extension relative to `maps`.  Where the refiner works by tiles, `.npy` and TIFF files
    are read and written in bands of rows: memory follows the width of the map, not its height.

    Kinds: `labels` 8-bit PNG of train ids (TIFF for maps beyond 180 million pixels); `probabilities` in the format of
    the map (`segfocus.inference.map_writers.write_map`).

    OUT/predictions.json records weights and settings.  The same call again goes on where it stopped: maps whose files
    are all there, written since, and newer than map and picture are left alone.

    Args:
        maps: files as `segfocus.data.map_files` reads them, searched recursively.
        images: folder of pictures with the maps' names; not read by refiners that need none.
        logits: the maps hold logits.
        max_pixels: larger maps are refused where they are held whole: picture files, a refiner without tiles.
        overwrite: write all anew, whatever `out` holds.
        progress: a bar on standard error where that is a terminal.
        on_error: called with each map that could not be refined, and why.

    Raises:
        SegfocusError: before anything is written: no maps, unknown kind, no pictures for a refiner that reads them or
            none for some maps (they are listed), `out` is the maps' folder, inside it or around it, or holds other
            results.  At the end: some maps could not be refined (they are named; all others are done).
        CannotWriteError: at once; files written before are complete.
    """
    out, maps, images = Path(out), Path(maps), None if images is None else Path(images)
    kinds = check_kinds(save, KINDS)
    if images is not None and not refiner.model.reads_picture:
        _log.info("%s reads no pictures: --images is not used", type(refiner.model).__name__)
        images = None
    rows = _rows(refiner, maps, images)
    _check_apart(out, maps, images)
    endings = {"labels": (".png", ".tif"), "probabilities": None}

    def possible(row: Row, kind: str) -> list[Path]:
        """The files of a kind, of which one is written."""
        suffixes = endings[kind] or (map_suffix(row.files["--maps"]),)
        return [out / kind / f"{row.name}{suffix}" for suffix in suffixes]

    inputs = {row.name: list(row.files.values()) for row in rows}
    named = {row.name: row for row in rows}
    begun = begin(
        out,
        [file for row in rows for kind in kinds for file in possible(row, kind)],
        [path for paths in inputs.values() for path in paths],
        refiner.settings() | {"logits": logits},
        overwrite,
    )

    def done(name: str, since: int) -> bool:
        return all(any(written_since(file, since) for file in possible(named[name], kind)) for kind in kinds)

    dark: list[bool] = []  # of each map of integers: no value above 1

    def refine(name: str) -> list[Path]:
        row = named[name]
        source = open_map(row.files["--maps"], refiner.num_classes, logits=logits, max_pixels=max_pixels)
        picture = None
        if images is not None:
            picture = open_picture(row.files["--images"], max_pixels)
        files = {kind: possible(row, kind)[0] for kind in kinds}
        if "labels" in files:
            files["labels"] = out / "labels" / f"{name}{labels_suffix(source.size)}"
        highest = _refine_file(refiner, source, picture, files, max_pixels)
        if source.dtype.kind == "u" and source.channels == 1:
            dark.append(highest * np.iinfo(source.dtype).max < 1.5)
        return list(files.values())

    written = work_through(
        inputs, begun, done, refine, unit="map", purpose="refined", progress=progress, on_error=on_error
    )
    if dark and all(dark):
        _log.warning("%s: no value above 1 in %d maps of integers, which may be labels", maps, len(dark))
    return written


def _refine_file(
    refiner: MapRefiner, source: MapFile, picture: PictureFile | None, files: dict[str, Path], max_pixels: int
) -> float:
    """Writes the files; the highest probability of the foreground (the last class) that was read."""
    height, width = source.size
    if picture is not None and picture.size != source.size:
        raise SegfocusError(
            f"{picture.path}: expected the size of its map {source.path}, {height}x{width}, got "
            f"{picture.size[0]}x{picture.size[1]}; try the picture that was predicted"
        )
    if refiner.window is None and height * width > max_pixels:
        raise SegfocusError(
            f"{source.path}: expected at most {max_pixels} pixels in one piece, got {height * width} "
            f"({height}x{width}); try --window 512x512, or --max-pixels"
        )

    highest = 0.0

    def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray | None]:
        nonlocal highest
        values = source.read(rows, columns)
        highest = max(highest, float(values[-1].max()))
        return values, None if picture is None else picture.read(rows, columns)

    with ExitStack() as stack:
        kept = stack.enter_context(write_map(files["probabilities"], source)) if "probabilities" in files else None
        marked = stack.enter_context(write_labels(files["labels"], source.size)) if "labels" in files else None

        def write(rows: slice, values: np.ndarray) -> None:
            if kept is not None:
                kept(rows, values)
            if marked is not None:
                labels = (values[1] > 0.5).astype(np.uint8) if len(values) == 2 else most_probable(values)
                marked(rows, labels)

        try:
            if refiner.resize is None:
                refiner.refine_streamed(read, source.size, write)
            else:
                whole = slice(0, height)
                write(whole, refiner.refine(*read(whole, slice(0, width))))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            how = "--window 512x512" if refiner.window is None else "a smaller --window"
            raise SegfocusError(
                f"{source.path}: a map of {height}x{width} px did not fit into the memory of {refiner.device}; "
                f"try {how}"
            ) from error
    return highest


def _rows(refiner: MapRefiner, maps: Path, images: Path | None) -> list[Row]:
    """Maps and, where they are read, pictures."""
    source = Source("--maps", maps, "--maps", extensions=ARRAY_EXTENSIONS)
    if not refiner.model.reads_picture:
        return [Row(name, {"--maps": path}) for name, path in named_files(source).items()]
    if images is None:
        raise SegfocusError(
            f"{type(refiner.model).__name__}: expected the maps' pictures, got none; try --images FOLDER"
        )
    return match_files(source, [Source("--images", images, "--images")], word="map")[0]


def _check_apart(out: Path, maps: Path, images: Path | None) -> None:
    """Refuse an output folder in which results and inputs would be mixed."""
    chosen, read = out.resolve(), maps.resolve()
    if chosen == read or read in chosen.parents or chosen in read.parents:
        where = "is also" if chosen == read else "lies in" if read in chosen.parents else "holds"
        raise SegfocusError(f"output folder {out} {where} the maps' folder {maps}; try another --out")
    if images is not None and (chosen == images.resolve() or images.resolve() in chosen.parents):
        raise SegfocusError(f"output folder {out} is the pictures' folder {images} or lies in it; try another --out")
