"""The leaderboard end to end: rows, resuming, bad files, what is refused."""

import json

import numpy as np
import pytest
import torch

from segfocus.checkpoint import save
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.recipe import Recipe
from segfocus.refinement import compare as module
from segfocus.refinement.compare import compare
from tests.refinement.small import NAMES, compared, make_folders, refuse, row_of

COUNTED = ("fixed", "global_threshold", "temperature", "platt", "patch_oracle")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folders, output folder and results of a leaderboard of what is counted."""
    root = tmp_path_factory.mktemp("leaderboard")
    folders = make_folders(root)
    with pytest.MonkeyPatch.context() as patched:
        return folders, root / "out", compared(folders, root / "out", COUNTED, patched, patch=16, page=True)


def train_nothing(recipe: Recipe | None = None, out=None, resume: bool = False, **_):
    """Stands for a training: the untrained network as its result."""
    if resume:
        recipe = Recipe.from_dict(json.loads((out / "recipe.yaml").read_text()))
    assert recipe is not None
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(json.dumps(recipe.to_dict()))
    from segfocus.data import dataset_classes

    classes = dataset_classes(recipe.data)
    torch.manual_seed(recipe.training.seed)
    save(out / "best.safetensors", build(recipe.model, classes.num_classes), recipe, classes)
    return out


def test_every_row_is_there_best_first(done):
    _, out, results = done
    assert {row["name"] for row in results["rows"]} == {"base", *COUNTED}
    values = [row["score"]["value"] for row in results["rows"]]
    assert values == sorted(values, reverse=True)
    assert results["rows"][0]["name"] == "patch_oracle"
    assert (results["failures"], results["left_out"]) == ([], {})
    assert results["n_pictures"] + results["n_fit_pictures"] == len(NAMES)
    assert json.loads((out / "leaderboard.json").read_text()) == results
    assert row_of(results, "fixed")["score"] == row_of(results, "base")["score"]
    assert row_of(results, "global_threshold")["difference"]["value"] > 0.01
    assert row_of(results, "temperature")["harm_rate"] == 0  # moves no pixel across a half
    assert row_of(results, "temperature")["ece"] < row_of(results, "base")["ece"]
    assert row_of(results, "platt")["parameters"] == 2
    assert (out / row_of(results, "platt")["checkpoint"]).is_file()


def test_the_record_says_how_it_was_made(done):
    results = done[2]
    assert {"command", "packages", "started", "processor", "git_commit"} <= set(results["about"])
    assert results["settings"] == {"logits": False, "steps": 1000, "minutes": None, "seed": 0, "patch": 16}
    assert "half of the maps" in results["fit_from"]
    assert (results["score"], results["foreground"]) == ("foreground_iou", "class_1")


def test_finished_rows_are_not_made_again(done, monkeypatch):
    folders, out, results = done
    for name in ("_made", "base_row"):
        monkeypatch.setattr(module, name, refuse)
    again = compared(folders, out, COUNTED, monkeypatch, patch=16)
    assert again["rows"] == results["rows"]
    some = compared(folders, out, ["platt"], monkeypatch, patch=16)
    assert [row["name"] for row in some["rows"]] == ["platt", "base"]


@pytest.mark.parametrize(("options", "named"), [({"patch": 8}, "patch"), ({"patch": 16, "seed": 1}, "seed")])
def test_another_comparison_in_the_folder_is_refused(done, monkeypatch, options, named):
    folders, out, _ = done
    with pytest.raises(SegfocusError, match=rf"with other {named}; try another --out, or --overwrite"):
        compared(folders, out, COUNTED, monkeypatch, **options)


def test_overwrite_makes_all_anew_and_touches_nothing_else(tmp_path, monkeypatch):
    folders, out = make_folders(tmp_path / "data"), tmp_path / "out"
    first = compared(folders, out, ["temperature"], monkeypatch)
    (out / "notes.txt").write_text("mine")
    (out / "runs" / "temperature" / "fitted.json").write_text('{"seconds": 99}')
    again = compared(folders, out, ["temperature"], monkeypatch, overwrite=True, seed=3)
    assert row_of(again, "temperature")["score"] == row_of(first, "temperature")["score"]
    assert row_of(again, "temperature")["fit_seconds"] != 99
    assert (out / "notes.txt").read_text() == "mine"


def test_bad_files_are_listed_and_the_rest_is_done(tmp_path, monkeypatch):
    folders = make_folders(tmp_path / "data")
    good = compared(folders, tmp_path / "good", ["temperature"], monkeypatch)
    scored = set(row_of(good, "temperature")["pictures"])
    bad, unfit = sorted(scored)[0], sorted(set(NAMES) - scored)[0]
    np.save(folders.maps / f"{bad}.npy", np.full((40, 56), np.nan, np.float32))
    (folders.maps / f"{unfit}.npy").write_bytes(b"cut off")
    results = compared(folders, tmp_path / "out", ["fixed", "platt"], monkeypatch)
    assert len(results["failures"]) == 2
    assert f"{bad}.npy" in results["failures"][0]
    assert f"{unfit}.npy" in results["failures"][1]
    assert set(row_of(results, "platt")["pictures"]) == scored - {bad}
    assert results["n_fit_pictures"] == good["n_fit_pictures"] - 1
    again = compared(folders, tmp_path / "out", ["fixed", "platt"], monkeypatch)
    assert again["failures"] == results["failures"]


def test_a_row_that_fails_leaves_the_others(tmp_path, monkeypatch):
    from segfocus.methods.calibrators import Platt

    def failing(*_):
        raise SegfocusError("expected labelled pixels, got none")

    monkeypatch.setattr(Platt, "fit", failing)
    folders, out = make_folders(tmp_path / "data"), tmp_path / "out"
    results = compared(folders, out, ["fixed", "platt"], monkeypatch, page=True)
    assert results["failures"] == ["platt: expected labelled pixels, got none"]
    assert {row["name"] for row in results["rows"]} == {"base", "fixed"}
    page = (out / "report.html").read_text()
    assert "1 thing went wrong" in page
    assert "platt: expected labelled pixels, got none" in page


def test_trained_rows_get_their_own_pictures_budget_and_options(tmp_path, monkeypatch):
    folders, out, recipes = make_folders(tmp_path / "data"), tmp_path / "out", {}

    def train(recipe=None, out=None, resume=False, **_):
        recipes[out.name] = recipe
        return train_nothing(recipe, out, resume)

    monkeypatch.setattr("segfocus.training.run.train", train)
    results = compared(folders, out, ["threshnet", "threshnet_regular"], monkeypatch, steps=5, seed=4)
    assert results["failures"] == []
    recipe, control = recipes["threshnet"], recipes["threshnet_regular"]
    assert recipe.model.options.get("region_weight", 0.7) > 0
    assert (control.model.options["region_weight"], control.model.options["regular_weight"]) == (0, 1)
    assert recipe.data == control.data
    assert (recipe.training.steps, recipe.training.seed) == (5, 4)
    fitted_by = {path.stem for path in (out / "fit" / "maps").iterdir()}
    assert recipe.data.maps == str(out / "fit" / "maps")
    assert fitted_by == set(NAMES) - set(row_of(results, "threshnet")["pictures"])
    # the same untrained network twice
    assert results["thresholds_add"] == {"value": 0, "interval": [0, 0]}
    assert row_of(results, "threshnet")["fitting"] == "trained"


def test_an_interrupted_training_goes_on(tmp_path, monkeypatch):
    folders, out, calls = make_folders(tmp_path / "data"), tmp_path / "out", []

    def interrupted(recipe=None, out=None, resume=False, **_):
        calls.append(resume)
        train_nothing(recipe, out, resume)
        if not resume:
            raise KeyboardInterrupt
        return out

    monkeypatch.setattr("segfocus.training.run.train", interrupted)
    with pytest.raises(KeyboardInterrupt, match="row patch_bias; the same command goes on"):
        compared(folders, out, ["fixed", "patch_bias"], monkeypatch, minutes=0.5)
    results = compared(folders, out, ["fixed", "patch_bias"], monkeypatch, minutes=0.5)
    assert calls == [False, True]
    assert row_of(results, "patch_bias")["fit_seconds"] is None
    assert json.loads((out / "runs" / "patch_bias" / "recipe.yaml").read_text())["training"]["minutes"] == 0.5


def test_fitting_on_folders_of_their_own(tmp_path, monkeypatch):
    scored = make_folders(tmp_path / "test", names="abcdefg")
    fit = make_folders(tmp_path / "train", names="nopq")
    results = compared(
        scored, tmp_path / "out", ["platt"], monkeypatch, fit_maps=fit.maps, fit_masks=fit.masks, fit_images=fit.images
    )
    assert (results["n_pictures"], results["n_fit_pictures"], results["failures"]) == (7, 4, [])
    assert results["fit_from"] == "maps of their own"


def test_a_checkpoint_takes_part_and_is_scored_again_when_it_changes(done, tmp_path, monkeypatch):
    folders, out, results = done
    mine = tmp_path / "best.safetensors"
    mine.write_bytes((out / row_of(results, "platt")["checkpoint"]).read_bytes())
    name = f"{tmp_path.name}-best"
    given = compared(folders, out, ["platt", mine], monkeypatch, patch=16)
    assert row_of(given, name)["score"] == row_of(results, "platt")["score"]
    mine.write_bytes((out / row_of(results, "fixed")["checkpoint"]).read_bytes())
    given = compared(folders, out, ["platt", mine], monkeypatch, patch=16)
    assert row_of(given, name)["score"] == row_of(results, "base")["score"]


def test_all_maps_are_scored_where_nothing_is_fitted(done, tmp_path, monkeypatch):
    folders, out, results = done
    mine = out / row_of(results, "platt")["checkpoint"]
    given = compared(folders, tmp_path / "out", [mine, "patch_oracle"], monkeypatch)
    assert (given["n_pictures"], given["n_fit_pictures"]) == (len(NAMES), 0)
    assert given["fit_from"] == "nothing was fitted"


def test_three_classes_without_pictures(tmp_path, monkeypatch):
    folders = make_folders(tmp_path / "data", 3, pictures=False)
    results = compared(folders, tmp_path / "out", COUNTED, monkeypatch, patch=16, page=True)
    assert results["failures"] == []
    assert (results["score"], results["foreground"], len(results["classes"])) == ("miou", None, 3)
    assert row_of(results, "patch_oracle")["difference"]["value"] > 0
    assert row_of(results, "platt")["parameters"] == 6
    assert "largest probability" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minutes": 1, "steps": 1}, "got both"),
        ({"minutes": 0}, "minutes above 0"),
        ({"patch": 0}, "patch above 0"),
        ({"fit_masks": "masks"}, "--fit-maps and --fit-masks together"),
        ({"fit_maps": "data/maps", "fit_masks": "data/masks", "fit_images": "data/images"}, "for both"),
        ({"fit_maps": "x", "fit_masks": "y"}, "--fit-images beside --images"),
        ({"methods": ["platte"]}, "did you mean platt"),
        ({"out": "data/maps"}, "outside of"),
        ({"out": "data/maps/deeper"}, "outside of"),
        ({"out": "file"}, "got the file"),
        ({"out": "full"}, "holds files"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path / "data", names="abcd")
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = sorted(path for path in tmp_path.rglob("*"))
    given = {"maps": "data/maps", "masks": "data/masks", "images": "data/images", "out": "out", **options}
    with pytest.raises(SegfocusError, match=words) as error:
        compare(**given, progress=False)
    assert "\n" not in str(error.value)
    assert sorted(path for path in tmp_path.rglob("*")) == before
