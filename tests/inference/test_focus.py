"""How much FoR-Net refines: chosen for a prediction, put back afterwards, refused where there is no FoR-Net."""

import json

import numpy as np
import pytest
import torch

from segfocus.backbone import LiteBackbone
from segfocus.errors import SegfocusError
from segfocus.inference.focus import check_focus, focused
from segfocus.inference.predictor import Predictor
from segfocus.methods import build
from segfocus.methods.fornet import FoRNet
from segfocus.recipe import ModelConfig, Recipe
from segfocus.training.checks import check
from segfocus.training.prediction import predict
from tests.inference.stubs import ByBrightness


def network(**options) -> FoRNet:
    torch.manual_seed(0)
    return FoRNet(LiteBackbone(), 5, **options).eval()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (97, 161, 3)).astype(np.uint8)


@pytest.mark.parametrize("focus", [0.0, 0.1, 1.0])
def test_a_focus_gives_what_a_network_of_that_ratio_gives(picture, focus):
    found = Predictor(network(), focus=focus, device="cpu")(picture)
    expected = Predictor(network(ratio=focus), device="cpu")(picture)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.selected, expected.selected)
    assert found.selected.mean() == pytest.approx(focus, abs=0.1)


def test_predictors_of_one_network_do_not_disturb_each_other(picture):
    net = network(ratio=0.25)
    trained = Predictor(net, device="cpu")(picture).selected
    several = [Predictor(net, focus=focus, device="cpu") for focus in (0.0, 0.5, 1.0)]
    shares = [predictor(picture).selected.mean() for predictor in (*several, *several)]
    assert shares[:3] == shares[3:]
    assert 0 == shares[0] < trained.mean() < shares[1] < shares[2] == 1
    assert net.ratios == [0.25] * len(net.ratios)
    np.testing.assert_array_equal(Predictor(net, device="cpu")(picture).selected, trained)


def test_adaptive_holds_the_share_of_the_importance(picture):
    net, shares = network(), []
    for share in (0.2, 0.5, 0.9):
        found = Predictor(net, adaptive=share, device="cpu")(picture[:96, :160])  # 3 x 5 regions, none cut off
        sums = np.sort(found.importance.astype(float).reshape(3, 4, 5, 4).sum((1, 3)).ravel())[::-1]
        fewest = next(count for count in range(16) if sums[:count].sum() >= share * sums.sum())
        assert found.selected.sum() == 16 * fewest
        assert found.importance[found.selected].sum() == pytest.approx(sums[:fewest].sum())
        shares.append(fewest)
    assert shares == sorted(set(shares))
    assert net.adaptive is None


def test_a_focus_replaces_what_was_trained_as_adaptive(picture):
    net = network()
    net.focus(adaptive=0.9)
    with focused(net, focus=0.0):
        assert not net(torch.rand(1, 3, 64, 64)).selected.any()
    assert net.adaptive == 0.9


def test_what_was_set_is_put_back_after_an_error():
    net = network(ratio=0.25)
    with pytest.raises(KeyError), focused(net, focus=1.0):  # noqa: PT012
        assert net.ratios == [1.0] * len(net.ratios)
        raise KeyError
    assert net.ratios == [0.25] * len(net.ratios)


def test_the_network_is_found_inside_others():
    config = ModelConfig(method="ovenet", pretrained=False, options={"base": {"kind": "fornet"}})
    model = build(config, 5).eval()
    inner = next(module for module in model.modules() if isinstance(module, FoRNet))
    with focused(model, focus=0.5):
        assert inner.ratios == [0.5] * len(inner.ratios)


def test_validation_while_training_focuses_as_the_recipe_says():
    recipe, net, image = Recipe(), network(), torch.rand(1, 3, 64, 96)
    recipe.evaluation.focus = 0.0
    with torch.no_grad():
        labels, output = predict(net, {"image": image}, recipe)
        assert not output.selected.any()
        assert torch.equal(labels, network(ratio=0.0)(image).labels())
        assert net(image).selected.any()


def test_settings_tell_it():
    """Also what was set in the network: weights alone do not say what is refined."""
    networks = [
        network(),
        network(block=8),
        network(branches=[(1, 1), (3, 1), (3, 2), (3, 8)]),
        network(ratio=(0.25, 0.0, 0.25, 0.25)),
        network(region="cell"),
        network(selector="entropy"),
        network(ratio=0.5),
        network(adaptive=0.5),
    ]
    settings = [Predictor(net, device="cpu").settings()["focus"] for net in networks]
    assert len({str(found) for found in settings}) == len(networks)
    assert json.dumps(settings)
    for how, same in (({"focus": 0.5}, -2), ({"adaptive": 0.5}, -1)):
        assert Predictor(network(), device="cpu", **how).settings()["focus"] == settings[same]


@pytest.mark.parametrize(
    ("focus", "adaptive", "words"),
    [
        (1.5, None, r"^focus: expected a share of the regions in \[0, 1\], got 1.5"),
        (-0.1, None, "^focus: "),
        (float("nan"), None, "^focus: "),
        (None, 0.0, "^adaptive: expected .* above 0, got 0"),
        (None, 1.5, "^adaptive: "),
        (0.5, 0.5, "expected one of focus and adaptive, got both"),
    ],
)
def test_shares_that_cannot_be_are_refused_also_before_a_training(focus, adaptive, words):
    with pytest.raises(SegfocusError, match=words):
        check_focus(None, focus, adaptive)
    recipe = Recipe()
    recipe.training.steps = 1
    recipe.evaluation.focus, recipe.evaluation.adaptive = focus, adaptive
    with pytest.raises(SegfocusError, match=words):
        check(recipe)


def test_a_network_that_was_trained_without_focus_cannot_be_focused(picture):
    net = network(ratio=0.0)
    assert not Predictor(net, focus=0.0, device="cpu")(picture).selected.any()
    for how in ({"focus": 0.5}, {"adaptive": 0.5}):
        with pytest.raises(SegfocusError, match="expected 0 or none of a network that was trained without focus"):
            Predictor(net, device="cpu", **how)


def test_a_network_without_fornet_is_refused():
    check_focus(ByBrightness(), None, None)
    for how in ({"focus": 0.5}, {"adaptive": 0.5}):
        with pytest.raises(SegfocusError, match="a network with FoR-Net in it, got ByBrightness; try neither"):
            Predictor(ByBrightness(), device="cpu", **how)
