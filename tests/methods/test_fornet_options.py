"""FoR-Net's options: what is refused, and that the recipe `fornet-reference` holds the released ones."""

import json

import numpy as np
import pytest

from segfocus.backbone import LiteBackbone
from segfocus.errors import SegfocusError
from segfocus.inference.predictor import Predictor
from segfocus.methods.base import check_choice
from segfocus.methods.fornet import RELEASED, FoRNet
from tests.methods.fornets import build


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 1.5}, "ratio: expected a share of the regions in .0, 1., got 1.5"),
        ({"ratio": [0.1, 0.2]}, "one a branch"),
        ({"class_weights": [1.0]}, "expected 4 values"),
        ({"ratio": -0.1}, "ratio: expected a share"),
        ({"ratio": float("nan")}, "ratio: expected a share"),
        ({"ratio": [0.1, 0.2, 0.3, 1.1]}, "ratio: expected a share"),
        ({"adaptive": 1.5}, "adaptive: expected a share of the importance"),
        ({"block": 0}, "block: expected a whole number from 1, got 0"),
        ({"branches": [(2, 1)]}, "odd kernels"),
        ({"branches": []}, r"branches: expected one .kernel, dilation. or more, got \[\]; try"),
        ({"branches": [(3, 0)]}, "branches: dilation: expected a whole number from 1, got 0"),
        ({"channels": 2}, "channels: expected 4 or more, got 2"),
        ({"channels": -1}, "channels: expected a whole number from 1, got -1"),
        ({"selector_channels": 0}, "selector_channels: expected a whole number"),
        ({"decoder_channels": 0}, "decoder_channels: expected a whole number"),
        ({"decoder_refine": 0}, "decoder_refine: expected a whole number"),
        ({"dice_weight": -1.0}, "dice_weight: expected a number from 0, got -1.0"),
        ({"selector_weight": float("nan")}, "selector_weight: expected a number"),
        ({"adaptive": 0}, "adaptive: expected a share of the importance above 0, got 0; try 0.9, or ratio 0"),
        ({"ratio": True}, "ratio: expected a share of the regions in .0, 1., got True"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        FoRNet(LiteBackbone(), 4, **options)


def assert_kinds_of_options_are_told_apart() -> None:
    """Run by `tests.unchecked`, as annotations are not checked where the package is used."""
    for options, words in (
        ({"branches": [3]}, r"branches: expected .kernel, dilation. of each, got 3; try"),
        ({"branches": 3}, r"branches: expected one .kernel, dilation. or more, got 3; try"),
        ({"auxiliary_weight": "much"}, "auxiliary_weight: expected a number"),
        ({"ratio": None, "adaptive": 0.5}, "ratio: expected a share of the regions in .0, 1., got None; try 0.25"),
        ({"ratio": "0.5"}, "ratio: expected a share of the regions in .0, 1., got '0.5'"),
        ({"adaptive": "0.5"}, "adaptive: expected a share of the importance in .0, 1., got '0.5'"),
    ):
        with pytest.raises(ValueError, match=words):
            build(**options)
    for focus, adaptive, words in (
        ("0.5", None, "^focus: expected .* got '0.5'"),
        ([0.5], None, r"^focus: expected .* got \[0.5\]"),
        (None, True, "^adaptive: expected .* got True"),
    ):
        with pytest.raises(SegfocusError, match=words):
            Predictor(build(), focus=focus, adaptive=adaptive)
    assert build(ratio=np.float32(0.25)).ratios == [0.25] * 4
    assert build(ratio=np.array([0.25, 0.5, 0.5, 1.0])).ratios == [0.25, 0.5, 0.5, 1.0]


def test_kinds_of_options_are_told_apart(unchecked):
    failure = unchecked.failure("tests.methods.test_fornet_options:assert_kinds_of_options_are_told_apart")
    assert not failure, failure


def test_wrong_choices_are_refused():
    check_choice("neck", "sum", ("sum", "deepest"))
    with pytest.raises(ValueError, match="neck: expected one of sum, deepest, got 'widest'"):
        check_choice("neck", "widest", ("sum", "deepest"))


def test_fewer_than_two_classes_are_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        FoRNet(LiteBackbone(), 1)


def test_the_reference_recipe_is_the_released_network():
    from segfocus.recipe import load_recipe

    model = load_recipe("fornet-reference").model
    assert (model.backbone, model.backbone_options) == ("resnet101", {"output_stride": 8})
    as_lists = json.loads(json.dumps(RELEASED))
    assert model.options == as_lists
