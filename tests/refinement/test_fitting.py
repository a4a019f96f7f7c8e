"""How rows are fitted: the recipe of a training, what is kept."""

from pathlib import Path

import pytest

from segfocus.errors import SegfocusError
from segfocus.refinement.entrants import ENTRANTS
from segfocus.refinement.fitting import Budget, fitted, training_recipe
from segfocus.refinement.parts import Part
from segfocus.refinement.recipes import batch_for
from tests.refinement.small import make_folders, refuse


def budget(root: Path, num_classes: int = 2, **changes) -> Budget:
    part = Part.open(make_folders(root / "data", num_classes, names="abcd"), None, False)
    given = {"steps": 7, "minutes": None, "seed": 2, "device": "auto", "logits": True}
    return Budget(part=part, folder=root / "runs", classes_file=root / "classes.yaml", **{**given, **changes})


@pytest.mark.parametrize(("num_classes", "pictures"), [(2, 4), (3, 4), (5, 2)])
def test_a_step_of_many_classes_takes_no_more_memory(tmp_path, num_classes, pictures):
    recipe = training_recipe(ENTRANTS["threshnet"], budget(tmp_path, num_classes))
    assert recipe.data.batch_size == pictures


def test_the_recipe_has_the_files_and_the_budget(tmp_path):
    recipe = training_recipe(ENTRANTS["offset_refiner"], budget(tmp_path, device="cuda:1"))
    assert recipe.data.images == str(tmp_path / "data" / "images")
    assert recipe.data.classes == str(tmp_path / "classes.yaml")
    assert recipe.data.logits
    assert (recipe.training.steps, recipe.training.minutes, recipe.training.accelerator) == (7, None, "gpu")
    recipe = training_recipe(ENTRANTS["offset_refiner"], budget(tmp_path, minutes=0.5, steps=None, device="cpu"))
    assert (recipe.training.steps, recipe.training.minutes, recipe.training.accelerator) == (None, 0.5, "cpu")


def test_what_is_fitted_is_fitted_once(tmp_path, monkeypatch):
    given = budget(tmp_path, logits=False)
    checkpoint, seconds = fitted(ENTRANTS["temperature"], given)
    assert checkpoint.is_file()
    assert seconds is not None
    monkeypatch.setattr("segfocus.refinement.fitting._count", refuse)
    assert fitted(ENTRANTS["temperature"], given) == (checkpoint, seconds)


def test_counting_needs_pictures(tmp_path):
    given = budget(tmp_path)
    empty = Budget(**{**vars(given), "part": given.part.only([])})
    with pytest.raises(SegfocusError, match="expected pictures to fit by, got none; try --fit-maps"):
        fitted(ENTRANTS["platt"], empty)


@pytest.mark.parametrize(
    ("batch", "classes", "pictures"), [(4, 2, 4), (4, 3, 4), (4, 4, 3), (4, 11, 1), (2, 5, 2), (4, 40, 1)]
)
def test_a_step_holds_at_most_twelve_maps_of_single_classes(batch, classes, pictures):
    assert batch_for(batch, classes) == pictures
