"""The light head: grids, sizes, and its sum written out; the contract through PlainSegmenter."""

import pytest
import torch
from torch.nn import functional

from segfocus.backbone import LiteBackbone, build_backbone
from segfocus.methods.light import LightBase
from segfocus.methods.plain import PlainSegmenter
from tests.contract import SegmenterContract

VISION_TRANSFORMER = {"dynamic_img_size": True, "depth": 2, "out_indices": (0, 1)}


def build_plain(classes: int) -> PlainSegmenter:
    return PlainSegmenter(LightBase(LiteBackbone(), classes, channels=32), classes)


class TestPlain(SegmenterContract):
    builder = "tests.methods.test_light:build_plain"


@pytest.mark.parametrize(
    ("name", "options", "stride"),
    [
        ("lite", {}, 4),
        ("test_resnet", {}, 4),
        ("resnet18", {"output_stride": 8}, 4),
        ("convnext_atto", {}, 4),
        ("vit_tiny_patch16_224", {"options": VISION_TRANSFORMER}, 16),
    ],
)
@pytest.mark.parametrize("size", [(97, 161), (64, 64), (1, 1)])
def test_logits_and_features_lie_on_the_finest_grid(name, options, stride, size):
    base = LightBase(build_backbone(name, pretrained=False, **options), 5, channels=16).eval()
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        padded = base.backbone.normalize(image).shape[-2:]
        maps = base.maps(image)
        logits, features = base(image)
    assert base.stride == base.feature_stride == stride
    assert maps.logits.shape == (1, 5, padded[0] // stride, padded[1] // stride)
    assert maps.features.shape == (1, base.feature_channels, *maps.logits.shape[-2:])
    assert torch.equal(logits, maps.logits)
    assert torch.equal(features, maps.features)
    assert torch.equal(base.classify(features), logits)
    assert not maps.auxiliary
    assert not maps.extras


def test_the_sum_written_out():
    """97x161 is padded to 104x168: the maps of stride 16 and 32 stand over that, and are cut, not squeezed."""
    torch.manual_seed(0)
    base = LightBase(LiteBackbone(), 5, channels=8).eval()
    image = torch.rand(2, 3, 97, 161)
    with torch.no_grad():
        total = 0
        for feature_map, project, stride in zip(base.backbone(image), base.project, (4, 8, 16, 32), strict=True):
            projected = torch.einsum("bchw,oc->bohw", feature_map, project.weight[..., 0, 0])
            fine = functional.interpolate(projected, scale_factor=stride / 4, mode="bilinear")
            total = total + fine[..., : 104 // 4, : 168 // 4]
        joined = functional.relu(base.join[0](total))
        expected = functional.relu(base.mix[1](base.mix[0](joined)))
        torch.testing.assert_close(base.maps(image).features, expected)


def test_a_coarse_value_arrives_above_its_cell():
    """One lit cell of the stride-32 map, through identity projections, is centred on that cell's pixels."""
    base = LightBase(LiteBackbone(widths=(8, 1, 1, 1, 1)), 3, channels=1).eval()
    for project in base.project:
        torch.nn.init.ones_(project.weight)
    sides = [(26, 42), (13, 21), (7, 11), (4, 6)]
    maps = [torch.zeros(1, 1, *side) for side in sides]
    maps[3][..., 1, 2] = 1.0
    base.backbone.forward = lambda image: maps
    seen = []
    base.join.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    base.maps(torch.rand(1, 3, 97, 161))
    weight = seen[0][0, 0].detach()
    rows, columns = torch.meshgrid(torch.arange(26.0), torch.arange(42.0), indexing="ij")
    centre = [float((weight * axis).sum() / weight.sum()) for axis in (rows, columns)]
    assert centre == pytest.approx([1.5 * 8 - 0.5, 2.5 * 8 - 0.5], abs=1e-4)


def test_two_classes_are_one_logit():
    assert LightBase(LiteBackbone(), 2, channels=8).maps(torch.rand(1, 3, 64, 64)).logits.shape[1] == 1


def test_what_it_refuses():
    with pytest.raises(ValueError, match="channels: expected a whole number from 1, got 0"):
        LightBase(LiteBackbone(), 4, channels=0)
    with pytest.raises(ValueError, match="at least two classes"):
        LightBase(LiteBackbone(), 1)
    base = LightBase(LiteBackbone(), 4, channels=8)
    with pytest.raises(ValueError, match=r"LightBase: expected a stage to branch at \(none\), got 4"):
        base.branch(4)
    with pytest.raises(ValueError, match="expected a stage to branch at"):
        base.maps(torch.rand(1, 3, 64, 64), branch_stage=4)
