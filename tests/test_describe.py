"""Numbers of a network against ones counted by hand or on the real device."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segfocus.describe import DEFAULT_CLASSES, describe, described_recipe, text_of
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.recipe import ModelConfig, Recipe, load_recipe


def recipe_of(**model) -> Recipe:
    return Recipe(model=ModelConfig(**{"method": "fornet", "backbone": "lite", "pretrained": False, **model}))


def test_numbers_equal_those_of_the_real_network():
    recipe = recipe_of()
    found = describe(recipe, 5, (64, 96))
    model = build(recipe.model, 5).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = model(torch.zeros(1, 3, 64, 96))
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["gmac"] == pytest.approx(counter.get_total_flops() / 2e9, rel=1e-12)
    assert found["outputs"]["logits"] == list(output.logits.shape[1:]) == [5, 64, 96]
    assert found["outputs"]["importance"] == list(output.importance.shape[1:])


def test_gmac_of_one_convolution_is_counted_by_hand(monkeypatch):
    import segfocus.methods
    from segfocus.output import Output

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, image):
            return Output(self.conv(image))

    monkeypatch.setattr(segfocus.methods, "build", lambda *arguments, **options: One())
    found = describe(Recipe(), 4, (10, 20))
    assert found["parameters"] == 4 * 3 * 9 + 4
    assert found["gmac"] == pytest.approx(10 * 20 * 4 * 3 * 9 / 1e9)


def test_no_weights_are_fetched(monkeypatch):
    import timm

    def create(name, *arguments, pretrained=False, **options):
        assert not pretrained
        return original(name, *arguments, pretrained=False, **options)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    found = describe(recipe_of(backbone="resnet18", pretrained=True), 3, (64, 64))
    assert found["parameters"] > 11e6


def test_default_size_is_the_crop_else_half_a_street_picture():
    recipe = recipe_of()
    assert describe(recipe)["size"] == [512, 1024]
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, crop=[64, 80]))
    assert describe(recipe)["size"] == [64, 80]


def test_classes_come_from_the_reader_and_are_assumed_where_only_a_file_knows():
    recipe, count = described_recipe("fornet-camvid", {})
    assert (recipe.data.name, count) == ("camvid", 11)
    assert described_recipe("fornet-camvid", {}, 7)[1] == 7
    recipe, count = described_recipe("fornet-folder", {})
    assert count is None
    found = describe(recipe, count, (64, 64))
    assert found["num_classes"] == DEFAULT_CLASSES
    assert "assumed" in text_of(found)


def test_text_holds_the_recipe_and_the_numbers():
    text = text_of(describe(recipe_of(), 5, (64, 96)))
    assert "method: fornet" in text
    assert "for one picture of 64 x 96" in text
    assert "5 x 64 x 96" in text


@pytest.mark.parametrize("count", [0, 1, -3])
def test_fewer_than_two_classes_are_refused(count):
    with pytest.raises(SegfocusError, match=f"--num-classes: expected two or more, got {count}"):
        described_recipe("fornet-camvid", {}, count)
    with pytest.raises(SegfocusError, match="expected two or more"):
        describe(recipe_of(), count)


@pytest.mark.parametrize(("classes", "gmac"), [(None, 2.833), (3, 3 * 2.833)])
def test_refiners_are_described_on_maps(classes, gmac):
    found = describe(load_recipe("threshnet-maps"), classes)
    assert found["num_classes"] == (classes or 2)
    assert found["classes_assumed"] is (classes is None)
    assert found["outputs"]["logits"] == [1 if classes is None else 3, 256, 256]
    assert found["gmac"] == pytest.approx(gmac, abs=2e-3)
    assert found["parameters"] == 244_892
