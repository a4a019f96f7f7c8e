"""Other libraries' networks as bases, against the libraries' own forward passes."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from segfocus.errors import SegfocusError
from segfocus.methods.adapters import SEGFORMER_SIZES, Adapter, SegformerBase, SMPBase, TorchvisionBase
from segfocus.methods.adapters import SingleValueBatchNorm2d as SafeBatchNorm2d
from segfocus.methods.plain import PlainSegmenter
from tests.contract import SegmenterContract, scene

CLASSES = 5
TINY_SEGFORMER = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 24}


def smp_fpn(classes: int = CLASSES) -> SMPBase:
    return SMPBase("fpn", "tu-test_resnet", classes, pretrained=False, decoder_pyramid_channels=16)


def smp_unet(classes: int = CLASSES) -> SMPBase:
    return SMPBase("Unet", "tu-test_resnet", classes, pretrained=False, decoder_channels=(32, 24, 16, 12, 8))


def smp_deeplab(classes: int = CLASSES) -> SMPBase:
    return SMPBase("DeepLabV3Plus", "resnet18", classes, pretrained=False, decoder_channels=16)


def smp_pspnet(classes: int = CLASSES) -> SMPBase:
    return SMPBase("PSPNet", "resnet18", classes, pretrained=False, psp_out_channels=16)


def smp_mix(classes: int = CLASSES) -> SMPBase:
    """Its encoder reads numbers off tensors as it is built."""
    return SMPBase("segformer", "mit_b0", classes, pretrained=False, decoder_segmentation_channels=16)


def smp_pan(classes: int = CLASSES) -> SMPBase:
    return SMPBase("PAN", "resnet18", classes, pretrained=False, decoder_channels=8)


def lraspp(classes: int = CLASSES) -> TorchvisionBase:
    return TorchvisionBase("lraspp_mobilenet_v3_large", classes, pretrained=False)


def deeplab_mobile(classes: int = CLASSES) -> TorchvisionBase:
    return TorchvisionBase("deeplabv3_mobilenet_v3_large", classes, pretrained=False, auxiliary=True)


def fcn(classes: int = CLASSES) -> TorchvisionBase:
    return TorchvisionBase("fcn_resnet50", classes, pretrained=False)


def segformer(classes: int = CLASSES) -> SegformerBase:
    return SegformerBase(TINY_SEGFORMER, classes, pretrained=False)


EXPECTED = [  # maker, stride, channels of the features
    (smp_fpn, 4, 128),
    (smp_unet, 1, 8),
    (smp_deeplab, 4, 16),
    (smp_pspnet, 8, 16),
    (smp_pan, 4, 8),
    (lraspp, 8, 40 + 128),
    (deeplab_mobile, 16, 256),
    (fcn, 8, 512),
    (segformer, 4, 24),
]
MAKERS = [maker for maker, _, _ in EXPECTED]


def build_smp(classes: int) -> PlainSegmenter:
    base = SMPBase("fpn", "tu-test_resnet", classes, pretrained=False, decoder_dropout=0.0)
    return PlainSegmenter(base, classes)


def build_segformer(classes: int) -> PlainSegmenter:
    return PlainSegmenter(segformer(classes), classes)


class TestSMP(SegmenterContract):
    builder = "tests.methods.test_adapters:build_smp"


class TestSegformer(SegmenterContract):
    builder = "tests.methods.test_adapters:build_segformer"


def build(make) -> Adapter:
    """With BatchNorm statistics that are not the identity."""
    torch.manual_seed(0)
    base = make()
    for module in base.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return base


def head(base: Adapter, features: torch.Tensor) -> torch.Tensor:
    """The network's last convolution, from outside."""
    if isinstance(base, SMPBase):
        return base.network.segmentation_head[0](features)
    if isinstance(base, SegformerBase):
        return base.classify(features)
    classifier = base.network.classifier
    if not hasattr(classifier, "low_classifier"):
        return classifier[-1](features)
    weight = torch.cat([classifier.low_classifier.weight, classifier.high_classifier.weight], 1)
    bias = classifier.low_classifier.bias + classifier.high_classifier.bias
    return functional.conv2d(features, weight, bias)


def own_output(base: Adapter, normalized: torch.Tensor) -> torch.Tensor:
    """What the library gives for a picture of a size it takes."""
    if isinstance(base, TorchvisionBase):
        return base.network(normalized)["out"]
    if isinstance(base, SMPBase):
        return base.network(normalized)
    network = copy.deepcopy(base.network)
    network.decode_head.classifier = base.classify
    return network(normalized).logits


def enlarged_as_the_library_does(base: Adapter, logits: torch.Tensor) -> torch.Tensor:
    if isinstance(base, SegformerBase):  # leaves that to its caller
        return logits
    corners = isinstance(base, SMPBase)
    return functional.interpolate(logits, scale_factor=base.stride, mode="bilinear", align_corners=corners)


@pytest.mark.parametrize(("make", "stride", "channels"), EXPECTED)
def test_logits_are_the_librarys_own_and_come_from_the_features(make, stride, channels):
    base = build(make).eval()
    image = torch.rand(2, 3, 128, 160)
    with torch.no_grad():
        maps = base.maps(image)
        own = own_output(base, (image - base.mean) / base.std)
    assert (base.stride, base.feature_stride, base.feature_channels) == (stride, stride, channels)
    assert maps.logits.shape == (2, CLASSES, 128 // stride, 160 // stride)
    assert maps.features.shape == (2, channels, 128 // stride, 160 // stride)
    torch.testing.assert_close(enlarged_as_the_library_does(base, maps.logits), own)
    torch.testing.assert_close(head(base, maps.features), maps.logits, rtol=1e-5, atol=1e-5)
    assert maps.logits.std() > 0


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("size", [(97, 161), (64, 64), (1, 1)])
def test_any_size_is_padded_right_and_bottom_with_the_mean_colour(make, size):
    base = build(make).eval()
    image = torch.rand(1, 3, *size)
    padded = [max(-(-side // base.multiple) * base.multiple, base.minimum) for side in size]
    canvas = base.mean.expand(1, 3, *padded).clone()
    canvas[..., : size[0], : size[1]] = image
    with torch.no_grad():
        maps = base.maps(image)
        expected = base.maps(canvas)
    assert list(maps.logits.shape[-2:]) == [side // base.stride for side in padded]
    assert maps.features.shape[-2:] == maps.logits.shape[-2:]
    torch.testing.assert_close(maps.logits, expected.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_a_batch_of_one_trains_every_parameter_that_is_not_frozen(make):
    net = PlainSegmenter(build(make), CLASSES).train()
    image, target = scene(64, 64, classes=CLASSES)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    losses = net.loss(net(image), target)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
    optimizer.step()
    assert all(value.isfinite() for value in losses.values())
    assert any(not torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("make", [smp_fpn, lraspp, segformer])
def test_copies_and_state_dicts_give_the_same_function(make):
    base = build(make).eval()
    other = make().eval()
    other.load_state_dict(base.state_dict())
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for twin in (copy.deepcopy(base), other):
            assert torch.equal(twin.maps(image).logits, base.maps(image).logits)
    assert {"mean", "std"} <= set(base.state_dict())


def test_two_classes_are_one_logit():  # the others: by the contract
    assert lraspp(2).maps(torch.rand(1, 3, 64, 64)).logits.shape[1] == 1


@pytest.mark.parametrize("make", [smp_fpn, smp_mix, deeplab_mobile, segformer])
def test_the_meta_device_measures_the_same(make):
    real = make()
    with torch.device("meta"):
        base = make()
    assert all(value.is_meta for value in base.state_dict().values())
    assert [tuple(value.shape) for value in base.parameters()] == [tuple(value.shape) for value in real.parameters()]
    assert (base.stride, base.feature_channels) == (real.stride, real.feature_channels)


def test_measuring_leaves_no_trace():
    base = smp_deeplab()
    assert base.training
    assert all(module.training for module in base.modules())
    for module in base.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.running_mean, torch.zeros_like(module.running_mean))
            assert module.num_batches_tracked == 0
    assert all(parameter.grad is None for parameter in base.parameters())


def test_unused_encoder_stages_are_frozen():
    base = smp_pspnet()  # three of five stages
    frozen = {name.split(".")[2] for name, parameter in base.named_parameters() if not parameter.requires_grad}
    assert frozen == {"layer3", "layer4"}
    assert all(parameter.requires_grad for parameter in smp_deeplab().parameters())


def test_auxiliary_head_lies_on_the_grid_of_the_logits():
    base = deeplab_mobile().eval()
    with torch.no_grad():
        maps = base.maps(torch.rand(1, 3, 97, 161))
    assert base.auxiliary_weights == {"auxiliary": 0.5}
    assert maps.auxiliary["auxiliary"].shape == maps.logits.shape == (1, CLASSES, 7, 11)
    assert not fcn().auxiliary_weights
    assert not any("aux" in name for name in fcn().state_dict())


def test_batch_norm_of_a_single_value():
    """One value a channel: the running statistics; more: PyTorch's own, bit for bit."""
    own, safe = nn.BatchNorm2d(3), SafeBatchNorm2d(3)
    safe.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    safe.running_var.fill_(4.0)
    value = torch.tensor([3.0, 2.0, -1.0]).view(1, 3, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value"):
        own(value)
    torch.testing.assert_close(safe(value).flatten(), torch.tensor([1.0, 0.0, -2.0]), rtol=1e-4, atol=1e-5)
    assert safe.num_batches_tracked == 0
    fresh, batch = SafeBatchNorm2d(3), torch.rand(2, 3, 1, 1)
    assert torch.equal(fresh(batch), own(batch))
    assert torch.equal(fresh.running_var, own.running_var)


@pytest.mark.parametrize("size", sorted(SEGFORMER_SIZES))
def test_segformer_sizes_are_the_published_ones(size):
    """Millions of parameters with decoder at 150 classes: the paper's Table 1."""
    published = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}
    with torch.device("meta"):
        base = SegformerBase(size, 150, pretrained=False)
    assert sum(parameter.numel() for parameter in base.parameters()) / 1e6 == pytest.approx(published[size], abs=0.1)


def test_a_finished_segformer_from_a_folder(tmp_path):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(1)
    config = SegformerConfig(**TINY_SEGFORMER, num_labels=CLASSES)
    finished = SegformerForSemanticSegmentation(config).eval()
    finished.save_pretrained(tmp_path)
    image = torch.rand(1, 3, 64, 96)
    for size in (TINY_SEGFORMER, config):
        base = SegformerBase(size, CLASSES, weights=str(tmp_path))
        assert base.network.training
        base.eval()
        with torch.no_grad():
            expected = finished((image - base.mean) / base.std).logits
            torch.testing.assert_close(base.maps(image).logits, expected)


def test_normalisation_follows_the_weights(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **{**options, "pretrained": False}))
    published = SMPBase("fpn", "tu-test_resnet", CLASSES, pretrained=True)
    assert published.mean.flatten().tolist() == [0.5] * 3
    assert smp_fpn().mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert SMPBase("fpn", "resnet18", CLASSES, pretrained=False, in_channels=5).maps(torch.rand(1, 5, 64, 64))
    assert SegformerBase(TINY_SEGFORMER, CLASSES, pretrained=False, num_channels=4).maps(torch.rand(1, 4, 64, 64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SMPBase("unett", "resnet18", 4, pretrained=False), "unknown architecture 'unett'; did you mean unet"),
        (lambda: SMPBase("dpt", "tu-vit_tiny_patch16_224", 4, pretrained=False), "unknown architecture 'dpt'"),
        (lambda: SMPBase("unet", "resnet19", 4, pretrained=False), "unknown encoder 'resnet19'; did you mean resnet"),
        (
            lambda: SMPBase("unet", "resnet18", 4, pretrained=False, decoder_chanels=(1,)),
            "unknown option 'decoder_chanels'; did you mean decoder_channels",
        ),
        (lambda: SMPBase("fpn", "tu-test_resnet", 4, pretrained=False, classes=3), "unknown option 'classes'"),
        (lambda: SMPBase("fpn", "tu-test_resnet", 4, pretrained=False, colour=3), "fpn on tu-test_resnet: the library"),
        (
            lambda: TorchvisionBase("fcn_resnet5", 4, pretrained=False),
            "'fcn_resnet5'; did you mean fcn_resnet50",
        ),
        (
            lambda: TorchvisionBase("lraspp_mobilenet_v3_large", 4, pretrained=False, auxiliary=True),
            "does not use auxiliary loss",
        ),
        (lambda: SegformerBase("b7", 4, pretrained=False), "unknown size 'b7'; did you mean b"),
        (lambda: SegformerBase("b0", 4, pretrained=False, dephts=[1]), "unknown option 'dephts'; did you mean depths"),
        (lambda: SegformerBase({"dephts": [1]}, 4, pretrained=False), "did you mean depths"),
        (lambda: SegformerBase(TINY_SEGFORMER, 4), "expected a size or weights, got a configuration"),
        (lambda: SegformerBase("b0", 1, pretrained=False), "at least two classes"),
        (lambda: segformer().maps(torch.rand(1, 3, 64, 64), branch_stage=4), r"stage to branch at \(none\), got 4"),
    ],
)
def test_what_is_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_name_the_way_on(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(SegfocusError, match=r"torchvision fcn_resnet50: expected to fetch.*pretrained false"):
        TorchvisionBase("fcn_resnet50", 4)


@pytest.mark.parametrize(
    ("module", "package", "make"),
    [
        ("segmentation_models_pytorch", "segmentation-models-pytorch", smp_fpn),
        ("transformers", "transformers", segformer),
    ],
)
def test_a_missing_library_names_its_package(monkeypatch, module, package, make):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SegfocusError, match=f"try pip install {package}"):
        make()


def test_importing_the_adapters_imports_no_library():
    script = (
        "import sys, segfocus.methods.adapters\n"
        "assert not {'transformers', 'segmentation_models_pytorch', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
