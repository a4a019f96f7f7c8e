"""Batches, bad input, precision and the choice of a backend."""

import warnings
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from segfocus.ops.regions import BackendWarning, RegionRules, backends, choose_backend, construct_regions
from segfocus.ops.regions.construct import _check_maps
from tests.ops.regions.backends import DEVICES, every_backend
from tests.ops.regions.scenes import clear, flat, noise, voronoi

CPU = torch.device("cpu")


def batch(*scenes, backend="dense"):
    return (
        torch.stack([scene.boundary for scene in scenes]).to(DEVICES[backend]),
        torch.stack([scene.semantic for scene in scenes]).to(DEVICES[backend]),
    )


@every_backend
def test_pictures_of_a_batch_do_not_see_each_other(backend):
    scenes = [clear(make, 9, 13, rules=RegionRules()) for make in (voronoi, flat, noise)]
    together = construct_regions(*batch(*scenes, backend=backend), backend=backend)
    alone = [construct_regions(*batch(scene, backend=backend), backend=backend) for scene in scenes]
    assert torch.equal(together.labels, torch.cat([one.labels for one in alone]))
    torch.testing.assert_close(together.scores, torch.cat([one.scores for one in alone]), rtol=0, atol=1e-6)
    expected = construct_regions(*batch(*scenes), backend="dense")
    assert torch.equal(together.labels.cpu(), expected.labels)
    torch.testing.assert_close(together.scores.cpu(), expected.scores, rtol=0, atol=1e-5)


@every_backend
def test_flat_is_one_region_and_noise_nearly_all_singletons(backend):
    rules = RegionRules(min_region=1, max_regions=None)
    labels = construct_regions(*batch(flat(9, 13), noise(9, 13), backend=backend), rules, backend).labels
    assert labels[0].max() == 0
    assert labels[1].max() > 90
    assert construct_regions(*batch(noise(9, 13), backend=backend), backend=backend).labels.max() > 90
    capped = construct_regions(*batch(noise(9, 13), backend=backend), RegionRules(max_regions=7), backend)
    assert capped.labels.max() == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_single_precision_under_autocast(dtype):
    boundary, semantic = (
        tensor.to(dtype).requires_grad_() for tensor in batch(clear(voronoi, 9, 13, rules=RegionRules()))
    )
    with torch.autocast("cpu", torch.bfloat16):
        labels, scores = construct_regions(boundary, semantic, backend="torch")
    expected = construct_regions(boundary.detach().float(), semantic.detach().float(), backend="torch")
    assert scores.dtype == torch.float32
    assert torch.equal(labels, expected.labels)
    assert torch.equal(scores, expected.scores)
    scores.sum().backward()
    assert boundary.grad.dtype == semantic.grad.dtype == dtype
    assert boundary.grad.any()


def test_regions_carry_no_gradient_and_scores_do():
    inputs = [tensor.requires_grad_() for tensor in batch(voronoi(9, 13))]
    labels, scores = construct_regions(*inputs, backend="torch")
    assert not labels.requires_grad
    found = torch.autograd.grad(scores.sum(), inputs, create_graph=False)
    assert all(gradient.any() for gradient in found)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("boundary", float("nan"), "got NaN in picture 1"),
        ("semantic", float("nan"), "got NaN in picture 1"),
        ("boundary", 1.5, "got .* to 1.5 in picture 1; try sigmoid or softmax"),
        ("semantic", -0.25, "got -0.25 to .* in picture 1"),
        ("semantic", float("inf"), "got .* to inf in picture 1"),
    ],
)
def test_values_that_are_no_probabilities_are_named(name, value, found):
    inputs = dict(zip(("boundary", "semantic"), batch(flat(4, 5), flat(4, 5)), strict=True))
    inputs[name][1, ..., 2, 3] = value
    with pytest.raises(ValueError, match=rf"^{name}: expected probabilities in \[0, 1\], {found}"):
        construct_regions(**inputs)


def test_probabilities_that_do_not_sum_to_one_are_named():
    boundary, semantic = batch(flat(4, 5), flat(4, 5))
    semantic[1, :, 2, 3] = 0.3
    message = "^semantic: expected probabilities that sum to 1 .*, got 1.5 in picture 1; try softmax"
    with pytest.raises(ValueError, match=message):
        construct_regions(boundary, semantic)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_softmax_in_half_precision_groups_alike(dtype, backend):
    scene = clear(voronoi, 9, 13, rules=RegionRules(), classes=19)
    boundary, semantic = scene.boundary[None], scene.semantic[None].log().to(dtype).softmax(1)
    assert (semantic.float().sum(1) - 1).abs().max() > 1e-4
    exact = semantic.float() / semantic.float().sum(1, keepdim=True)
    found = construct_regions(boundary.to(DEVICES[backend]), semantic.to(DEVICES[backend]), backend=backend)
    expected = construct_regions(boundary, exact, backend="dense")
    assert torch.equal(found.labels.cpu(), expected.labels)
    torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=0, atol=0.01)


def test_maps_of_different_size_are_refused():
    # the annotations of construct_regions, checked in tests only, would complain first
    with pytest.raises(ValueError, match=r"boundary: expected .* 1 x 4 x 5, got 1 x 4 x 6; try"):
        _check_maps(torch.zeros(1, 4, 6), torch.ones(1, 2, 4, 5))
    with pytest.raises(ValueError, match=r"semantic: expected a batch .*, got 2 x 4 x 5; try semantic\[None\]"):
        _check_maps(torch.zeros(4, 5), torch.ones(2, 4, 5))


@pytest.mark.parametrize("size", [(0, 3, 4, 5), (1, 0, 4, 5), (1, 3, 0, 5)])
def test_nothing_is_refused(size):
    with pytest.raises(ValueError, match="semantic: expected at least one"):
        construct_regions(torch.zeros(size[0], *size[2:]), torch.zeros(size))


def test_automatic_choice(monkeypatch):
    monkeypatch.setattr(backends, "_problem", lambda name: None)
    assert choose_backend("auto", CPU) == "numba"
    assert choose_backend("auto", torch.device("cuda")) == "triton"
    assert choose_backend("auto", torch.device("mps")) == "torch"
    assert [choose_backend(name, CPU) for name in ("dense", "torch", "numba")] == ["dense", "torch", "numba"]


@pytest.fixture
def imported_anew():
    backends._problem.cache_clear()
    backends._say_missing.cache_clear()
    yield
    backends._problem.cache_clear()
    backends._say_missing.cache_clear()


def failing(monkeypatch, error):
    """As if importing any backend but PyTorch's failed."""
    load = backends.load_backend

    def load_or_fail(name):
        if name in ("numba", "triton"):
            raise error
        return load(name)

    monkeypatch.setattr(backends, "load_backend", load_or_fail)


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_package_that_cannot_be_imported_is_passed_over_with_the_reason(kind, monkeypatch, imported_anew):
    failing(monkeypatch, kind("Numba needs NumPy 2.3 or less.\nGot NumPy 2.4."))
    reason = r"numba cannot be imported \(Numba needs NumPy 2.3 or less. Got NumPy 2.4.\); try pip install"
    with pytest.warns(BackendWarning, match=f"as {reason}"):
        assert choose_backend("auto", CPU) == "torch"
    with pytest.raises(ValueError, match=f"got numba: {reason}"):
        construct_regions(*batch(flat(4, 5)), backend="numba")


def test_a_missing_package_is_said_once(monkeypatch, imported_anew):
    failing(monkeypatch, ModuleNotFoundError("No module named 'numba'", name="numba"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert choose_backend("auto", CPU) == choose_backend("auto", CPU) == "torch"
        labels = construct_regions(*batch(flat(4, 5))).labels
    assert not labels.any()
    assert [message.category for message in said] == [BackendWarning]
    assert "numba is not installed; try pip install --upgrade numba" in str(said[0].message)


def test_a_missing_package_asked_for_is_an_error(monkeypatch, imported_anew):
    failing(monkeypatch, ModuleNotFoundError("No module named 'numba'", name="numba"))
    with pytest.raises(ValueError, match="numba is not installed; try pip install --upgrade numba"):
        construct_regions(*batch(flat(4, 5)), backend="numba")
    backends._problem.cache_clear()
    failing(monkeypatch, ModuleNotFoundError("No module named 'triton'", name="triton"))
    with pytest.raises(ValueError, match="got triton: triton is not installed; try backend"):
        choose_backend("triton", torch.device("cuda"))


def test_backends_that_do_not_exist_or_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(backends, "_problem", lambda name: None)
    with pytest.raises(ValueError, match="expected auto, dense, torch, numba, triton, got 'cupy'; try auto"):
        choose_backend("cupy", CPU)
    with pytest.raises(ValueError, match="expected one that works on cuda, got numba"):
        choose_backend("numba", torch.device("cuda"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("threshold", "a", r"an affinity in \(0, 1\), got 'a'; try 0.8"),
        ("threshold", True, r"an affinity in \(0, 1\), got True; try"),
        ("threshold", float("nan"), r"an affinity in \(0, 1\), got nan; try"),
        ("end_points", "no", "true or false, got 'no'; try true"),
        ("grouping", "kmeans", "one of first, components, got 'kmeans'; try first"),
        ("evidence", ["both"], r"one of .*, got \['both'\]; try both"),
        ("min_region", 8.5, "a whole number of pixels from 1, got 8.5; try 8"),
        ("min_region", True, "a whole number of pixels from 1, got True; try 8"),
        ("min_region", 0, "a whole number of pixels from 1, got 0; try 8"),
        ("min_region", None, "a whole number of pixels from 1, got None; try 8"),
        ("max_regions", 2.5, "a whole number of regions from 1, or none, got 2.5; try 256"),
        ("max_regions", "all", "a whole number of regions from 1, or none, got 'all'; try 256"),
    ],
)
def test_rules_that_make_no_sense_are_refused_in_a_line(name, value, expected):
    # the annotations of the class, checked in tests only, would complain first
    rules = SimpleNamespace(**{**asdict(RegionRules()), name: value})
    with pytest.raises(ValueError, match=f"^{name}: expected {expected}") as refused:
        RegionRules.__post_init__(rules)
    assert "\n" not in str(refused.value)
