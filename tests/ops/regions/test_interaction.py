"""Region interaction against eqs 6-8 written as loops, and what follows from them."""

import pytest
import torch
from torch.autograd import gradcheck

from segfocus.ops.regions.interaction import _check_maps, attention_from, exchange
from segfocus.ops.regions.representatives import choose_representatives
from tests.ops.regions.largest import Largest
from tests.ops.regions.scenes import voronoi

HEIGHT, WIDTH = 9, 13


def layout(kind, height=HEIGHT, width=WIDTH):
    number = height * width
    if kind == "scene":
        regions = voronoi(height, width, objects=7).objects.unique(return_inverse=True)[1]
    elif kind == "ragged":  # singletons, and regions smaller and larger than K
        sizes = torch.tensor([1, 1, 1, 2, 3, 5, 8, 9, number - 30])
        regions = torch.repeat_interleave(torch.arange(9), sizes)
        regions = regions[torch.randperm(number, generator=torch.Generator().manual_seed(1))]
    else:
        regions = torch.zeros(number, dtype=torch.long) if kind == "one" else torch.arange(number)
    return regions.view(1, height, width)


def inputs(batch=1, channels=5, height=HEIGHT, width=WIDTH, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, height, width, generator=generator, dtype=dtype)
    scores = torch.rand(batch, height, width, generator=generator, dtype=dtype)
    return features.requires_grad_(), scores.requires_grad_()


def exchange_in_loops(features, scores, regions, representatives=8, scale=1.0, intra=True, inter=True):
    """Eqs 6-8 of one picture, word for word."""
    shape = features.shape[1:]
    pixels, importance, regions = features.flatten(1).T, scores.flatten(), regions.flatten()
    number = int(regions.max()) + 1
    phi = [[p for p in row if p >= 0] for row in choose_representatives(importance, regions, representatives).tolist()]
    weighted = importance[:, None] * pixels

    def context(query, values):
        if not values:
            return torch.zeros_like(query)
        values = torch.stack(values)
        return (scale * (values @ query)).softmax(0) @ values

    local, common = {}, {}
    for region in range(number):
        rest = [weighted[i] for i in (regions == region).nonzero()[:, 0].tolist() if i not in phi[region]]
        for p in phi[region]:
            local[p] = weighted[p] + (context(pixels[p], rest) if intra else 0)
    for region in range(number):
        others = [importance[r] * local[r] for s in range(number) if s != region for r in phi[s]]
        for p in phi[region]:
            common[p] = importance[p] * local[p] + (context(local[p], others) if inter else 0)
    result = []
    for i, region in enumerate(regions.tolist()):
        if intra:
            result.append(weighted[i] + context(pixels[i], [importance[p] * common[p] for p in phi[region]]))
        else:
            result.append(common[i] if i in common and inter else weighted[i])
    return torch.stack(result).T.reshape(-1, *shape)


@pytest.mark.parametrize("kind", ["scene", "ragged", "one", "singletons"])
@pytest.mark.parametrize(("intra", "inter"), [(True, True), (False, True), (True, False), (False, False)])
def test_it_equals_the_equations_with_gradients(kind, intra, inter):
    features, scores = inputs()
    regions = layout(kind)
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    result = exchange(features, scores, regions, representatives=4, scale=scale, intra=intra, inter=inter)
    expected = exchange_in_loops(features[0], scores[0], regions[0], 4, scale, intra, inter)[None]
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(result)
    gradients = [
        torch.autograd.grad(value, (features, scores, scale), weight, allow_unused=True, materialize_grads=True)
        for value in (result, expected)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("count", [1, 8, 200])
def test_any_number_of_representatives(count):
    features, scores = inputs()
    regions = layout("ragged")
    result = exchange(features, scores, regions, representatives=count, scale=0.5)
    expected = exchange_in_loops(features[0], scores[0], regions[0], count, 0.5)
    torch.testing.assert_close(result[0], expected, rtol=1e-10, atol=1e-10)


def test_single_precision_is_near():
    features, scores = inputs(channels=16)
    result = exchange(features.float(), scores.float(), layout("scene"), scale=0.25)
    expected = exchange(features, scores, layout("scene"), scale=0.25)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_gradcheck():
    features, scores = inputs(channels=2, height=3, width=4)
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    regions = torch.tensor([0, 0, 1, 1, 0, 0, 2, 1, 0, 3, 1, 1]).view(1, 3, 4)
    assert gradcheck(
        lambda a, j, factor: exchange(a, j, regions, representatives=2, scale=factor), (features, scores, scale)
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_any_map_size(height, width):
    features, scores = inputs(height=height, width=width)
    for kind in ("one", "singletons"):
        regions = layout(kind, height, width).int()
        result = exchange(features, scores, regions)
        torch.testing.assert_close(result[0], exchange_in_loops(features[0], scores[0], regions[0]))


def test_pictures_of_a_batch_do_not_see_each_other():
    features, scores = inputs(batch=2)
    regions = torch.cat([layout("scene"), layout("ragged")])
    together = exchange(features, scores, regions)
    for picture in range(2):
        part = slice(picture, picture + 1)
        assert torch.equal(together[part], exchange(features[part], scores[part], regions[part]))
    assert exchange(features[:0], scores[:0], regions[:0]).shape == (0, 5, HEIGHT, WIDTH)


def test_other_regions_reach_a_region_only_through_inter_region_interaction():
    features, scores = inputs()
    regions = layout("scene")
    changed = torch.where(regions[:, None] == 2, features + 3, features)
    others = (regions != 2)[:, None].expand_as(features)
    alone = [exchange(value, scores, regions, inter=False)[others] for value in (features, changed)]
    assert torch.equal(*alone)
    assert not torch.allclose(exchange(features, scores, regions)[others], exchange(changed, scores, regions)[others])


def test_padding_is_never_read():
    features, scores = inputs()
    regions = layout("ragged")
    clean = exchange(features, scores, regions, inter=False)
    for region in (int(regions.flatten()[0]), int(regions.flatten()[-1]), 0, 8):
        poisoned = features.masked_fill((regions == region)[:, None], torch.nan)
        result = exchange(poisoned, scores, regions, inter=False)
        kept = (regions != region)[:, None].expand_as(result)
        assert torch.equal(result[kept], clean[kept])
        gradient = torch.autograd.grad(result[kept].sum(), features)[0]
        assert gradient[kept].isfinite().all()


def test_one_region_has_no_common_context():
    features, scores = inputs()
    regions = layout("one")
    assert torch.equal(exchange(features, scores, regions), exchange(features, scores, regions, inter=False))


def test_permuting_pixels_permutes_the_result():
    features, scores = inputs()
    regions = layout("ragged")
    order = torch.randperm(HEIGHT * WIDTH, generator=torch.Generator().manual_seed(3))

    def permuted(maps):
        return maps.flatten(-2)[..., order].view(maps.shape)

    result = exchange(permuted(features), permuted(scores), permuted(regions), representatives=4)
    torch.testing.assert_close(result, permuted(exchange(features, scores, regions, representatives=4)))


def test_pixels_of_no_score_receive_context_and_give_none():
    features, scores = inputs()
    regions = layout("ragged")
    silent = (torch.arange(HEIGHT * WIDTH) % 3 == 0).view(1, HEIGHT, WIDTH)
    scores = scores.detach().masked_fill(silent, 0)
    result = exchange(features, scores, regions)
    torch.testing.assert_close(result[0], exchange_in_loops(features[0], scores[0], regions[0]))
    within = silent & (regions == 8)
    assert (result.abs().sum(1)[within] > 0).all()
    assert not exchange(features, torch.zeros_like(scores), regions).any()


def test_an_id_without_pixels_changes_nothing():
    features, scores = inputs()
    regions = layout("scene")
    assert torch.equal(exchange(features, scores, regions), exchange(features, scores, 2 * regions + 1))


def test_autocast_changes_nothing_and_half_precision_gives_single():
    features, scores = inputs(channels=8, dtype=torch.float32)
    regions = layout("scene")
    expected = exchange(features, scores, regions)
    gradients = torch.autograd.grad(expected.square().sum(), (features, scores))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = exchange(features, scores, regions)
        assert torch.equal(result, expected)
        for one, other in zip(torch.autograd.grad(result.square().sum(), (features, scores)), gradients, strict=True):
            assert torch.equal(one, other)
        assert exchange(features.bfloat16(), scores, regions).dtype == torch.float32


@pytest.mark.parametrize("kind", ["one", "singletons"])
def test_no_table_of_all_pairs_is_made(kind):
    # 2304 singletons: 5.3 million pairs; what is held at once is bounded by 2.1 million weights
    features, scores = inputs(channels=8, height=48, width=48, dtype=torch.float32)
    with Largest() as largest:
        exchange(features, scores, layout(kind, 48, 48)).sum().backward()
    assert largest.numbers <= (1 << 21)
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["scene", "ragged", "one", "singletons"])
@pytest.mark.parametrize(("intra", "inter"), [(True, True), (False, True), (True, False), (False, False)])
def test_the_map_of_a_pixel_composes_its_result(kind, intra, inter):
    features, scores = inputs()
    regions = layout(kind)
    options = {"representatives": 4, "scale": 0.8, "intra": intra, "inter": inter}
    result = exchange(features, scores, regions, **options)[0]
    best = int(scores.flatten().argmax())  # represents its region in every layout
    for pixel in (0, 58, 116, best):
        row, column = divmod(pixel, WIDTH)
        entering = attention_from(features[0], scores[0], regions[0], row, column, **options)
        assert not entering.requires_grad
        assert entering.min() >= 0
        composed = (features[0] * scores[0] * entering).sum((1, 2))
        torch.testing.assert_close(composed, result[:, row, column], rtol=1e-9, atol=1e-9)


def test_without_intra_region_communication_other_pixels_draw_on_themselves():
    features, scores = inputs()
    regions = layout("one")
    worst = int(scores.flatten().argmin())
    row, column = divmod(worst, WIDTH)
    entering = attention_from(features[0], scores[0], regions[0], row, column, intra=False)
    assert entering[row, column] == 1
    assert entering.sum() == 1


def test_errors_name_what_is_wrong():
    features, scores = inputs()
    regions = layout("scene")
    with pytest.raises(ValueError, match=r"pixel: expected a place in 9 x 13 cells, got \(9, 0\); try the middle"):
        attention_from(features[0], scores[0], regions[0], 9, 0)
    with pytest.raises(ValueError, match="representatives: expected at least 1 a region, got 0; try 8"):
        exchange(features, scores, regions, representatives=0)
    with pytest.raises(ValueError, match="regions: expected ids from 0, got -1; try"):
        exchange(features, scores, regions - 1)


@pytest.mark.parametrize(("value", "found"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_scores_that_are_no_numbers_are_refused(value, found):
    features, scores = inputs()
    regions, scores = layout("scene"), scores.detach()
    scores[0, 3, 4] = value
    with pytest.raises(ValueError, match=rf"scores: expected finite values in \[0, 1\], got {found}; try"):
        exchange(features, scores, regions)
    with pytest.raises(ValueError, match=f"scores: expected finite values.*, got {found}; try"):
        attention_from(features[0], scores[0], regions[0], 0, 0)


def test_maps_of_another_size_are_refused():
    # the annotations, checked in tests only, would complain first
    (features, scores), regions = inputs(batch=2), layout("scene").repeat(2, 1, 1)
    form = "batch", "channels", "height", "width"
    with pytest.raises(ValueError, match=r"scores: expected .* 2 x 9 x 13, got 2 x 9 x 12; try"):
        _check_maps(features, scores[..., 1:], regions, *form)
    with pytest.raises(ValueError, match=r"regions: expected .* 2 x 9 x 13, got 1 x 9 x 13; try"):
        _check_maps(features, scores, regions[:1], *form)
    with pytest.raises(ValueError, match=r"features: expected batch x .* x width, got 5 x 9 x 13; try"):
        _check_maps(features[0], scores, regions, *form)
    with pytest.raises(ValueError, match=r"features: expected channels x .*, got 2 x 5 x 9 x 13; try one picture"):
        _check_maps(features, scores, regions, *form[1:])
