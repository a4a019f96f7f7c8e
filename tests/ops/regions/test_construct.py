"""Batches, bad input, precision and the choice of a backend."""

import warnings

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


def test_maps_of_different_size_are_refused():
    # the annotations of construct_regions, checked in tests only, would complain first
    with pytest.raises(ValueError, match=r"boundary: expected .* 1 x 4 x 5, got 1 x 4 x 6"):
        _check_maps(torch.zeros(1, 4, 6), torch.ones(1, 2, 4, 5))


@pytest.mark.parametrize("size", [(0, 3, 4, 5), (1, 0, 4, 5), (1, 3, 0, 5)])
def test_nothing_is_refused(size):
    with pytest.raises(ValueError, match="semantic: expected at least one"):
        construct_regions(torch.zeros(size[0], *size[2:]), torch.zeros(size))


def test_automatic_choice(monkeypatch):
    monkeypatch.setattr(backends, "_installed", lambda package: True)
    assert choose_backend("auto", CPU) == "numba"
    assert choose_backend("auto", torch.device("cuda")) == "triton"
    assert choose_backend("auto", torch.device("mps")) == "torch"
    assert [choose_backend(name, CPU) for name in ("dense", "torch", "numba")] == ["dense", "torch", "numba"]


def test_a_missing_package_is_said_once(monkeypatch):
    monkeypatch.setattr(backends, "_installed", lambda package: False)
    backends._say_missing.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert choose_backend("auto", CPU) == choose_backend("auto", CPU) == "torch"
        labels = construct_regions(*batch(flat(4, 5))).labels
    backends._say_missing.cache_clear()
    assert not labels.any()
    assert [message.category for message in said] == [BackendWarning]
    assert 'numba is not installed; try pip install "segfocus[fast]"' in str(said[0].message)


def test_a_missing_package_asked_for_is_an_error(monkeypatch):
    monkeypatch.setattr(backends, "_installed", lambda package: False)
    with pytest.raises(ValueError, match=r'got numba; try pip install "segfocus\[fast\]"'):
        construct_regions(*batch(flat(4, 5)), backend="numba")
    with pytest.raises(ValueError, match="got triton; try"):
        choose_backend("triton", torch.device("cuda"))


def test_backends_that_do_not_exist_or_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(backends, "_installed", lambda package: True)
    with pytest.raises(ValueError, match="expected auto, dense, torch, numba, triton, got 'cupy'"):
        choose_backend("cupy", CPU)
    with pytest.raises(ValueError, match="expected one that works on cuda, got numba"):
        choose_backend("numba", torch.device("cuda"))
