"""Bases by name, plain training of a base, and starting from a finished checkpoint."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from segfocus import checkpoint
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.losses import cross_entropy
from segfocus.methods import build
from segfocus.methods.base import Base, BaseMaps
from segfocus.methods.bases import FoRNetBase
from segfocus.methods.plain import PlainSegmenter
from segfocus.ops.resample import enlarge
from segfocus.recipe import ModelConfig, Recipe, TrainingConfig
from segfocus.training.checks import check
from tests.contract import SegmenterContract, scene


def config(kind: str = "fornet", method: str = "plain", **base) -> ModelConfig:
    return ModelConfig(method=method, pretrained=False, options={"base": {"kind": kind, **base}})


def build_plain(classes: int) -> PlainSegmenter:
    network = build(config(), classes)
    assert isinstance(network, PlainSegmenter)
    return network


class TestPlain(SegmenterContract):
    builder = "tests.methods.test_bases:build_plain"


class _Toy(Base):
    """Logits at stride 4 with one auxiliary map."""

    stride = feature_stride = 4
    auxiliary_weights = {"soft": 0.4}  # noqa: RUF012

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes, self.feature_channels = num_classes, 3
        self.head = torch.nn.Conv2d(3, num_classes, 1)

    def maps(self, image, branch_stage=None):
        pooled = torch.nn.functional.avg_pool2d(image, 4, ceil_mode=True)
        logits = self.head(pooled)
        return BaseMaps(logits, pooled, {"soft": 2 * logits})


def test_logits_features_and_terms_of_fornet_are_its_own():
    torch.manual_seed(0)
    network = build(ModelConfig(method="fornet", pretrained=False), 4).eval()
    base = FoRNetBase(network)  # pyright: ignore
    image, target = scene(40, 56)
    logits, features = base(image)
    assert features.shape[1] == base.feature_channels
    torch.testing.assert_close(network.decoder.classify(features), logits)
    output = network(image)
    torch.testing.assert_close(enlarge(logits, base.stride, 1, (40, 56)), output.logits)
    own = network.loss(output, target)
    assert base.terms(output, target) == {name: own[name] for name in ("selector", "auxiliary")}


def test_plain_loss_is_cross_entropy_and_the_weighted_auxiliary():
    torch.manual_seed(0)
    base = _Toy(4)
    network = PlainSegmenter(base, 4)
    image, target = scene(24, 32)
    output = network(image)
    terms = network.loss(output, target)
    logits = enlarge(base(image)[0], 4, 1, (24, 32))
    torch.testing.assert_close(terms["cross_entropy"], cross_entropy(logits, target))
    torch.testing.assert_close(terms["soft"], 0.4 * cross_entropy(2 * logits, target))
    with pytest.raises(ValueError, match=r"base: expected 5 classes, got 4"):
        PlainSegmenter(base, 5)
    with pytest.raises(ValueError, match=r"class_weights: expected 4 values, got 2"):
        PlainSegmenter(base, 4, class_weights=[1, 2])
    with pytest.raises(ValueError, match=r"expected a stage to branch at \(none\), got 4"):
        base.branch(4)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("ligt", {}, r"model\.options\.base: unknown kind 'ligt'; did you mean light"),
        ("fornet", {"ration": 0.1}, r"model\.options\.base \(fornet\): unknown option 'ration'; did you mean ratio"),
        ("light", {"chanels": 8}, r"model\.options\.base \(light\): unknown option 'chanels'; did you mean channels"),
        ("fornet", {"ratio": 3}, r"method plain: ratio: expected a share"),
        ("fornet", {"dice_weight": 3}, r"model\.options\.base \(fornet\): unknown option 'dice_weight'"),
        ("smp", {}, r"\(smp\): expected architecture and encoder, got none; try '\{kind: smp, architecture: unet, enc"),
        ("smp", {"architecture": "unet"}, r"\(smp\): expected encoder, got none"),
        ("torchvision", {}, r"\(torchvision\): expected name, got none; try '\{kind: torchvision, name: deeplab"),
        ("segformer", {}, r"\(segformer\): expected size, got none; try '\{kind: segformer, size: b0\}'"),
        ("segformer", {"size": "b0", "num_classes": 3}, r"unknown option 'num_classes': it comes from the data's"),
    ],
)
def test_wrong_names_offer_the_nearest(kind, options, words):
    with pytest.raises(SegfocusError, match=words):
        build(config(kind, **options), 4)


@pytest.mark.parametrize(("base", "meant"), [("hrnet", "hrnet"), ([1], "light"), (3, "light")])
def test_a_base_that_is_no_mapping_is_refused(base, meant):
    with pytest.raises(SegfocusError, match=rf"expected a mapping, got .*; try '\{{kind: {meant}\}}'"):
        build(ModelConfig(method="plain", pretrained=False, options={"base": base}), 4)


def test_values_of_a_wrong_type_are_named_in_one_line():
    """In a process of its own, where nothing but the package itself looks at types."""
    light, hrnet = {"kind": "light"}, {"kind": "hrnet"}
    cases = [
        ({"base": light, "max_offset": "far"}, "max_offset: expected positive pixels, one number or [x, y], got 'far'"),
        ({"base": light, "max_offset": [1, "far"]}, "max_offset: expected positive pixels"),
        ({"base": light, "max_offset": None}, "max_offset: expected positive pixels"),
        ({"base": light, "tau": "half"}, "tau: expected a positive share of half the picture's side, got 'half'"),
        ({"base": light, "seed_weight": "no"}, "seed_weight: expected a factor from 0, got 'no'"),
        ({"base": light, "frozen": "no"}, "frozen: expected true or false, got 'no'"),
        ({"base": light, "ohem": 0.5}, "ohem: expected true or false, got 0.5"),
        ({"base": {**light, "channels": "many"}}, "channels: expected a whole number from 1, got 'many'"),
        ({"base": {**hrnet, "norm_momentum": "slow"}}, "norm_momentum: expected a share in (0, 1], got 'slow'"),
        ({"base": {"kind": ["light"]}}, "model.options.base: unknown kind '['light']'"),
    ]
    script = textwrap.dedent(
        """
        import json, sys
        from segfocus.errors import SegfocusError
        from segfocus.methods import build
        from segfocus.recipe import ModelConfig

        for options in json.load(sys.stdin):
            backbone = "hrnet_w18_small" if options["base"]["kind"] == "hrnet" else "lite"
            try:
                build(ModelConfig("ovenet", backbone, False, options=options), 4)
            except SegfocusError as error:
                print(error)
            else:
                print("accepted")
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        input=json.dumps([options for options, _ in cases]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    for (_, words), line in zip(cases, done.stdout.splitlines(), strict=True):
        assert words in line


@pytest.mark.parametrize("kind", ["hrnet", "ocr", "smp", "torchvision", "segformer"])
def test_backbone_options_are_refused_where_nothing_reads_them(kind):
    model = config(kind)
    model.backbone, model.backbone_options = "hrnet_w18_small", {"output_stride": 16}
    with pytest.raises(SegfocusError, match=rf"backbone_options: expected none with the base {kind}, got .*output_str"):
        build(model, 4)


def saved(path, model: ModelConfig, classes: int = 4):
    torch.manual_seed(3)
    network = build(model, classes).eval()
    checkpoint.save(path, network, Recipe(model=model), Classes.of([f"c{index}" for index in range(classes)]))
    return network


def test_a_base_starts_from_a_finished_run(tmp_path):
    image, _ = scene(40, 48)
    for name, model in (("own", ModelConfig(method="fornet", pretrained=False)), ("plain", config())):
        finished = saved(tmp_path / f"{name}.safetensors", model)
        start = config(checkpoint=str(tmp_path / f"{name}.safetensors"))
        network = build(start, 4).eval()
        assert torch.equal(network(image).logits, finished(image).logits)
        # where all weights follow anyway the file is not needed
        (tmp_path / f"{name}.safetensors").rename(tmp_path / "gone")
        build(start, 4, fetch=False)


def test_another_network_s_checkpoint_is_refused(tmp_path):
    saved(tmp_path / "other.safetensors", ModelConfig(method="fornet", pretrained=False, options={"channels": 32}))
    with pytest.raises(SegfocusError, match=r"expected weights of this base \(lite\), got .*other layers"):
        build(config(checkpoint=str(tmp_path / "other.safetensors")), 4)
    with pytest.raises(SegfocusError, match="does not exist"):
        build(config(checkpoint=str(tmp_path / "none.safetensors")), 4)


def test_a_frozen_base_without_weights_is_refused():
    recipe = Recipe(model=config(method="ovenet"), training=TrainingConfig(steps=1))
    recipe.model.options["frozen"] = True
    with pytest.raises(
        SegfocusError, match=r"expected a finished base for frozen: true, got random weights; try .*fornet"
    ):
        check(recipe)
    recipe.model.options["base"]["checkpoint"] = "run/best.safetensors"
    check(recipe)
    # the published weights of a backbone leave the layers that make the logits random
    for options, finished in (
        ({"kind": "light"}, False),
        ({"kind": "smp", "weights": "imagenet"}, False),
        ({"kind": "segformer", "size": "b0"}, False),
        ({"kind": "segformer", "size": "b0", "weights": "folder"}, True),
    ):
        recipe.model.pretrained, recipe.model.options["base"] = True, options
        if finished:
            check(recipe)
            continue
        with pytest.raises(SegfocusError, match="expected a finished base"):
            check(recipe)
