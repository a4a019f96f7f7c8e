"""`segfocus demo`: generated scenes, the CPU, nothing downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segfocus.options import changed
from segfocus.recipe import load_recipe

RECIPE = "fornet-synthetic"


def run_demo(
    out: str | Path | None = None, overwrite: bool = False, changes: dict[str, dict[str, Any]] | None = None
) -> Path:
    """Train the demo's recipe on the CPU and return the run folder.

    Args:
        out: run folder; a new one below runs/ when None.
        overwrite: replace an existing run folder.
        changes: recipe fields {section: {field: value}}.
    """
    from segfocus.training.run import train

    recipe = changed(load_recipe(RECIPE), {"training": {"accelerator": "cpu"}})
    return train(changed(recipe, changes or {}), out, overwrite=overwrite, name="demo")
