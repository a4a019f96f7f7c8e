"""CamVid in the SegNet split: street scenes, 11 classes and void.

Brostow, Fauqueur, Cipolla: Semantic object classes in video, 2009; split, classes and colours as published with
SegNet (Badrinarayanan, Kendall, Cipolla, 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfocus.data.classes import Classes
from segfocus.data.known import load_classes
from segfocus.data.pairs import Pair, pair_folders
from segfocus.data.pictures import PICTURE_EXTENSIONS
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig

if TYPE_CHECKING:
    from segfocus.data.dataset import SegmentationDataset

HOLDOUT_CLIP = "0001TP"
"""frames of train whose names begin so are the tuning split `holdout`; the rest is `fit`"""


def classes(config: DataConfig | None = None) -> Classes:
    """The 11 classes; raw 11 (void) and 255 are ignored."""
    return load_classes("camvid")


def pairs(config: DataConfig, split: str) -> list[Pair]:
    """Pairs of a split: train, val, test as published; fit and holdout divide train by clip.

    Found below `config.root` as images/SPLIT + masks/SPLIT or as SPLIT + SPLITannot; where a list SPLIT.txt is
    there, it chooses and orders (a line is a name, a path, or two paths of which the first counts).

    Raises:
        SegfocusError: no root, neither layout, unpaired pictures, or a listed picture that is not there.
    """
    if not config.root:
        raise SegfocusError("camvid: expected the folder of the dataset, got none; try --data.root DIR")
    root = Path(config.root)
    if not root.is_dir():
        raise SegfocusError(f"camvid: expected data.root to be a folder, got {root}, which is none")
    published = "train" if split in ("fit", "holdout") else split
    layouts = [
        (root / "images" / published, root / "masks" / published),
        (root / published, root / f"{published}annot"),
    ]
    present = [layout for layout in layouts if layout[0].is_dir() and layout[1].is_dir()]
    if not present:
        raise SegfocusError(
            f"{root}: expected images/{published} and masks/{published}, or {published} and {published}annot, "
            "got neither; try the folder above or below as data.root"
        )
    found = pair_folders(*present[0])
    if (listing := root / f"{published}.txt").is_file():
        found = _listed(found, listing)
    if split == "fit":
        found = [pair for pair in found if not Path(pair.name).name.startswith(HOLDOUT_CLIP)]
    elif split == "holdout":
        found = [pair for pair in found if Path(pair.name).name.startswith(HOLDOUT_CLIP)]
    if not found:
        raise SegfocusError(f"{present[0][0]}: expected pictures of the split {split}, got none; try another split")
    return found


def dataset(
    config: DataConfig, split: str, classes: Classes, transform: Callable[..., Any] | None, seed: int
) -> SegmentationDataset:
    """The split as a dataset; see `pairs`."""
    from segfocus.data.dataset import SegmentationDataset

    return SegmentationDataset(pairs(config, split), classes, transform, seed, config.max_pixels)


def _listed(found: list[Pair], listing: Path) -> list[Pair]:
    by_name = {Path(pair.name).name: pair for pair in found}
    chosen = []
    for line in listing.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        file_name = line.split()[0].rstrip(";").replace("\\", "/").rsplit("/", 1)[-1]
        stem, dot, ending = file_name.rpartition(".")
        name = stem if dot and f".{ending.lower()}" in PICTURE_EXTENSIONS else file_name
        if name not in by_name:
            raise SegfocusError(f"{listing}: expected names of pictures that are there, got '{name}', which is not")
        chosen.append(by_name[name])
    return chosen
