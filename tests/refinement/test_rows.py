"""Rows of the leaderboard: the base, the oracle, and refiners from their checkpoints."""

import itertools

import numpy as np
import pytest

from segfocus.checkpoint import save
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.ops.patches import THRESHOLDS
from segfocus.recipe import ModelConfig, Recipe
from segfocus.refinement.entrants import ENTRANTS, ORACLE, Entrant
from segfocus.refinement.parts import Mapped, Part
from segfocus.refinement.rows import base_prediction, base_row, oracle, scored_row
from tests.refinement.small import make_folders, no_memory


@pytest.fixture
def part(tmp_path) -> Part:
    return Part.open(make_folders(tmp_path, names="abc"), None, False)


def test_the_base_is_cut_at_a_half_and_by_the_first_of_equals():
    foreground = np.asarray([[0.5, 0.50001, 0.2]], np.float32)
    mapped = Mapped(np.stack([1 - foreground, foreground]), np.zeros((1, 3), np.uint8), None)
    assert base_prediction(mapped).labels.tolist() == [[0, 1, 0]]
    three = np.asarray([[[0.4, 0.1]], [[0.4, 0.2]], [[0.2, 0.7]]], np.float32)
    assert base_prediction(Mapped(three, np.zeros((1, 2), np.uint8), None)).labels.tolist() == [[0, 2]]


def test_the_oracle_is_the_best_of_all_choices_of_thresholds(part):
    patch = 40  # two patches a map of 40 x 56
    refine = oracle(part.only(["a", "b"]), patch)
    inter = union = 0
    counts = []
    for name in ("a", "b"):
        mapped = part.read(name)
        found, truth, labelled = refine(name, mapped), mapped.truth == 1, mapped.truth != 255
        inter += (truth & (found.labels == 1)).sum()
        union += ((truth | (found.labels == 1)) & labelled).sum()
        for columns in (slice(0, patch), slice(patch, None)):
            cut = mapped.probabilities[1][:, columns]
            near, there = truth[:, columns], labelled[:, columns]
            above = [(cut > np.float32(level)) & there for level in THRESHOLDS]
            counts.append([((near & mask).sum(), (near | mask).sum()) for mask in above])
    best = max(
        sum(pair[0] for pair in choice) / sum(pair[1] for pair in choice) for choice in itertools.product(*counts[:2])
    )
    # all four patches at once: of 160,000 choices the best in the ratio of sums, by its own necessary condition
    score = inter / union
    gain = sum(max(hit - score * whole for hit, whole in patch_counts) for patch_counts in counts)
    assert gain == pytest.approx(0, abs=1e-6)
    assert best > 0


def test_probabilities_of_the_oracle_lie_on_their_side(part):
    refine = oracle(part, 16)
    mapped = part.read("a")
    found = refine("a", mapped)
    foreground = found.probabilities[1]
    sure = np.abs(foreground - 0.5) > 1e-5
    np.testing.assert_array_equal(foreground[sure] > 0.5, found.labels[sure] == 1)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-6)
    assert (found.labels != base_prediction(mapped).labels).any()


def test_the_oracle_of_three_classes_leaves_more_right(tmp_path):
    part = Part.open(make_folders(tmp_path, 3, names="ab"), None, False)
    refine, mapped = oracle(part, 16), part.read("b")
    found = refine("b", mapped)
    right = (found.labels == mapped.truth).sum()
    assert right > (base_prediction(mapped).labels == mapped.truth).sum()
    np.testing.assert_array_equal(found.probabilities.argmax(0), found.labels)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)


def test_bad_files_are_told_and_left_out_of_the_base(part):
    np.save(part.folders.maps / "b.npy", np.full((40, 56), 7, np.float32))
    row, about = base_row(part, part.names)
    assert list(row.pictures) == ["a", "c"]
    assert len(about["failures"]) == 1
    assert "b.npy" in about["failures"][0]
    with pytest.raises(SegfocusError, match=r"none of 1, first: .*b\.npy"):
        base_row(part.only(["b"]), ["b"])


def test_a_refiner_that_changes_nothing_scores_as_the_base(part, tmp_path, monkeypatch):
    monkeypatch.setattr("segfocus.refinement.rows.peak_memory", no_memory)
    recipe = Recipe(model=ModelConfig(method="fixed", pretrained=False))
    save(tmp_path / "fixed.safetensors", build(recipe.model, 2), recipe, part.classes)
    row, about = scored_row(ENTRANTS["fixed"], part, tmp_path / "fixed.safetensors", 16, "cpu", part.names)
    base, _ = base_row(part, part.names)
    found = row.described(base)
    assert found["score"] == base.described(base)["score"]
    assert (found["harm_rate"], found["fixed_rate"]) == (0, 0)
    assert about["parameters"] == 0
    assert about["ms_per_megapixel"] > 0
    assert (about["peak_memory"], about["memory_failure"]) == (12345, None)


def test_windows_and_sizes_come_from_the_recipe(part, tmp_path, monkeypatch):
    monkeypatch.setattr("segfocus.refinement.rows.peak_memory", no_memory)
    seen = []
    recipe = Recipe(model=ModelConfig(method="threshnet", pretrained=False, options={"width": 2, "patch": 16}))
    recipe.evaluation.window, recipe.evaluation.stride = [32, 32], [16, 16]
    save(tmp_path / "net.safetensors", build(recipe.model, 2), recipe, part.classes)
    from segfocus.methods.threshnet import ThreshNet

    forward = ThreshNet.forward

    def noted(self, probabilities, image=None):
        seen.append(tuple(probabilities.shape[2:]))
        return forward(self, probabilities, image)

    monkeypatch.setattr(ThreshNet, "forward", noted)
    entrant = Entrant("mine", "Mine", "threshnet", checkpoint=tmp_path / "net.safetensors")
    scored_row(entrant, part.only(["a"]), entrant.checkpoint, 16, "cpu", ["a"])
    assert set(seen) == {(32, 32)}


def test_memory_that_cannot_be_measured_leaves_the_scores(part, tmp_path, monkeypatch):
    def failing(*_):
        raise SegfocusError("peak memory: no room")

    monkeypatch.setattr("segfocus.refinement.rows.peak_memory", failing)
    recipe = Recipe(model=ModelConfig(method="fixed", pretrained=False))
    save(tmp_path / "fixed.safetensors", build(recipe.model, 2), recipe, Classes.of(["class_0", "class_1"]))
    row, about = scored_row(ENTRANTS["fixed"], part, tmp_path / "fixed.safetensors", 16, "cpu", part.names)
    assert len(row.pictures) == 3
    assert about["memory_failure"] == "peak memory: no room"
    assert about["peak_memory"] is None


def test_the_oracle_costs_nothing_that_tells(part):
    row, about = scored_row(ENTRANTS[ORACLE], part, None, 16, "cpu", part.names)
    assert about == {}
    base, _ = base_row(part, part.names)
    assert row.described(base)["difference"]["value"] > 0
