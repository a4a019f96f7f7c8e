"""Who takes part in the leaderboard: the base, its bounds and rivals, our refiners, and checkpoints of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from segfocus.errors import SegfocusError, nearest

BASE = "base"
"""the row of the maps as given, with which all others are compared"""
ORACLE = "patch_oracle"
"""the row that chooses each patch's threshold by the truth"""
CONTROL = "threshnet_regular"
"""the row of ThreshNet's network trained on the true mask alone: what thresholds add is what ThreshNet has beyond it"""
Fitting = Literal["none", "counted", "trained", "given", "truth"]


@dataclass(frozen=True)
class Entrant:
    """One row of the leaderboard."""

    name: str
    """what names its files"""
    title: str
    """what the page calls it"""
    method: str | None = None
    """name in `segfocus.methods.METHODS`; None for the base and the oracle"""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """of the method, where they differ from the recipe's"""
    checkpoint: Path | None = None
    """weights that are there already"""

    @property
    def fitting(self) -> Fitting:
        """How its parameters are found: of a checkpoint they are given, the oracle takes them from the truth."""
        if self.name == ORACLE:
            return "truth"
        if self.checkpoint is not None:
            return "given"
        if self.method is None:
            return "none"
        from segfocus.methods import method_class

        return method_class(self.method).fitting  # type: ignore[union-attr]

    @property
    def reads_picture(self) -> bool:
        """Whether it needs the picture beside the map."""
        if self.method is None:
            return False
        from segfocus.methods import method_class

        return bool(getattr(method_class(self.method), "reads_picture", False))


ENTRANTS: dict[str, Entrant] = {
    entrant.name: entrant
    for entrant in (
        Entrant(BASE, "Base: maps as given"),
        Entrant("fixed", "Fixed cut at 0.5", "fixed"),
        Entrant("global_threshold", "One threshold for all", "global_threshold"),
        Entrant("temperature", "Temperature scaling", "temperature"),
        Entrant("platt", "Platt scaling", "platt"),
        Entrant(ORACLE, "Oracle: thresholds of patches"),
        Entrant("guided_filter", "Guided filter", "guided_filter"),
        Entrant("crf", "Mean-field CRF", "crf"),
        Entrant("patch_bias", "PatchBias", "patch_bias"),
        Entrant("threshnet", "ThreshNet", "threshnet"),
        Entrant(
            CONTROL,
            "ThreshNet, L_reg only",
            "threshnet",
            MappingProxyType({"region_weight": 0.0, "regular_weight": 1.0}),
        ),
        Entrant("offset_refiner", "OVeNet's offsets", "offset_refiner"),
        Entrant("focus_refiner", "FoR-Net's Top-K blocks", "focus_refiner"),
        Entrant("cascadepsp", "CascadePSP", "cascadepsp"),
    )
}
"""name -> row, in the order in which they are made"""
_BINARY = ("cascadepsp",)
"""methods for two classes alone"""
_PACKAGES = {"cascadepsp": "segmentation_refinement"}
"""methods that need a package -> its module"""


def choose(
    methods: str | Sequence[str | Path], num_classes: int, pictures: bool
) -> tuple[list[Entrant], dict[str, str]]:
    """The rows that were asked for, the base first, and those of "all" that cannot be made: name -> why.

    Args:
        methods: "all", or names of `ENTRANTS` and checkpoint files, in any order.
        num_classes: of the maps, which a checkpoint must have too.
        pictures: whether there are pictures.

    Raises:
        SegfocusError: an unknown name, a checkpoint that refines nothing or has other classes, or a row that was named
            and cannot be made.
    """
    named = [methods] if isinstance(methods, str | Path) else list(methods)
    chosen: dict[str, Entrant] = {BASE: ENTRANTS[BASE]}
    left_out: dict[str, str] = {}
    for given in named:
        if given == "all":
            continue
        entrant = ENTRANTS.get(str(given)) or _of_checkpoint(given, num_classes)
        if lacking := _lacking(entrant, num_classes, pictures):
            raise SegfocusError(f"methods: expected what '{entrant.name}' needs, got {lacking}; or leave it out")
        if chosen.get(entrant.name, entrant) != entrant:
            raise SegfocusError(f"methods: expected different names, got two called '{entrant.name}'; rename one file")
        chosen[entrant.name] = entrant
    if "all" in named:
        for entrant in ENTRANTS.values():
            if lacking := _lacking(entrant, num_classes, pictures):
                left_out[entrant.name] = lacking
            else:
                chosen[entrant.name] = entrant
    order = {name: place for place, name in enumerate(ENTRANTS)}
    return sorted(chosen.values(), key=lambda entrant: order.get(entrant.name, len(order))), left_out


def _lacking(entrant: Entrant, num_classes: int, pictures: bool) -> str:
    """Why a row cannot be made: 'no ...; try ...'; empty where it can."""
    package = _PACKAGES.get(entrant.method or "")
    if entrant.method in _BINARY and num_classes > 2:
        return f"no two-class task but {num_classes} classes; try crf"
    if package is not None and find_spec(package) is None:
        name = package.replace("_", "-")
        return f"no package {name}; try pip install {name}"
    if entrant.reads_picture and not pictures:
        return "no pictures; try --images DIR"
    return ""


def _of_checkpoint(given: str | Path, num_classes: int) -> Entrant:
    """A row for a checkpoint file, named by the last two parts of its path."""
    path = Path(given)
    if path.suffix != ".safetensors":
        raise SegfocusError(
            f"methods: unknown row '{given}'; {nearest(str(given), ['all', *ENTRANTS])}; or a .safetensors file"
        )
    from segfocus.checkpoint import read_metadata
    from segfocus.methods import method_class

    found = read_metadata(path)
    method = found.recipe.model.method
    if method_class(method).takes != "maps":
        raise SegfocusError(
            f"{path}: expected the checkpoint of a refiner, got one of {method}, which reads pictures alone; "
            "try segfocus refine export-maps to get its maps"
        )
    if found.classes.num_classes != num_classes:
        raise SegfocusError(
            f"{path}: expected a refiner for maps of {num_classes} classes, got one for {found.classes.num_classes}; "
            "try --classes"
        )
    name = "-".join(path.with_suffix("").parts[-2:]).replace("/", "")
    title = f"{method}: {'/'.join(path.with_suffix('').parts[-2:])}"
    return Entrant(name, title, method, checkpoint=path)
