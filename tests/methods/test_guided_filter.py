"""GuidedFilter against least squares in every window."""

import numpy as np
import pytest
import torch

from segfocus.methods import guided_filter as module
from segfocus.methods.counted import Contest
from segfocus.methods.guided_filter import RADII, SOFTNESS, GuidedFilter, box_mean, guided_filter
from tests.methods.counted_contract import CountedContract, batch_of, scene


class TestGuidedFilter(CountedContract):
    method = "guided_filter"


def least_squares_twin(picture: np.ndarray, values: np.ndarray, radius: int, softness: float) -> np.ndarray:
    """q of one map [h, w] and its picture [3, h, w]: one least-squares problem a window."""
    height, width = values.shape
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            rows = slice(max(0, row - radius), row + radius + 1)
            columns = slice(max(0, column - radius), column + radius + 1)
            colors = picture[:, rows, columns].reshape(3, -1).T
            pixels = len(colors)
            # one more row a colour: sqrt(pixels * softness) times its slope should be 0
            soft = np.sqrt(pixels * softness) * np.eye(3)
            known = np.block([[colors, np.ones((pixels, 1))], [soft, np.zeros((3, 1))]])
            wanted = np.concatenate([values[rows, columns].ravel(), np.zeros(3)])
            *slope, offset = np.linalg.lstsq(known, wanted, rcond=None)[0]
            total[rows, columns] += np.tensordot(slope, picture[:, rows, columns], 1) + offset
            count[rows, columns] += 1
    return total / count


@pytest.mark.parametrize("radius", [1, 2, 4, 30])
@pytest.mark.parametrize("softness", [1e-4, 1e-1])
def test_it_is_the_least_squares_of_every_window(radius, softness):
    maps, pictures = batch_of(scene(3, 12, 15))
    found = guided_filter(pictures, maps, radius, softness)
    for number in range(3):
        expected = least_squares_twin(pictures[0].double().numpy(), maps[0, number].double().numpy(), radius, softness)
        np.testing.assert_allclose(found[0, number].numpy(), expected, atol=5e-4)
        exact = guided_filter(pictures.double(), maps.double(), radius, softness)
        np.testing.assert_allclose(exact[0, number].numpy(), expected, atol=1e-9)


def test_grey_pictures_lose_no_digits():
    """Three equal colours: the matrix is singular but for the softness."""
    grey = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0)).repeat(1, 3, 1, 1)
    maps, _ = batch_of(scene(2, 20, 20))
    exact = guided_filter(grey.double(), maps.double(), 3, 1e-4)
    torch.testing.assert_close(guided_filter(grey, maps, 3, 1e-4).double(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("radius", [1, 2, 3, 7, 8, 40])
def test_box_mean_is_the_mean_of_what_is_inside(radius):
    maps = torch.rand(2, 3, 13, 18, generator=torch.Generator().manual_seed(0))
    found = box_mean(maps, radius)
    for row, column in ((0, 0), (12, 17), (5, 9), (0, 8), (12, 3)):
        top, left = max(0, row - radius), max(0, column - radius)
        window = maps[..., top : row + radius + 1, left : column + radius + 1]
        torch.testing.assert_close(found[..., row, column], window.mean((-2, -1)))


def test_probabilities_are_those_of_the_filtered_maps():
    for classes in (2, 3):
        maps, pictures = batch_of(scene(classes))
        filtered = guided_filter(pictures, maps, 2, 0.01)
        torch.testing.assert_close(filtered.sum(1), torch.ones(1, 24, 31), rtol=0, atol=1e-4)
        expected = filtered.clamp(1e-6, 1)
        found = GuidedFilter(classes, radius=2, softness=0.01)(maps, pictures).probabilities()
        if classes == 2:
            torch.testing.assert_close(found[:, 1], filtered[:, 1].clamp(1e-6, 1 - 1e-6), rtol=0, atol=1e-4)
        else:
            torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), rtol=0, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_takes_the_best_pair_of_the_grid(classes, monkeypatch):
    monkeypatch.setattr(module, "RADII", (1, 5))
    monkeypatch.setattr(module, "SOFTNESS", (1e-3, 1.0))
    scenes = [scene(classes, seed=seed, noise=3.0) for seed in range(2)]
    refiner = GuidedFilter(classes)
    refiner.fit(iter(scenes))
    candidates = [(radius, softness) for radius in module.RADII for softness in module.SOFTNESS]
    contest = Contest(classes, len(candidates))
    for number, (radius, softness) in enumerate(candidates):
        candidate = GuidedFilter(classes, radius=radius, softness=softness)
        for one in scenes:
            contest.add(number, one[1], candidate(*batch_of(one)).logits)
    radius, softness = candidates[contest.best()]
    assert (refiner.radius, int(refiner.found_radius)) == (radius, radius)
    assert float(refiner.softness) == pytest.approx(softness)
    maps, truth, _ = fresh = scene(classes, seed=5, noise=3.0)
    labels, counted = refiner(*batch_of(fresh)).labels()[0].numpy(), truth != 255
    assert (labels == truth)[counted].mean() > (maps.argmax(0) == truth)[counted].mean() + 0.05


def test_loaded_state_brings_its_own_radius():
    wide, narrow = GuidedFilter(radius=6, softness=0.02), GuidedFilter(radius=1)
    narrow.load_state_dict(wide.state_dict())
    maps, pictures = batch_of(scene())
    assert torch.equal(narrow(maps, pictures).logits, wide(maps, pictures).logits)


def test_the_defaults_are_candidates():
    refiner = GuidedFilter()
    assert refiner.radius in RADII
    assert any(float(refiner.softness) == pytest.approx(value) for value in SOFTNESS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radius": 0}, "radius: expected a whole number from 1, got 0"),
        ({"softness": 0.0}, "softness: expected a number above 0, got 0"),
        ({"softness": -0.1}, "softness: expected a number from 0, got -0.1"),
    ],
)
def test_numbers_outside_their_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        GuidedFilter(**options)
