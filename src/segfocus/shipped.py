"""The checkpoint that comes with the package, and the name that stands for it."""

from __future__ import annotations

from pathlib import Path

NAME = "shipped"
"""what may stand wherever a checkpoint file is expected"""
FILE = "weights/fornet_lite_camvid.safetensors"
"""inside the package; beside it its model card and its licence"""


def checkpoint_path(name_or_file: str | Path) -> Path:
    """The file of a checkpoint; 'shipped' is the package's own, unless a file here is called so."""
    path = Path(name_or_file)
    return package_checkpoint() if str(path) == NAME and not path.is_file() else path


def package_checkpoint() -> Path:
    """The file of the checkpoint that comes with the package."""
    return Path(__file__).parent / FILE
