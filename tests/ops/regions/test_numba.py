"""The compiled backend: every rule against the definition, and nothing that depends on the number of threads.

What holds for every backend is in test_backends.py.
"""

import itertools

import pytest
import torch

pytest.importorskip("numba")

from segfocus.ops.regions import definition, numba_blocks, numba_cpu
from segfocus.ops.regions.rules import RegionRules
from tests.ops.regions.scenes import Scene, flat, noise, voronoi

RULES = {
    f"{divergence}-{evidence}-{'whole' if ends else 'inner'}": RegionRules(
        divergence=divergence, evidence=evidence, end_points=ends
    )
    for divergence, evidence, ends in itertools.product(
        ("jensen_shannon", "bernoulli"), ("both", "boundary", "semantic"), (True, False)
    )
}
# wider and higher than a block, and lines without a second axis
SIZES = [(7, numba_blocks.LANES + 5), (numba_blocks.LANES + 9, 4), (11, 13), (1, 37), (37, 1), (1, 1)]


def halves(scene: Scene) -> torch.Tensor:
    """Two regions that interleave: one pixel in three, and the rest."""
    pixels = scene.boundary.numel()
    regions = (torch.arange(pixels) % 3 == 1).long()
    return regions if pixels > 1 else torch.zeros(1, dtype=torch.long)


def assert_same_scores(scene: Scene, regions: torch.Tensor, rules: RegionRules, tolerance: float) -> None:
    arguments = scene.boundary, scene.semantic, regions, rules
    expected = definition.scores_forward(*arguments)
    torch.testing.assert_close(numba_cpu.scores_forward(*arguments), expected, atol=tolerance, rtol=0)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.rand(expected.shape, generator=generator, dtype=expected.dtype)
    for found, wanted in zip(
        numba_cpu.scores_backward(gradient, *arguments),
        definition.scores_backward(gradient, *arguments),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("make", [flat, noise])
def test_scores_and_gradients_equal_the_definition(rules, make):
    for size in SIZES:
        scene = make(*size, dtype=torch.float64)
        assert_same_scores(scene, halves(scene), rules, 1e-12)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_float32_stays_close(rules):
    scene = noise(9, numba_blocks.LANES + 3, classes=19)
    assert_same_scores(scene, halves(scene), rules, 2e-6)


@pytest.mark.parametrize("grouping", ["first", "components"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_leaders_equal_the_definition(rules, grouping):
    if grouping == "components" and not rules.end_points and rules.evidence != "semantic":
        return  # refused by RegionRules
    rules = RegionRules(
        divergence=rules.divergence, evidence=rules.evidence, end_points=rules.end_points, grouping=grouping
    )
    for make, size in [(voronoi, (13, 19)), (flat, (6, 9)), (noise, (9, 14)), (noise, (1, 30)), (noise, (30, 1))]:
        scene = make(*size, dtype=torch.float64)
        expected = definition.group(scene.boundary, scene.semantic, rules)
        assert torch.equal(numba_cpu.group(scene.boundary, scene.semantic, rules), expected)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.95])
def test_pruning_is_exact_at_every_threshold(threshold):
    rules = [RegionRules(threshold=threshold, divergence=name) for name in ("jensen_shannon", "bernoulli")]
    scene = voronoi(12, 17, seed=4, noise=2.0, dtype=torch.float64)
    for rule in rules:
        expected = definition.group(scene.boundary, scene.semantic, rule)
        assert torch.equal(numba_cpu.group(scene.boundary, scene.semantic, rule), expected)


def test_results_do_not_depend_on_the_number_of_threads():
    scene = voronoi(24, 41, classes=7)
    rules = RegionRules(grouping="components")
    gradient = torch.rand(24 * 41, generator=torch.Generator().manual_seed(0))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaders = numba_cpu.group(scene.boundary, scene.semantic, rules)
            regions = halves(scene)
            arguments = scene.boundary, scene.semantic, regions, rules
            results.append(
                (leaders, numba_cpu.scores_forward(*arguments), *numba_cpu.scores_backward(gradient, *arguments))
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(first, second) for first, second in zip(results[0], other, strict=True))


def test_fewer_parts_for_many_classes_change_nothing_but_rounding(monkeypatch):
    scene = noise(8, 11)
    arguments = torch.rand(88), scene.boundary, scene.semantic, halves(scene), RegionRules()
    many = numba_cpu.scores_backward(*arguments)
    monkeypatch.setattr(numba_cpu, "_GRADIENT_BYTES", 1)
    for few, found in zip(numba_cpu.scores_backward(*arguments), many, strict=True):
        torch.testing.assert_close(few, found)


def test_certain_and_impossible_classes_keep_gradients_finite():
    semantic = torch.zeros(2, 3, 4)
    semantic[0, :, :2], semantic[1, :, 2:] = 1, 1
    boundary = torch.linspace(0, 0.5, 12).view(3, 4)
    regions = torch.zeros(12, dtype=torch.long)
    scores = numba_cpu.scores_forward(boundary, semantic, regions, RegionRules(evidence="semantic"))
    torch.testing.assert_close(scores, torch.full((12,), 0.5))  # half of the pixels are of the other class, E = 1
    for gradient in numba_cpu.scores_backward(torch.ones(12), boundary, semantic, regions, RegionRules()):
        assert gradient.isfinite().all()
