"""segfocus: semantic segmentation where it fails (boundaries, thin structures, small objects, uncertain regions).

The public names below are imported on first use, so that ``import segfocus`` (and ``segfocus --help``)
does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from segfocus.checkpoint import Checkpoint as Checkpoint
    from segfocus.checkpoint import load as load
    from segfocus.checkpoint import save as save
    from segfocus.data.classes import Classes as Classes
    from segfocus.inference.prediction import Prediction as Prediction
    from segfocus.inference.predictor import Predictor as Predictor
    from segfocus.inference.refiner import MapRefiner as MapRefiner
    from segfocus.output import Output as Output
    from segfocus.recipe import Recipe as Recipe
    from segfocus.recipe import load_recipe as load_recipe
    from segfocus.training.run import evaluate as evaluate
    from segfocus.training.run import train as train

_HOMES = {
    "Checkpoint": "segfocus.checkpoint",
    "Classes": "segfocus.data.classes",
    "MapRefiner": "segfocus.inference.refiner",
    "Output": "segfocus.output",
    "Prediction": "segfocus.inference.prediction",
    "Predictor": "segfocus.inference.predictor",
    "Recipe": "segfocus.recipe",
    "evaluate": "segfocus.training.run",
    "load": "segfocus.checkpoint",
    "load_recipe": "segfocus.recipe",
    "save": "segfocus.checkpoint",
    "train": "segfocus.training.run",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segfocus' has no attribute {name!r}; its public names: {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
