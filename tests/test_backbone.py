"""Backbones: sizes, strides, layout, errors, and the names `build` offers."""

import pytest
import torch

from segfocus.backbone import IMAGENET_MEAN, IMAGENET_STD, LiteBackbone, build_backbone, standardized
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.recipe import ModelConfig


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lite", {}),
        ("resnet18", {}),
        ("resnet18", {"output_stride": 8}),
        ("mobilenetv3_small_050", {}),
        ("convnext_atto", {}),
        ("swin_tiny_patch4_window7_224", {"options": {"img_size": (96, 160), "depths": (1, 1, 1, 1)}}),
        ("vit_tiny_patch16_224", {"options": {"dynamic_img_size": True, "depth": 2, "out_indices": (0, 1)}}),
    ],
)
def test_maps_have_the_channels_and_strides_they_claim(name, options):
    backbone = build_backbone(name, pretrained=False, **options).eval()
    image = torch.rand(1, 3, 90, 150)
    with torch.no_grad():
        normalized = backbone.normalize(image)
        maps = backbone(image)
    assert len(maps) == len(backbone.channels) == len(backbone.strides)
    assert list(backbone.strides) == sorted(backbone.strides)
    assert backbone.strides[0] >= 4
    for feature_map, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        expected = [-(-side // stride) for side in normalized.shape[-2:]]
        assert list(feature_map.shape) == [1, channels, *expected]
    assert min(maps[-1].shape[-2:]) >= 2


def test_normalisation_lives_in_the_model():
    backbone = LiteBackbone()
    assert {"mean", "std"} <= set(backbone.state_dict())
    image = torch.rand(1, 3, 64, 64)
    expected = (image - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    torch.testing.assert_close(backbone.normalize(image), expected)


def test_other_channel_counts():
    for name in ("lite", "resnet18"):
        backbone = build_backbone(name, pretrained=False, in_channels=5)
        assert len(backbone(torch.rand(1, 5, 64, 64))) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet19"}, "resnet18"),
        ({"name": "lyte"}, "did you mean lite"),
        (
            {"name": "swin_tiny_patch4_window7_224", "output_stride": 8},
            "timm refused it|does not support output_stride",
        ),
        ({"name": "lite", "output_stride": 8}, "expected output_stride 32"),
        ({"name": "lite", "options": {"width": 3}}, "expected the options widths and depths"),
        ({"name": "lite", "options": {"widths": [8, 8]}}, "expected 5 widths"),
        ({"name": "lite", "options": {"widths": 5}}, "expected a list for widths, got 5"),
    ],
)
def test_wrong_backbones_are_refused(arguments, words):
    with pytest.raises(SegfocusError, match=words):
        build_backbone(pretrained=False, **arguments)


def test_a_size_that_a_backbone_does_not_take_is_one_line():
    backbone = build_backbone("vit_tiny_patch16_224", pretrained=False, options={"depth": 1, "out_indices": (0,)})
    with pytest.raises(SegfocusError, match=r"no pictures of 96x96 px.*dynamic_img_size"):
        backbone(torch.rand(1, 3, 96, 96))


def test_weights_that_cannot_be_fetched_name_the_way_on(monkeypatch):
    import timm

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(SegfocusError, match="pretrained false"):
        build_backbone("resnet18")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(method="fornett"), "did you mean fornet"),
        (ModelConfig(options={"ratios": 0.2}), "unknown option 'ratios'; did you mean ratio"),
        (ModelConfig(options={"ratio": 2.0}), "method fornet: ratio: expected"),
        (ModelConfig(options={"branches": [[3]]}), "method fornet: "),
        (ModelConfig(options={"class_weights": [1.0]}), "unknown option 'class_weights'"),
    ],
)
def test_build_refuses_in_one_line(config, words):
    with pytest.raises(SegfocusError, match=words) as caught:
        build(config, 3, fetch=False)
    assert "\n" not in str(caught.value)


def test_build_passes_backbone_options_on():
    config = ModelConfig(backbone="resnet18", backbone_options={"output_stride": 16}, pretrained=False)
    network = build(config, 3, class_weights=[1.0, 2.0, 3.0])
    assert max(network.backbone.strides) == 16
    assert network.class_weights.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_standardizing_subtracts_the_mean_and_divides_by_the_deviation(layout):
    image = torch.rand(2, 3, 5, 7).contiguous(memory_format=layout)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    found = standardized(image, mean, std)
    assert torch.equal(found, (image - mean) / std)
    assert found.is_contiguous(memory_format=layout)
