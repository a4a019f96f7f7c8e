"""What refining costs: time, memory in a process of its own, parameters, and a machine that is quiet or not."""

import numpy as np
import pytest

from segfocus.checkpoint import save
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.recipe import ModelConfig, Recipe
from segfocus.refinement import cost


def test_time_is_the_median_for_a_megapixel(monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 10.5, 20.0, 26.0])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    watch = cost.Stopwatch()
    assert watch.per_megapixel() is None
    for pixels in (1_000_000, 250_000, 3_000_000):  # 1, 2 and 2 seconds a megapixel
        watch.start()
        watch.stop(pixels)
    assert watch.per_megapixel() == pytest.approx(2000)


def test_the_share_of_other_work(monkeypatch):
    times = iter([(100.0, 40.0, 10.0), (120.0, 55.0, 20.0)])
    monkeypatch.setattr(cost, "_processor_times", lambda: next(times))
    assert cost.OtherWork().share() == pytest.approx((15 - 10) / 20)
    monkeypatch.setattr(cost, "_processor_times", lambda: None)
    assert cost.OtherWork().share() is None
    assert [cost.quiet(share) for share in (None, 0.01, 0.4)] == [None, True, False]


def test_parameters_are_weights_or_what_was_counted():
    assert cost.parameters(build(ModelConfig(method="fixed"), 2)) == 0
    assert cost.parameters(build(ModelConfig(method="temperature"), 5)) == 1
    assert cost.parameters(build(ModelConfig(method="platt"), 2)) == 2
    network = build(ModelConfig(method="threshnet", options={"width": 2, "patch": 16}), 2)
    assert cost.parameters(network) == sum(weight.numel() for weight in network.parameters())


def test_memory_is_measured_in_a_process_of_its_own(tmp_path):
    recipe = Recipe(model=ModelConfig(method="temperature", pretrained=False))
    checkpoint = tmp_path / "best.safetensors"
    save(checkpoint, build(recipe.model, 2), recipe, Classes.of(["ground", "crack"]))
    probabilities = np.full((2, 2048, 2048), 0.5, np.float32)  # 32 MiB
    found = cost.peak_memory(checkpoint, probabilities, None, "cpu")
    assert found["kind"] == "resident set"
    # refined probabilities alone are as large as the map; no step holds twenty of it
    assert probabilities.nbytes < found["bytes"] < 20 * probabilities.nbytes


def test_a_failed_process_says_why_in_one_line(tmp_path, monkeypatch):
    class Done:
        returncode, stdout, stderr = 1, "", "Traceback\n  File\nMemoryError: no room"

    monkeypatch.setattr(cost.subprocess, "run", lambda *_, **__: Done())
    with pytest.raises(SegfocusError, match="got: MemoryError: no room"):
        cost.peak_memory(tmp_path / "x", np.zeros((2, 4, 4), np.float32), None)
