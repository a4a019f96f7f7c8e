"""The compiled backend: pictures wider than its blocks, and nothing that depends on the number of threads.

What holds for every backend is in test_backends.py.
"""

import importlib

import pytest
import torch

pytest.importorskip("numba")

from segfocus.ops.regions import definition, numba_blocks, numba_cpu, numba_math
from segfocus.ops.regions.rules import RegionRules
from tests.ops.regions.scenes import Scene, noise, voronoi

RULES = {
    f"{divergence}-{evidence}-{'whole' if ends else 'inner'}": RegionRules(
        divergence=divergence, evidence=evidence, end_points=ends
    )
    for divergence, evidence, ends in (
        ("jensen_shannon", "both", True),
        ("jensen_shannon", "boundary", False),
        ("bernoulli", "both", False),
        ("bernoulli", "semantic", True),
    )
}
# wider and higher than a block, several blocks wide, and lines without a second axis
LANES = numba_blocks.LANES
SIZES = [(7, LANES + 5), (LANES + 9, 4), (5, 3 * LANES + 4), (1, LANES + 5), (LANES + 5, 1)]


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
def test_scores_and_gradients_equal_the_definition_in_any_number_of_blocks(rules):
    for size in SIZES:
        scene = noise(*size, dtype=torch.float64, classes=3)
        assert_same_scores(scene, halves(scene), rules, 1e-12)


def test_float32_stays_close_in_several_blocks():
    scene = noise(5, 3 * LANES + 4, classes=19)
    assert_same_scores(scene, halves(scene), RegionRules(), 2e-6)


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


def test_what_was_compiled_is_kept_only_while_no_source_changes(tmp_path, monkeypatch):
    """Compiled code holds the functions and constants of other files, which numba does not look at."""
    (tmp_path / "kernel.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    kernel = importlib.import_module("kernel")

    def kept():
        function = numba_math.compiled(kernel.twice)
        assert function(4) == 8
        return sum(function.stats.cache_hits.values())

    assert [kept(), kept()] == [0, 1]
    monkeypatch.setattr(numba_math, "_sources", lambda: "edited")
    assert [kept(), kept()] == [0, 1]
