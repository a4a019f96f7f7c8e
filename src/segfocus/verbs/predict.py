"""`segfocus predict`: label pictures."""

from __future__ import annotations

from pathlib import Path

from segfocus.console import say
from segfocus.errors import SegfocusError
from segfocus.options import changed, parse, verb_parser
from segfocus.prediction_options import (
    add_max_pixels,
    add_prediction_options,
    evaluation_changes,
    max_pixels_changes,
    one_of_each,
    pair,
)
from segfocus.shipped import checkpoint_path, package_checkpoint

SAVES = ("labels", "color", "overlay", "probabilities")


def predict(arguments: list[str]) -> None:
    """Label pictures."""
    parser = verb_parser(
        "predict",
        "[CHECKPOINT] PICTURES... [--out DIR] [--save labels,color,overlay,probabilities]",
        "Labels pictures and folders of pictures at their own sizes. A first argument that ends in .safetensors is "
        "the checkpoint; without one, or with the name 'shipped', the weights that come with the package are used "
        "(street scenes, the 11 classes of CamVid, non-commercial use only).",
    )
    parser.add_argument("inputs", nargs="+", metavar="PICTURES", help="picture files or folders")
    parser.add_argument("--out", default="predictions", metavar="DIR", help="folder for the results [predictions]")
    parser.add_argument(
        "--save",
        default="labels,overlay",
        metavar="KINDS",
        help="labels (8-bit train ids), color, overlay, probabilities (npz float16) [labels,overlay]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results of earlier runs")
    add_max_pixels(parser)
    add_prediction_options(parser)
    values = parse(parser, arguments)
    checkpoint, pictures = _checkpoint_and_pictures(values.inputs)
    kinds = one_of_each(values.save, SAVES)
    from segfocus.checkpoint import read_metadata

    changes = max_pixels_changes(values, {"evaluation": evaluation_changes(values)})
    recipe = changed(read_metadata(checkpoint).recipe, changes)
    from segfocus.inference.folder import predict_folder
    from segfocus.inference.predictor import Predictor

    how = recipe.evaluation
    predictor = Predictor(
        checkpoint,
        window=pair(how.window),
        stride=pair(how.stride),
        scales=tuple(how.scales),
        flip=how.flip,
        focus=how.focus,
        adaptive=how.adaptive,
        device=values.device,
        max_pixels=recipe.data.max_pixels,
    )
    written = predict_folder(
        predictor, [Path(item) for item in pictures], Path(values.out), save=kinds, overwrite=values.overwrite
    )
    say(f"{len(written)} files in {values.out}")


def _checkpoint_and_pictures(inputs: list[str]) -> tuple[Path, list[str]]:
    folder = Path(inputs[0]).is_dir() and len(inputs) == 1  # of pictures, also where it is called as the weights are
    named = Path(inputs[0]) if folder else checkpoint_path(inputs[0])
    if named.suffix == ".safetensors":
        if len(inputs) == 1:
            raise SegfocusError(f"predict: expected pictures after the checkpoint {inputs[0]}, got none")
        return named, inputs[1:]
    return package_checkpoint(), inputs
