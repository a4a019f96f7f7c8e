"""RANet: the contract, what each option switches, gradients from the final loss into the regions, official mode."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from segfocus.backbone import LiteBackbone, build_backbone
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.methods.features import Stride8Features
from segfocus.methods.ranet import RANet
from segfocus.methods.region_context import GlobalExchange
from segfocus.ops.boundaries import boundary_band
from segfocus.ops.regions import choose_representatives
from segfocus.recipe import load_recipe
from tests.contract import SegmenterContract, scene


def build_lite(classes: int) -> RANet:
    return RANet(LiteBackbone(), classes, channels=32, neck="sum", attention_scale="sqrt", dropout=0.0)


def build_dilated(classes: int) -> RANet:
    backbone = build_backbone("test_resnet", pretrained=False)
    return RANet(backbone, classes, channels=16, attention_scale="sqrt", dropout=0.0, backend="torch")


def build_official(classes: int) -> RANet:
    return RANet(LiteBackbone(), classes, mode="official", channels=24, neck="sum", attention_scale="sqrt", dropout=0.0)


class TestLite(SegmenterContract):
    builder = "tests.methods.test_ranet:build_lite"


class TestDeepestMap(SegmenterContract):
    builder = "tests.methods.test_ranet:build_dilated"


class TestOfficial(SegmenterContract):
    builder = "tests.methods.test_ranet:build_official"


def test_the_output_says_how_regions_came_about():
    network = build_lite(4).eval()
    image, target = scene()
    with torch.no_grad():
        output = network(image)
    grid = (1, 13, 21)
    assert output.regions is not None
    assert output.representatives is not None
    assert output.boundary_logits is not None
    assert output.regions.shape == output.representatives.shape == grid
    assert output.boundary_logits.shape == (1, 1, *grid[1:])
    assert {name: tuple(value.shape[1:]) for name, value in output.aux_logits.items()} == {
        "coarse": (4, 13, 21),
        "fine_boundary": (1, 13, 21),
    }
    counts = torch.bincount(output.regions.flatten())
    chosen = torch.bincount(output.regions[output.representatives], minlength=len(counts))
    assert torch.equal(chosen, counts.clamp(max=8))
    terms = network.loss(output, target)
    assert set(terms) == {"cross_entropy", "coarse", "coarse_boundary", "fine_boundary"}


def test_the_losses_have_the_released_factors():
    image, target = scene()
    plain, doubled = build_lite(4).eval(), build_lite(4).eval()
    assert (plain.coarse_weight, plain.fine_boundary_weight, plain.coarse_boundary_weight) == (0.4, 0.2, 0.08)
    doubled.coarse_weight, doubled.fine_boundary_weight, doubled.coarse_boundary_weight = 0.8, 0.4, 0.16
    with torch.no_grad():
        output = plain(image)
        one, two = plain.loss(output, target), doubled.loss(output, target)
    assert one["cross_entropy"] == two["cross_entropy"]
    for name in ("coarse", "coarse_boundary", "fine_boundary"):
        torch.testing.assert_close(two[name], 2 * one[name])


def test_the_boundary_starts_rare_and_regions_are_large():
    output = build_lite(4).eval()(scene()[0])
    assert output.boundary_logits is not None
    assert output.regions is not None
    assert output.boundary_logits.sigmoid().mean() < 0.1
    assert output.regions.max() < 13 * 21 / 8


def test_the_final_loss_alone_reaches_both_score_heads():
    """J is the only way from the fused map back to the scores (spec, section 1: gradients)."""
    network = build_lite(4).train()
    image, target = scene()
    terms = network.loss(network(image), target)
    terms["cross_entropy"].backward()
    for head in (network.context.scores.boundary, network.context.scores.semantic):
        assert head.weight.grad is not None
        assert head.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"intra": False},
        {"inter": False},
        {"evidence": "boundary"},
        {"evidence": "semantic"},
        {"representatives": 2},
        {"attention_scale": 1.0},
        {"grouping": "components"},
        {"min_region": 1, "threshold": 0.95},
        {"end_points": False, "threshold": 0.95},
    ],
)
def test_each_option_changes_the_context(options):
    usual = {"channels": 32, "neck": "sum", "attention_scale": "sqrt"}
    image, _ = scene(160, 160)
    logits = []
    for chosen in (usual, {**usual, **options}):
        torch.manual_seed(3)
        network = RANet(LiteBackbone(), 4, **chosen)
        with torch.no_grad():
            for _ in range(10):  # running statistics
                network(image)
            scores = network.context.scores
            torch.nn.init.normal_(scores.semantic.weight, std=6.0, generator=torch.Generator().manual_seed(1))
            torch.nn.init.normal_(scores.boundary.weight, std=1.0, generator=torch.Generator().manual_seed(3))
            output = network.eval()(image)
        assert output.regions is not None
        assert chosen is not usual or output.regions.max() > 0
        logits.append(output.logits)
    assert not torch.equal(*logits)


def test_a_learned_scale_is_learned():
    network = RANet(LiteBackbone(), 4, channels=32, neck="sum", attention_scale="learned").train()
    image, target = scene()
    sum(network.loss(network(image), target).values()).backward()
    assert network.context.exchange.scale.grad is not None


def test_attention_is_that_of_the_cell_under_the_pixel():
    network = build_lite(4).eval()
    image, _ = scene()
    weights = network.attention(image, 30, 100)
    assert weights is not None
    assert weights.shape == (13, 21)
    assert (weights >= 0).all()
    assert weights.isfinite().all()
    assert torch.equal(weights, network.attention(image, 24, 96))
    assert network.attention(image, 96, 160) is not None
    before = [buffer.clone() for buffer in network.buffers()]
    network.train().attention(image, 30, 100)
    assert network.training
    assert all(torch.equal(old, new) for old, new in zip(before, network.buffers(), strict=True))
    with pytest.raises(ValueError, match="expected one picture, got 2"):
        network.attention(image.expand(2, -1, -1, -1), 0, 0)
    with pytest.raises(ValueError, match="expected a pixel of the 97x161 picture, got \\(97, 0\\)"):
        network.attention(image, 97, 0)
    assert build_official(4).eval().attention(image, 0, 0) is None


def test_the_released_exchange_written_out():
    torch.manual_seed(0)
    exchange = GlobalExchange(2, 0.3, 6).eval()
    features, scores = torch.randn(1, 6, 4, 5), torch.rand(1, 4, 5)
    regions = torch.arange(20).view(1, 4, 5) // 7
    with torch.no_grad():
        query, value = exchange.query(features)[0].flatten(1).T, exchange.value(features)[0].flatten(1).T
        weight = scores.flatten()
        chosen = sorted(
            int(i) for region in range(3) for i in (weight - 2.0 * (regions.flatten() != region)).topk(2).indices
        )
        now = value[chosen]
        now = exchange.collected(now + ((now @ (weight[:, None] * value).T) * 0.3).softmax(1) @ value)
        trust = weight[chosen][:, None]
        now = exchange.interacted(now + ((now @ (trust * now).T) * 0.3).softmax(1) @ now)
        spread = query + ((query @ (trust * now).T) * 0.3).softmax(1) @ now
        expected = exchange.distributed(spread.T.view(1, 6, 4, 5))
        torch.testing.assert_close(exchange(features, scores, regions), expected)


def test_parameters_of_the_released_block():
    """Table 3's 21 M: five 3x3 convolutions of 512, the fusion, the auxiliary head (fact sheet, section 3).

    Two of the five are linear layers here, which hold what the released ones use.
    """
    with torch.device("meta"):
        backbone = build_backbone("resnet101c", pretrained=False, output_stride=8)
        network = RANet(backbone, 19, mode="official", multi_grid=[1, 2, 4])
    square = 9 * 512 * 512
    expected = 3 * square + 2 * 512 * 512 + 2 * square + 9 * 1024 * 512
    found = sum(parameter.numel() for parameter in network.context.parameters())
    assert 0 <= found - expected < 30_000  # norms, biases and the 1x1 scores
    dilations = [block.conv2.dilation[0] for block in backbone.network.layer4.children()]
    assert dilations == [4, 8, 16]


def test_a_batch_is_its_pictures():
    network = build_lite(4).eval()
    first, second = scene(seed=1)[0], scene(seed=2)[0]
    with torch.no_grad():
        together = network(torch.cat([first, second])).logits
        torch.testing.assert_close(
            together, torch.cat([network(first).logits, network(second).logits]), rtol=0, atol=1e-5
        )


def test_features_follow_strides_not_sizes():
    """97x161 is padded to 104x168; the maps of stride 16 and 32 stand over that and are cut, not squeezed."""
    torch.manual_seed(0)
    features = Stride8Features(LiteBackbone(), 8, "sum").eval()
    with torch.no_grad():
        small, auxiliary = features(torch.rand(1, 3, 97, 161))
        assert small.shape == (1, 8, 13, 21)
        assert auxiliary.shape == (1, features.auxiliary_channels, 13, 21)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"representatives": 0}, "representatives: expected a whole number from 1"),
        ({"threshold": 1.5}, "threshold: expected an affinity in"),
        ({"grouping": "components", "end_points": False}, "grouping: expected first without end points"),
        ({"mode": "official", "intra": False}, "expected paper with intra or inter"),
        ({"mode": "official", "attention_scale": "learned"}, "expected a number or sqrt"),
        ({"boundary_prior": 0.0}, "boundary_prior: expected a probability"),
        ({"boundary_radius": 0}, "boundary_radius: expected a whole number from 1"),
        ({"class_weights": [1.0]}, "class_weights: expected 4 values"),
        ({"multi_grid": [1, 2, 4]}, "multi_grid: expected one factor"),
        ({"attention_scale": -1.0}, "attention_scale: expected a number from 0"),
        ({"attention_scale": float("nan")}, "attention_scale: expected a number from 0"),
        ({"attention_scale": "learned", "intra": False, "inter": False}, "where nothing attends, got learned"),
        ({"coarse_weight": -1.0}, "coarse_weight: expected a number from 0"),
        ({"dropout": 1.5}, "dropout: expected a number in"),
        ({"class_weights": [1.0, 1.0, -1.0, 1.0]}, "class_weights: expected a number from 0"),
        ({"backend": "cuda"}, "backend: expected one of auto"),
        ({"channels": 0}, "channels: expected a whole number from 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RANet(LiteBackbone(), 4, **{"channels": 16, "neck": "sum", **options})


def test_scores_that_are_not_numbers_are_named():
    network = build_lite(4).eval()
    with torch.no_grad():
        network.context.scores.boundary.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="boundary: expected probabilities"):
        network(scene()[0])


def test_recipes_hold_the_papers_settings():
    steps = {"cityscapes": (769, 40_000), "pascal-context": (520, 60_000), "coco-stuff": (520, 60_000)}
    for name, (crop, length) in steps.items():
        recipe = load_recipe(f"ranet-r101-{name}")
        assert (recipe.data.crop, recipe.training.steps, recipe.data.batch_size) == ([crop, crop], length, 8)
        assert (recipe.optimizer.learning_rate, recipe.optimizer.schedule, recipe.optimizer.power) == (1e-3, "poly", 1)
        assert recipe.evaluation.scales == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
        assert recipe.model.backbone_options == {"output_stride": 8}


def test_an_option_that_does_not_exist_offers_the_nearest():
    recipe = load_recipe("ranet-lite-camvid")
    recipe.model.options["representative"] = 4
    with pytest.raises(SegfocusError, match="unknown option 'representative'; did you mean representatives"):
        build(recipe.model, 11)


def test_the_official_exchange_takes_representatives_of_each_region_only():
    """A region of one cell has one representative: features of other cells that nobody chose do not matter to it."""
    torch.manual_seed(0)
    exchange = GlobalExchange(1, 0.3, 4).eval()
    regions = torch.tensor([[[0, 0, 1, 2, 2, 2]]])
    scores = torch.tensor([[[0.9, 0.1, 0.0, 0.5, 0.8, 0.3]]])
    chosen = choose_representatives(scores.flatten(), regions.flatten(), 8)
    assert [row[row >= 0].tolist() for row in chosen] == [[0, 1], [2], [4, 3, 5]]
    with torch.no_grad():
        usual = exchange(torch.zeros(1, 4, 1, 6), scores, regions)
    assert usual.shape == (1, 4, 1, 6)
    assert usual.isfinite().all()


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_shapes_alone_pass_through(mode):
    with torch.device("meta"):
        network = RANet(LiteBackbone(), 4, mode=mode, channels=16, neck="sum").eval()
        assert network(torch.zeros(1, 3, 64, 96)).logits.shape == (1, 4, 64, 96)


def discs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [count, 3, 64, 64] with up to four discs of three kinds, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    target = torch.zeros(count, 64, 64, dtype=torch.long)
    for labels in target:
        for _ in range(4):
            row, column, size = (torch.rand(3, generator=generator) * torch.tensor([64.0, 64.0, 10.0])).tolist()
            kind = int(torch.randint(1, 4, (1,), generator=generator))
            labels[(y - row) ** 2 + (x - column) ** 2 < (size + 6) ** 2] = kind
    colours = torch.tensor([[0.5, 0.5, 0.5], [0.8, 0.3, 0.3], [0.3, 0.8, 0.3], [0.3, 0.3, 0.8]])
    image = colours[target].permute(0, 3, 1, 2)
    return (image + 0.2 * torch.randn(image.shape, generator=generator)).clamp(0, 1), target


def found_boundaries(network: RANet, image: torch.Tensor, target: torch.Tensor) -> float:
    """How often the coarse boundary map is higher at a cell of the band than at another one (area under the ROC)."""
    with torch.no_grad():
        output = network(image)
    assert output.boundary_logits is not None
    band = torch.nn.functional.avg_pool2d(boundary_band(target)[0].float(), 8) > 0.4
    return float(roc_auc_score(band.flatten(), output.boundary_logits.flatten()))


def test_training_finds_boundaries_and_the_exchange_costs_nothing():
    """Fact sheet, section 6.10; the control has the same convolutions and exchanges nothing."""
    image, target = discs(16, 0)
    fresh, truth = discs(16, 1)
    right = {}
    for exchanged in (True, False):
        torch.manual_seed(0)
        network = RANet(
            LiteBackbone(),
            4,
            channels=32,
            neck="sum",
            attention_scale="sqrt",
            intra=exchanged,
            inter=exchanged,
            coarse_boundary_weight=1.0,  # as published it takes hundreds of steps
        )
        optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
        before, losses = found_boundaries(network.eval(), fresh, truth), []
        network.train()
        for step in range(40):
            rows = slice(8 * (step % 2), 8 * (step % 2) + 8)
            loss = torch.stack(list(network.loss(network(image[rows]), target[rows]).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * losses[0]
        assert found_boundaries(network.eval(), fresh, truth) > max(before + 0.1, 0.65)
        with torch.no_grad():
            right[exchanged] = float((network(fresh).labels() == truth).float().mean())
    assert right[True] > right[False] - 0.02
    assert right[True] > 0.8
