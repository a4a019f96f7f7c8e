"""MeanFieldCRF against a loop over all pairs of pixels."""

import math

import numpy as np
import pytest
import torch

from segfocus.methods import crf
from segfocus.methods.counted import Contest
from segfocus.methods.crf import COLOR_WIDTHS, WEIGHTS, MeanFieldCRF
from tests.methods.counted_contract import CountedContract, batch_of, scene


class TestMeanFieldCRF(CountedContract):
    method = "crf"


def dense_twin(probabilities: np.ndarray, picture: np.ndarray, refiner: MeanFieldCRF) -> np.ndarray:
    """Beliefs [classes, h, w] of the equations in the module's docstring, float64, two loops over pixels."""
    classes, height, width = probabilities.shape
    places = [(row, column) for row in range(height) for column in range(width)]
    count = len(places)
    near, alike = np.zeros((count, count)), np.zeros((count, count))
    color_width = float(refiner.color_width)
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            down, across = other_row - row, other_column - column
            distance = down**2 + across**2
            if max(abs(down), abs(across)) <= refiner.radius:
                near[i, j] = math.exp(-distance / (2 * refiner.smooth_width**2))
            steps = [abs(move) / refiner.dilation for move in (down, across)]
            if all(step.is_integer() and step <= refiner.radius for step in steps):
                color = ((picture[:, row, column] - picture[:, other_row, other_column]) ** 2).sum()
                alike[i, j] = math.exp(-distance / (2 * refiner.position_width**2) - color / (2 * color_width**2))
    pair = np.zeros((count, count))
    for kernel, weight in ((near, refiner.smooth_weight), (alike, float(refiner.weight))):
        norm = kernel.sum(1)
        kernel = weight * kernel / np.sqrt(np.outer(norm, norm))
        np.fill_diagonal(kernel, 0)
        pair += kernel
    prior = probabilities.reshape(classes, count).clip(1e-6, 1)
    belief = prior / prior.sum(0)
    for _ in range(refiner.iterations):
        belief = prior * np.exp(belief @ pair.T)
        belief = belief / belief.sum(0)
    return belief.reshape(classes, height, width)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"radius": 2, "dilation": 1, "iterations": 1},
        {"radius": 9, "dilation": 1, "smooth_weight": 0.0, "position_width": 3.0},
        {"radius": 1, "dilation": 4, "weight": 10.0, "color_width": 0.3},
        {"weight": 0.0, "smooth_weight": 2.0, "smooth_width": 1.0, "iterations": 8},
    ],
)
def test_beliefs_are_those_of_a_loop_over_all_pairs(classes, options):
    refiner = MeanFieldCRF(classes, **options)
    one = scene(classes, 9, 11)
    maps, pictures = batch_of(one)
    expected = dense_twin(maps[0].double().numpy(), pictures[0].double().numpy(), refiner)
    exact = refiner(maps.double(), pictures.double()).logits
    exact = torch.cat([-exact, exact], 1).sigmoid() if classes == 2 else exact.softmax(1)
    np.testing.assert_allclose(exact[0].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(refiner(maps, pictures).probabilities()[0].detach().numpy(), expected, atol=1e-4)
    assert np.abs(expected - maps[0].numpy()).max() > 0.05


def test_a_kernel_that_is_not_held_gives_the_same(monkeypatch):
    maps, pictures = batch_of(scene(3, 20, 17), scene(3, 20, 17, seed=1))
    refiner = MeanFieldCRF(3)
    held = refiner(maps, pictures).logits
    monkeypatch.setattr(crf, "_HELD", 0)
    assert torch.equal(refiner(maps, pictures).logits, held)


def test_without_weights_or_where_nothing_is_near_the_base_stays():
    maps, _ = batch_of(scene())
    pictures = torch.rand(1, 3, 24, 31, generator=torch.Generator().manual_seed(0))
    for options in ({"weight": 0.0}, {"color_width": 1e-3}):
        output = MeanFieldCRF(smooth_weight=0.0, **options)(maps, pictures)
        torch.testing.assert_close(output.logits, output.aux_logits["initial"])


def test_an_edge_of_the_picture_stops_a_class_and_none_is_passed_over():
    """A sure pixel colours its half of the picture, and not the other."""
    picture = torch.zeros(1, 3, 8, 12)
    picture[..., 6:] = 1
    foreground = torch.full((1, 1, 8, 12), 0.5)
    foreground[0, 0, :, 2], foreground[0, 0, :, 9] = 0.95, 0.05
    refiner = MeanFieldCRF(weight=5.0, smooth_weight=0.0, dilation=1)
    labels = refiner(torch.cat([1 - foreground, foreground], 1), picture).labels()[0]
    assert bool((labels[:, :6] == 1).all())
    assert bool((labels[:, 6:] == 0).all())


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_takes_the_best_pair_of_the_grid(classes, monkeypatch):
    monkeypatch.setattr(crf, "WEIGHTS", (0.3, 2.0))
    monkeypatch.setattr(crf, "COLOR_WIDTHS", (0.02, 0.2, 2.0))
    scenes = [scene(classes, seed=seed, noise=3.0) for seed in range(2)]
    refiner = MeanFieldCRF(classes)
    refiner.fit(iter(scenes))
    candidates = [(weight, width) for width in crf.COLOR_WIDTHS for weight in crf.WEIGHTS]
    contest = Contest(classes, len(candidates))
    for number, (weight, width) in enumerate(candidates):
        candidate = MeanFieldCRF(classes, weight=weight, color_width=width)
        for one in scenes:
            contest.add(number, one[1], candidate(*batch_of(one)).logits)
    weight, width = candidates[contest.best()]
    assert float(refiner.weight) == pytest.approx(weight)
    assert float(refiner.color_width) == pytest.approx(width)
    maps, truth, _ = fresh = scene(classes, seed=5, noise=3.0)
    labels, counted = refiner(*batch_of(fresh)).labels()[0].numpy(), truth != 255
    assert (labels == truth)[counted].mean() > (maps.argmax(0) == truth)[counted].mean() + 0.05


def test_the_defaults_are_candidates():
    refiner = MeanFieldCRF()
    assert any(float(refiner.weight) == pytest.approx(value) for value in WEIGHTS)
    assert any(float(refiner.color_width) == pytest.approx(value) for value in COLOR_WIDTHS)
    assert not refiner.exportable
    assert refiner.export_refusal


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": -1.0}, "weight: expected a number from 0, got -1.0"),
        ({"color_width": 0.0}, "color_width: expected a number above 0, got 0"),
        ({"smooth_width": 0.0}, "smooth_width: expected a number above 0, got 0"),
        ({"radius": 0}, "radius: expected a whole number from 1, got 0"),
        ({"iterations": 0}, "iterations: expected a whole number from 1, got 0"),
        ({"dilation": 0}, "dilation: expected a whole number from 1, got 0"),
    ],
)
def test_numbers_outside_their_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MeanFieldCRF(**options)
