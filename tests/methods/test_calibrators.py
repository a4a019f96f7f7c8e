"""Refiners that change each pixel in the same way, against searches and fits written out."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from scipy import optimize, special

from segfocus.methods.calibrators import Fixed, GlobalThreshold, Platt, Temperature, most_likely
from segfocus.methods.counted import Contest, sample_pixels
from segfocus.ops.patch_classes import apply_class_bias, best_class_bias
from tests.methods.counted_contract import CountedContract, batch_of, scene


class TestFixed(CountedContract):
    method = "fixed"


class TestGlobalThreshold(CountedContract):
    method = "global_threshold"


class TestTemperature(CountedContract):
    method = "temperature"


class TestPlatt(CountedContract):
    method = "platt"


def pixels(scenes) -> tuple[np.ndarray, np.ndarray]:
    """Logits (pixels x classes; of two classes 0 and the foreground's) and train ids of all labelled pixels."""
    maps = np.concatenate([maps[:, truth != 255] for maps, truth, _ in scenes], 1).astype(np.float64)
    truth = np.concatenate([truth[truth != 255] for _, truth, _ in scenes])
    if len(maps) > 2:
        return np.log(maps).T, truth
    return np.stack([0 * maps[1], special.logit(maps[1])], 1), truth


def likelihood(logits: np.ndarray, truth: np.ndarray) -> float:
    """Sum of -log softmax(logits)[truth]."""
    return float(-special.log_softmax(logits, 1)[np.arange(len(truth)), truth].sum())


def calibrated(classes: int, temperature: float, seed: int = 0):
    """A map that says how often it is right, made surer by 1 / temperature."""
    random = np.random.default_rng(seed)
    logits = 1.5 * random.standard_normal((classes, 60, 70))
    truth = (special.softmax(logits, 0).cumsum(0) < random.random((60, 70))).sum(0).clip(0, classes - 1)
    probabilities = special.softmax(logits / temperature, 0)
    return probabilities.astype(np.float32), truth.astype(np.uint8), None


# --- Fixed --------------------------------------------------------------------------------------------------------


def test_fixed_gives_the_maps_back_and_their_labels():
    for classes in (2, 3, 5):
        maps, _ = batch_of(scene(classes), scene(classes, seed=1))
        maps[0, :, 0, 0] = 1 / classes
        output = Fixed(classes)(maps)
        torch.testing.assert_close(output.probabilities(), maps, rtol=0, atol=2e-6)
        labels = (maps[:, 1] > 0.5).long() if classes == 2 else maps.argmax(1)
        assert torch.equal(output.labels(), labels)


# --- GlobalThreshold ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [20, 100])
def test_the_threshold_is_the_best_of_all_thresholds_tried(steps):
    scenes = [scene(bias=[0, shift], seed=seed, height=20 + seed) for seed, shift in enumerate((1.5, 1.0, 2.0))]
    refiner = GlobalThreshold(steps=steps)
    refiner.fit(iter(scenes))
    scores = {}
    for step in range(1, steps + 1):
        hits = wrong = 0
        for maps, truth, _ in scenes:
            found = maps[1] > np.float32(step / steps)
            hits += int((found & (truth == 1)).sum())
            wrong += int((found & (truth == 0)).sum()) + int((~found & (truth == 1)).sum())
        scores[step] = (hits + 1) / (hits + wrong + 1)
    best = min(
        (step for step in scores if scores[step] == max(scores.values())), key=lambda step: abs(step - steps / 2)
    )
    assert float(refiner.threshold) == np.float32(best / steps)
    assert best != steps // 2
    for maps, _, _ in scenes:
        labels = refiner(torch.from_numpy(maps)[None]).labels()[0].numpy()
        assert np.array_equal(labels, maps[1] > np.float32(best / steps))


def test_a_probability_that_equals_the_threshold_is_background():
    """Whatever the logarithm makes of it: all numbers that an 8-bit map can hold, at every threshold."""
    foreground = torch.arange(256, dtype=torch.float32) / 255
    maps = torch.stack([1 - foreground, foreground])[None, :, None].repeat(1, 1, 3, 1)
    refiner = GlobalThreshold()
    for value in [*foreground.tolist(), 0.05, 0.5, 0.6, 0.95]:
        refiner.threshold.fill_(value)
        assert torch.equal(refiner(maps).labels()[0, 0], (foreground > np.float32(value)).long()), value


def test_the_threshold_becomes_a_half_and_everything_else_moves_with_it():
    maps = torch.tensor([0.1, 0.3, 0.6])
    refiner = GlobalThreshold()
    refiner.threshold.fill_(0.3)
    refined = refiner(torch.stack([1 - maps, maps])[None, :, None]).probabilities()[0, 1, 0]
    odds = maps / (1 - maps) / (0.3 / 0.7)
    torch.testing.assert_close(refined, odds / (1 + odds))


def test_biases_of_several_classes_are_those_of_all_pixels_and_gain():
    bias = np.array([0.0, 1.0, -0.7])
    scenes = [scene(3, seed=seed, bias=bias) for seed in range(3)]
    refiner = GlobalThreshold(3)
    refiner.fit(iter(scenes))
    maps = np.concatenate([maps[:, truth != 255] for maps, truth, _ in scenes], 1)[:, None]
    truth = np.concatenate([truth[truth != 255] for _, truth, _ in scenes])[None]
    expected = best_class_bias(maps, truth, truth.size)
    assert np.array_equal(refiner.bias.numpy(), expected[:, 0, 0])
    assert (apply_class_bias(maps, expected, truth.size) == truth).sum() > (maps.argmax(0) == truth).sum() + 10
    batch, _ = batch_of(*scenes)
    torch.testing.assert_close(refiner(batch).logits, batch.log() + refiner.bias[:, None, None])


# --- Temperature and Platt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("truly", [0.4, 3.0])
def test_temperature_is_the_most_likely_one_and_undoes_what_was_done(classes, truly):
    scenes = [calibrated(classes, truly, seed) for seed in range(2)]
    refiner = Temperature(classes)
    refiner.fit(iter(scenes))
    logits, truth = pixels(scenes)
    logits = logits.clip(special.logit(1e-6), special.logit(1 - 1e-6))
    best = optimize.minimize_scalar(
        lambda t: likelihood(logits / t, truth) + (1 / t - 1) ** 2 / 2, bounds=(0.05, 20), options={"xatol": 1e-8}
    )
    assert float(refiner.temperature) == pytest.approx(best.x, rel=1e-4)
    assert float(refiner.temperature) == pytest.approx(1 / truly, rel=0.1)
    maps = torch.from_numpy(scenes[0][0])[None]
    refined = refiner(maps)
    torch.testing.assert_close(refined.logits, Fixed(classes)(maps).logits / refiner.temperature)
    assert torch.equal(refined.labels(), Fixed(classes)(maps).labels())


@pytest.mark.parametrize("classes", [2, 3])
def test_platt_is_the_most_likely_scale_and_shift(classes):
    scenes = [scene(classes, seed=seed, bias=np.linspace(0, 1.2, classes)) for seed in range(2)]
    refiner = Platt(classes)
    refiner.fit(iter(scenes))
    logits, truth = pixels(scenes)
    own = slice(1, 2) if classes == 2 else slice(None)
    count = logits[:, own].shape[1]

    def cost(numbers):
        moved = logits.copy()
        moved[:, own] = logits[:, own] * numbers[:count] + numbers[count:]
        return likelihood(moved, truth) + ((numbers - start) ** 2).sum() / 2

    start = np.repeat([1.0, 0.0], count)
    best = optimize.minimize(cost, start, method="BFGS", options={"gtol": 1e-4})
    found = np.concatenate([refiner.scale.numpy(), refiner.shift.numpy()])
    assert cost(found) <= best.fun + 1e-6
    np.testing.assert_allclose(found, best.x, atol=2e-3)
    assert cost(found) < cost(start) - 20
    maps, _ = batch_of(*scenes)
    base = Fixed(classes)(maps).logits
    expected = base * torch.from_numpy(found[:count, None, None]) + torch.from_numpy(found[count:, None, None])
    torch.testing.assert_close(refiner(maps).logits, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [Temperature, Platt])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_base_without_mistakes_gives_finite_numbers(cls, classes):
    """There is no largest likelihood then: without the prior a scale would grow for ever."""
    _, truth, _ = scene(classes)
    truth[truth == 255] = 0
    sure = np.where(np.arange(classes)[:, None, None] == truth, 0.9, 0.1 / (classes - 1)).astype(np.float32)
    refiner = cls(classes)
    refiner.fit([(sure, truth, None)])
    for value in refiner.buffers():
        assert value.isfinite().all()
    better = refiner(torch.from_numpy(sure)[None]).probabilities()[0].amax(0)
    assert (better > 0.99).all()


def test_a_base_that_is_always_wrong_gets_no_negative_temperature_and_a_negative_platt_scale():
    maps, truth, _ = scene(noise=1.0)
    wrong = np.ascontiguousarray(maps[::-1])
    cooled, turned = Temperature(), Platt()
    cooled.fit([(wrong, truth, None)])
    turned.fit([(wrong, truth, None)])
    assert float(cooled.temperature) == pytest.approx(100)
    assert float(turned.scale[0]) < 0
    assert (turned(torch.from_numpy(wrong)[None]).labels()[0].numpy() == truth)[truth != 255].mean() > 0.8


def test_newton_finds_where_the_gradient_is_zero():
    """Of a hard case: many classes, numbers of very different size."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((400, 6)) * np.array([0.1, 1, 5, 20, 1, 1])
    truth = random.integers(0, 6, 400).astype(np.uint8)
    free = np.eye(12)
    start = np.repeat([1.0, 0.0], 6)

    def cost(numbers):
        return likelihood(logits * numbers[:6] + numbers[6:], truth) + ((numbers - start) ** 2).sum() / 2

    found = most_likely(logits, truth, free)
    slopes = [(cost(found + step) - cost(found - step)) / 2e-5 for step in 1e-5 * free]
    assert np.abs(slopes).max() < 1e-3
    assert cost(found) < cost(start)


# --- what they are counted on ---------------------------------------------------------------------------------------


def test_few_pixels_are_all_taken():
    scenes = [scene(3, seed=seed, height=9 + seed) for seed in range(3)]
    maps, truth = sample_pixels(iter(scenes), 3)
    assert np.array_equal(maps, np.concatenate([p[:, y != 255] for p, y, _ in scenes], 1))
    assert np.array_equal(truth, np.concatenate([y[y != 255] for _, y, _ in scenes]))


def test_of_many_pixels_an_even_sample_is_taken_always_the_same():
    shares = []
    for seed in range(4):
        truth = np.full((100, 50 * (seed + 1)), seed, np.uint8)
        shares.append((np.full((4, *truth.shape), seed / 4, np.float32), truth, None))
    maps, truth = sample_pixels(iter(shares), 4, most=16_000)
    assert 8_000 < maps.size <= 16_000
    assert np.array_equal(maps, np.tile(truth / np.float32(4), (4, 1)))
    found = np.bincount(truth, minlength=4) / truth.size
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4], atol=0.04)
    again = sample_pixels(iter(shares), 4, most=16_000)
    assert np.array_equal(maps, again[0])
    assert np.array_equal(truth, again[1])


def test_a_contest_is_won_by_iou_over_all_pictures_and_ties_by_the_first():
    truth = np.array([[1, 1, 0, 255]], np.uint8)
    for classes, columns in ((2, 1), (3, 3)):
        contest = Contest(classes, 4)
        for number, labels in enumerate(([1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0])):
            chosen = torch.nn.functional.one_hot(torch.tensor(labels), classes).T[:, None].float()
            logits = (2 * chosen[1:] - 1 if columns == 1 else chosen)[None]
            for _ in range(2):
                contest.add(number, truth, logits)
        assert contest.best() == 1
    empty = Contest(2, 2)
    empty.add(1, np.zeros((1, 4), np.uint8), torch.full((1, 1, 1, 4), -1.0))
    assert empty.best() == 0


@pytest.mark.parametrize("steps", [0, 1, 101])
def test_steps_outside_their_range_are_refused(steps):
    with pytest.raises(ValueError, match="steps: expected"):
        GlobalThreshold(steps=steps)


def test_they_export_to_the_same_function():
    """In a process of its own: torch.export does not trace through the shape checks of the test suite."""
    script = textwrap.dedent(
        """
        import torch
        from segfocus.methods.calibrators import Fixed, GlobalThreshold, Platt, Temperature
        from segfocus.methods.guided_filter import GuidedFilter

        class Chain(torch.nn.Module):
            def __init__(self, classes):
                super().__init__()
                kinds = (Fixed, GlobalThreshold, Platt, Temperature, GuidedFilter)
                self.refiners = torch.nn.ModuleList(kind(classes) for kind in kinds)
                for number, value in enumerate(self.refiners[:4].buffers()):
                    value.fill_(0.3 + 0.2 * number)
            def forward(self, maps, picture):
                return [refiner(maps, picture).logits for refiner in self.refiners]

        for classes in (2, 3):
            chain = Chain(classes).eval()
            maps, picture = torch.rand(1, classes, 32, 41).softmax(1), torch.rand(1, 3, 32, 41)
            sizes = {2: torch.export.Dim("height", min=20, max=200), 3: torch.export.Dim("width", min=20, max=200)}
            program = torch.export.export(chain, (maps, picture), dynamic_shapes=(sizes, sizes)).module()
            for height, width in ((32, 41), (57, 23)):
                maps, picture = torch.rand(1, classes, height, width).softmax(1), torch.rand(1, 3, height, width)
                for got, expected in zip(program(maps, picture), chain(maps, picture), strict=True):
                    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        """
    )
    environment = {**os.environ, "SEGFOCUS_TYPE_HOOK": "0", "PYTHONWARNINGS": "ignore", "JAXTYPING_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
