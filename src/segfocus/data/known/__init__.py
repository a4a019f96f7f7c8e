"""Classes files of well-known data sets, by name: what a classes file is asked for, `cityscapes` does too."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError, nearest


def known_classes() -> list[str]:
    """The names, sorted."""
    folder = resources.files(__name__)
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_classes(name_or_file: str | Path) -> Classes:
    """Classes of a file, or of a data set by its name (`known_classes`).

    Raises:
        SegfocusError: neither (nearest names offered), or a file that cannot be read.
    """
    name = str(name_or_file)
    if name in known_classes():
        with resources.as_file(resources.files(__name__) / f"{name}.yaml") as path:
            return Classes.load(path)
    if not Path(name).suffix and not Path(name).exists():
        raise SegfocusError(
            f"classes: expected a YAML file or a known set, got '{name}'; {nearest(name, known_classes())}"
        )
    return Classes.load(name_or_file)
