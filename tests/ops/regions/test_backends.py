"""What every backend must return: the definition's leaders, scores and gradients, and known regions."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segfocus.ops.regions import RegionRules, construct_regions, merge, representative_scores, streaming
from segfocus.ops.regions.backends import load_backend
from tests.ops.regions.backends import DEVICES, every_backend, fast_backend
from tests.ops.regions.scenes import clear, flat, noise, voronoi

RULES = {
    "paper": RegionRules(),
    "without end points": RegionRules(end_points=False),
    "components": RegionRules(grouping="components"),
    "boundary": RegionRules(evidence="boundary"),
    "semantic": RegionRules(evidence="semantic"),
    "semantic components": RegionRules(evidence="semantic", grouping="components"),
    "released": RegionRules(end_points=False, divergence="bernoulli"),
    "released components": RegionRules(divergence="bernoulli", grouping="components"),
    "other threshold": RegionRules(threshold=0.55),
}
every_rules = pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
every_scene = pytest.mark.parametrize("make", [voronoi, flat, noise])


def on_device(backend, *tensors):
    return [tensor.to(DEVICES[backend]) for tensor in tensors]


def assert_equal_to_definition(scene, rules, backend, tolerance):
    definition, module = load_backend("dense"), load_backend(backend)
    inputs = scene.boundary, scene.semantic
    moved = on_device(backend, *inputs)
    leaders = definition.group(*inputs, rules)
    assert torch.equal(module.group(*moved, rules).cpu(), leaders)
    regions = merge(leaders, *scene.boundary.shape, rules).flatten()
    scores = definition.scores_forward(*inputs, regions, rules)
    place = regions.to(DEVICES[backend])
    found = module.scores_forward(*moved, place, rules)
    assert found.dtype == scene.boundary.dtype
    torch.testing.assert_close(found.cpu(), scores, rtol=0, atol=tolerance)
    assert scores.min() >= 0
    assert scores.max() <= 1
    gradient = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores)
    expected = definition.scores_backward(gradient, *inputs, regions, rules)
    gradients = module.scores_backward(gradient.to(DEVICES[backend]), *moved, place, rules)
    for mine, theirs in zip(gradients, expected, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine.cpu(), theirs, rtol=0, atol=10 * tolerance * scale)


@fast_backend
@every_rules
@every_scene
def test_small_pictures_in_single_precision(make, rules, backend):
    for size in ((9, 13), (11, 7)):
        assert_equal_to_definition(clear(make, *size, rules=rules), rules, backend, 1e-5)


@fast_backend
@every_rules
def test_larger_pictures_in_double_precision(rules, backend):
    scene = clear(voronoi, 17, 22, rules=rules, needed=1e-9, dtype=torch.float64, classes=4)
    assert_equal_to_definition(scene, rules, backend, 1e-10)


@fast_backend
@every_rules
@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1), (2, 2)])
def test_thin_pictures_and_one_class(size, rules, backend):
    assert_equal_to_definition(clear(noise, *size, rules=rules), rules, backend, 1e-5)
    assert_equal_to_definition(clear(noise, *size, rules=rules, classes=1), rules, backend, 1e-5)


@every_backend
@every_rules
def test_gradients_of_the_scores(rules, backend):
    scene = voronoi(4, 5, classes=3, dtype=torch.float64)
    regions = torch.tensor([0] * 11 + [1] * 8 + [2], device=DEVICES[backend])
    semantic = 0.05 + 0.8 * scene.semantic
    inputs = [tensor.requires_grad_() for tensor in on_device(backend, scene.boundary, semantic)]
    assert torch.autograd.gradcheck(
        lambda *both: representative_scores(*both, regions, rules, backend), inputs, fast_mode=True
    )


def gradients_in_one_region(backend, rules, boundary, semantic):
    pixels = boundary.numel()
    inputs = on_device(backend, boundary, semantic, torch.zeros(pixels, dtype=torch.long))
    gradient = torch.linspace(0.5, 2, pixels, device=inputs[0].device)
    return [found.cpu() for found in load_backend(backend).scores_backward(gradient, *inputs, rules)]


@fast_backend
@pytest.mark.parametrize("evidence", ["both", "semantic"])
def test_probabilities_of_exactly_zero_and_one_have_the_gradients_of_the_definition(evidence, backend):
    boundary = torch.tensor([[0.0, 1.0, 0.5], [0.2, 0, 1]])
    semantic = torch.eye(3)[torch.tensor([0, 0, 1, 2, 2, 1])].T.reshape(3, 2, 3).contiguous()
    given = RegionRules(evidence=evidence), boundary, semantic
    expected = gradients_in_one_region("dense", *given)
    assert expected[1].abs().max() > 20  # log2 of 1e-30 counts, not a clamp
    for found, wanted in zip(gradients_in_one_region(backend, *given), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@fast_backend
@pytest.mark.parametrize("divergence", ["jensen_shannon", "bernoulli"])
def test_two_equal_end_points_share_the_gradient_as_in_the_definition(divergence, backend):
    # the flattest and commonest tie: a boundary that is the same everywhere
    given = RegionRules(divergence=divergence), torch.full((5, 6), 0.3), noise(5, 6).semantic
    expected = gradients_in_one_region("dense", *given)[0]
    torch.testing.assert_close(gradients_in_one_region(backend, *given)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def flat_and_large():
    """One region of 2401 pixels, and its scores and gradients in double precision."""
    scene = flat(49, 49, classes=3)
    gradient = torch.rand(49**2, generator=torch.Generator().manual_seed(0)) / 49**2
    given = gradient, scene.boundary, scene.semantic
    precise = [tensor.double() for tensor in given]
    regions = torch.zeros(49**2, dtype=torch.long)
    expected = streaming.scores_forward(*precise[1:], regions, RegionRules())
    return given, regions, (expected, *streaming.scores_backward(*precise, regions, RegionRules()))


def assert_exact_in_a_large_region(flat_and_large, backend):
    given, regions, (scores, *gradients) = flat_and_large
    moved, module = on_device(backend, *given, regions), load_backend(backend)
    found = module.scores_forward(*moved[1:], RegionRules())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu().double(), scores, rtol=0, atol=2e-6)
    for mine, wanted in zip(module.scores_backward(*moved, RegionRules()), gradients, strict=True):
        torch.testing.assert_close(mine.cpu().double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@fast_backend
def test_large_regions_lose_no_precision(flat_and_large, backend):
    assert_exact_in_a_large_region(flat_and_large, backend)


def test_large_regions_lose_no_precision_where_there_is_no_float64(flat_and_large, monkeypatch):
    monkeypatch.setattr(streaming, "_widest", lambda device: torch.float32)
    assert_exact_in_a_large_region(flat_and_large, "torch")


class WithoutDoubles(TorchDispatchMode):
    """A device like Apple's GPUs."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            # numbers of no dimensions do not live on the device
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and tensor.ndim:
                raise TypeError(f"{function} makes float64")
        return made


def test_streaming_and_merging_need_no_float64(monkeypatch):
    monkeypatch.setattr(streaming, "_widest", lambda device: torch.float32)
    scene = clear(voronoi, 9, 13, rules=RegionRules())
    expected = construct_regions(scene.boundary[None], scene.semantic[None], backend="dense")
    inputs = scene.boundary[None].requires_grad_(), scene.semantic[None].requires_grad_()
    with WithoutDoubles():
        found = construct_regions(*inputs, backend="torch")
        found.scores.sum().backward()
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores)


@every_backend
@pytest.mark.parametrize("end_points", [True, False])
def test_a_pixel_alone_is_scored_by_its_own_boundary(end_points, backend):
    scene = noise(4, 6)
    rules = RegionRules(end_points=end_points)
    scores = load_backend(backend).scores_forward(
        *on_device(backend, scene.boundary, scene.semantic, torch.arange(24)), rules
    )
    expected = 1 - scene.boundary.flatten() if end_points else torch.ones(24)
    torch.testing.assert_close(scores.cpu(), expected)


def halves(thickness, *, across=False, same_class=True, gap=None):
    """11 x 12 picture of two halves, left and right (or above and below) of a wall, which may lack one row."""
    walls, semantic = torch.full((1, 11, 12), 0.01), torch.full((1, 2, 11, 12), 0.01)
    walls[:, :, 5 : 5 + thickness] = 0.99
    if gap is not None:
        walls[:, gap] = 0.01
    semantic[:, 0, :, :6] = semantic[:, 1 if not same_class else 0, :, 6:] = 0.99
    return (walls.mT, semantic.mT) if across else (walls, semantic)


def found_regions(backend, walls, semantic, **options):
    labels, _ = construct_regions(*on_device(backend, walls, semantic), RegionRules(**options), backend)
    return labels[0].cpu()


@every_backend
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("thickness", [1, 2, 3])
@pytest.mark.parametrize("grouping", ["first", "components"])
def test_a_wall_separates_only_with_end_points(grouping, thickness, across, backend):
    picture = halves(thickness, across=across)
    labels = found_regions(backend, *picture, grouping=grouping)
    labels = labels.T if across else labels
    assert labels.max() == 1
    assert (labels[:, :5] == 0).all()
    assert (labels[:, 5 + thickness :] == 1).all()
    # as released, a chain of neighbours steps over any wall
    assert found_regions(backend, *picture, end_points=False).max() == 0


@every_backend
def test_classes_separate_without_a_wall(backend):
    labels = found_regions(backend, *halves(0, same_class=False))
    assert torch.equal(labels, (torch.arange(12) >= 6).long().expand(11, 12))
    assert found_regions(backend, *halves(0)).max() == 0


@every_backend
@pytest.mark.parametrize(("grouping", "gap"), [("components", 6), ("components", 10), ("first", 0)])
def test_regions_join_through_a_gap(grouping, gap, backend):
    assert found_regions(backend, *halves(2), grouping=grouping, min_region=1).unique().numel() == 2 + 2 * 11
    labels = found_regions(backend, *halves(2, gap=gap), grouping=grouping, min_region=1)
    assert labels[0, 0] == labels[0, 11] == labels[10, 11] == labels[gap, 5]


@every_backend
def test_first_does_not_join_what_has_led_itself_before_the_gap(backend):
    # not connected components: the upper right corner sees nobody before it, and all below follow it
    labels = found_regions(backend, *halves(2, gap=6))
    assert labels[0, 0] == labels[6, 5] == 0
    assert labels[0, 11] == labels[10, 11] == 1


@every_backend
def test_a_closed_ring_parts_inside_and_outside(backend):
    walls = torch.full((1, 11, 12), 0.01)
    walls[0, 2:9, 2:9] = 0.99
    walls[0, 3:8, 3:8] = 0.01
    ring = walls[0] > 0.5
    inside = torch.zeros_like(ring)
    inside[3:8, 3:8] = True
    labels = found_regions(backend, walls, torch.ones(1, 1, 11, 12), min_region=1)
    assert len(labels[inside].unique()) == len(labels[~inside & ~ring].unique()) == 1
    assert len(labels[ring].unique()) == int(ring.sum())
    assert labels.max() + 1 == 2 + int(ring.sum())
    assert found_regions(backend, walls, torch.ones(1, 1, 11, 12)).unique().tolist() == [0, 1]


@every_backend
def test_components_turn_with_the_picture(backend):
    rules = RegionRules(grouping="components", min_region=1)
    scene = clear(voronoi, 9, 13, rules=rules)
    labels = found_regions(backend, scene.boundary[None], scene.semantic[None], grouping="components", min_region=1)
    flipped = found_regions(
        backend, scene.boundary.flip(1)[None], scene.semantic.flip(2)[None], grouping="components", min_region=1
    ).flip(1)
    # the same partition, numbered otherwise
    pairs = torch.stack([labels.flatten(), flipped.flatten()]).unique(dim=1)
    assert pairs.shape[1] == labels.max() + 1 == flipped.max() + 1


@every_backend
def test_leaders_are_never_behind_and_roots_see_nobody_before_them(backend):
    scene = clear(voronoi, 9, 13, rules=RegionRules())
    leaders = load_backend(backend).group(*on_device(backend, scene.boundary, scene.semantic), RegionRules()).cpu()
    own = torch.arange(117)
    assert (leaders <= own).all()
    table = load_backend("dense").affinity(scene.boundary, scene.semantic, RegionRules())
    joined = ((table + table.T) / 2 > 0.8).tril(-1)
    assert not joined[leaders == own].any()


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any tensor made meanwhile has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("grouping", ["first", "components"])
def test_streaming_makes_no_table_of_all_pairs(grouping):
    rules = RegionRules(grouping=grouping)
    scene = voronoi(33, 33)
    inputs = scene.boundary[None].requires_grad_(), scene.semantic[None].requires_grad_()
    with LargestTensor() as largest:
        construct_regions(*inputs, rules, "torch").scores.sum().backward()
    assert largest.elements < 33**4 / 30


def test_less_memory_than_one_table():
    script = textwrap.dedent(
        """
        import resource, sys, torch
        from segfocus.ops.regions import construct_regions
        torch.set_num_threads(1)

        def work(size):
            generator = torch.Generator().manual_seed(0)
            boundary = 0.05 * torch.rand(1, size, size, generator=generator)
            boundary[:, :, size // 2] = boundary[:, size // 3] = 0.9
            semantic = torch.randn(1, 5, size, size, generator=generator).mul(0.1).softmax(1)
            for backend in sys.argv[1:]:
                inputs = boundary.clone().requires_grad_(), semantic.clone().requires_grad_()
                construct_regions(*inputs, backend=backend).scores.sum().backward()
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        before = work(9)
        print(work(65) - before)
        """
    )
    names = [name for name in ("torch", "numba") if name in DEVICES]
    environment = {**os.environ, "SEGFOCUS_TYPE_HOOK": "0", "JAXTYPING_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *names], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # kilobytes on Linux, bytes on macOS
    extra = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert extra < 65**4 * 4
