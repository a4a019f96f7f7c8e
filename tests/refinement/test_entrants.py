"""Who takes part: names, checkpoints, what is left out and why."""

import pytest

from segfocus.checkpoint import save
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.methods import METHODS, build
from segfocus.recipe import ModelConfig, Recipe
from segfocus.refinement.entrants import BASE, ENTRANTS, ORACLE, choose

CLASSES = Classes.of(["ground", "crack"])


@pytest.fixture
def checkpoint(tmp_path):
    recipe = Recipe(model=ModelConfig(method="fixed", pretrained=False))
    path = tmp_path / "mine" / "best.safetensors"
    path.parent.mkdir()
    save(path, build(recipe.model, 2), recipe, CLASSES)
    return path


def test_all_rows_have_methods():
    for entrant in ENTRANTS.values():
        assert entrant.method is None or entrant.method in METHODS
        assert entrant.fitting in ("none", "counted", "trained", "truth")
    assert ENTRANTS[ORACLE].fitting == "truth"
    assert {name for name, entrant in ENTRANTS.items() if entrant.fitting == "trained"} == {
        "patch_bias", "threshnet", "threshnet_regular", "offset_refiner", "focus_refiner",
    }  # fmt: skip


def test_rows_that_read_pictures_need_them(monkeypatch):
    monkeypatch.setattr("segfocus.refinement.entrants.find_spec", lambda name: None)
    chosen, left_out = choose("all", 2, pictures=False)
    names = [entrant.name for entrant in chosen]
    assert names[0] == BASE
    assert set(left_out) == {"guided_filter", "crf", "offset_refiner", "focus_refiner", "cascadepsp"}
    assert set(names) | set(left_out) == set(ENTRANTS)
    assert "--images" in left_out["crf"]
    assert "pip install segmentation-refinement" in left_out["cascadepsp"]
    assert set(choose("all", 2, pictures=True)[1]) == {"cascadepsp"}
    monkeypatch.setattr("segfocus.refinement.entrants.find_spec", lambda name: name)
    assert choose("all", 2, pictures=True)[1] == {}
    assert "3 classes" in choose("all", 3, pictures=True)[1]["cascadepsp"]
    with pytest.raises(SegfocusError, match="no pictures; try --images"):
        choose(["crf"], 2, pictures=False)


def test_named_rows_come_in_one_order_and_once():
    chosen, left_out = choose(["platt", "fixed", "platt"], 2, pictures=False)
    assert [entrant.name for entrant in chosen] == [BASE, "fixed", "platt"]
    assert left_out == {}


def test_a_checkpoint_is_a_row(checkpoint, tmp_path):
    chosen, _ = choose(["fixed", checkpoint], 2, pictures=False)
    assert [entrant.name for entrant in chosen] == [BASE, "fixed", "mine-best"]
    assert chosen[-1].checkpoint == checkpoint
    assert chosen[-1].fitting == "given"
    assert chosen[-1].title == "fixed: mine/best"
    other = tmp_path / "elsewhere" / "mine" / "best.safetensors"
    other.parent.mkdir(parents=True)
    other.write_bytes(checkpoint.read_bytes())
    with pytest.raises(SegfocusError, match="two called 'mine-best'"):
        choose([checkpoint, other], 2, pictures=False)


def test_all_and_a_checkpoint_together(checkpoint):
    chosen, _ = choose(["all", str(checkpoint)], 2, pictures=True)
    assert chosen[-1].name == "mine-best"
    assert {"threshnet", "crf"} <= {entrant.name for entrant in chosen}


def test_what_is_no_row_is_refused_in_one_line(checkpoint, tmp_path):
    with pytest.raises(SegfocusError, match=r"did you mean threshnet.*\.safetensors file") as error:
        choose(["treshnet"], 2, pictures=False)
    assert "\n" not in str(error.value)
    with pytest.raises(SegfocusError, match="maps of 3 classes, got one for 2"):
        choose([checkpoint], 3, pictures=False)
    recipe = Recipe(model=ModelConfig(method="plain", backbone="lite", pretrained=False))
    save(tmp_path / "net.safetensors", build(recipe.model, 2), recipe, CLASSES)
    with pytest.raises(SegfocusError, match="export-maps"):
        choose([tmp_path / "net.safetensors"], 2, pictures=False)
