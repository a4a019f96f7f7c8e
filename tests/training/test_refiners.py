"""A refiner is trained, stopped, resumed, scored and reported like any other method."""

import dataclasses

import pytest
import torch

from segfocus.errors import SegfocusError
from segfocus.recipe import load_recipe
from segfocus.report.runs import score_and_report
from segfocus.training.checks import check, check_windows
from segfocus.training.evaluation import evaluate
from segfocus.training.run import train
from tests.data.map_folders import write_map_folders


def small_recipe(folders, **training):
    recipe = load_recipe("threshnet-maps")
    maps, masks, images = map(str, folders)
    recipe.data = dataclasses.replace(
        recipe.data, maps=maps, masks=masks, images=images, crop=[32, 32], val_share=0.3, workers=0, batch_size=2
    )
    recipe.model.options = {"width": 2, "patch": 16}
    recipe.evaluation = dataclasses.replace(recipe.evaluation, window=[48, 48], stride=[32, 32])
    values = {"steps": 4, "precision": "32-true", "validate_every": 1.0, **training}
    recipe.training = dataclasses.replace(recipe.training, **values)
    return recipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_map_folders(tmp_path_factory.mktemp("maps"))


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    return train(small_recipe(folders), tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_writes_weights_panels_scores_and_a_report(run):
    scores, page = score_and_report(run)
    assert (run / "best.safetensors").is_file()
    assert list((run / "panels").glob("*.png"))
    assert scores["baseline"]["kind"] == "base"
    assert scores["n_pictures"] >= 1
    text = page.read_text(encoding="utf-8")
    assert "threshnet on maps" in text
    changed = scores["baseline"]["changed"]
    assert changed["fixed"] + changed["broken"] > 0


def test_a_stopped_run_goes_on_to_the_same_weights(run, folders, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from segfocus.training.callbacks import Bar

    def stop(self, trainer, task, *rest):
        if task.step == 2:
            raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Bar, "on_train_batch_end", stop)
        with pytest.raises(OSError, match="the disk is gone"):
            train(small_recipe(folders), tmp_path / "half")
    resumed = train(out=tmp_path / "half", resume=True)
    first, second = (load_file(folder / "last.safetensors") for folder in (run, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_evaluation_needs_maps(run, folders):
    from segfocus.recipe import DataConfig

    with pytest.raises(SegfocusError, match=r"expected maps for the refiner threshnet, got the pictures of folder"):
        evaluate(
            run / "best.safetensors",
            DataConfig(name="folder", images=str(folders[2]), masks=str(folders[1]), val_share=0.3),
            "all",
        )


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("data", {"name": "camvid"}, "threshnet refines maps: expected data.name maps, got camvid"),
        ("model", {"method": "plain"}, "data.name maps: expected a method that refines maps, got plain"),
        ("model", {"method": "temperature"}, "temperature: expected one that is trained"),
        ("model", {"method": "offset_refiner", "options": {}}, "offset_refiner reads pictures: expected data.images"),
    ],
)
def test_methods_and_data_that_do_not_fit_are_refused(folders, section, changes, words):
    recipe = small_recipe(folders)
    recipe.data = dataclasses.replace(recipe.data, images=None)
    setattr(recipe, section, dataclasses.replace(getattr(recipe, section), **changes))
    with pytest.raises(SegfocusError, match=words):
        check(recipe)


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("data", {"crop": [40, 32]}, r"data.crop: expected multiples of 16 px .*try 32 32"),
        ("evaluation", {"window": [40, 40]}, r"window: expected height and width in multiples of 16 px"),
        ("evaluation", {"flip": True}, "neither scales nor flip for a refiner; try --evaluation.shifts"),
        ("data", {"resize": [64, 64]}, "evaluation.window: expected none where maps are resized"),
    ],
)
def test_windows_and_crops_lie_on_the_patches(folders, section, changes, words):
    from segfocus.methods import build

    recipe = small_recipe(folders)
    setattr(recipe, section, dataclasses.replace(getattr(recipe, section), **changes))
    with pytest.raises(SegfocusError, match=words):
        check_windows(recipe, build(recipe.model, 2))


def test_class_weights_and_unknown_options_are_refused():
    from segfocus.methods import build
    from segfocus.recipe import ModelConfig

    with pytest.raises(SegfocusError, match="threshnet: expected no class weights"):
        build(ModelConfig(method="threshnet"), 2, class_weights=[1.0, 2.0])
    with pytest.raises(SegfocusError, match="unknown option 'wdth'; did you mean width"):
        build(ModelConfig(method="threshnet", options={"wdth": 8}), 2)
