"""What a run writes, what it refuses, and what it resolves."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segfocus import checkpoint
from segfocus.data.module import SegmentationData
from segfocus.errors import SegfocusError
from segfocus.recipe import EvaluationConfig, load_recipe
from segfocus.training.checks import check_pictures
from segfocus.training.folders import create_folder, new_folder
from segfocus.training.run import class_weights, evaluate, train
from segfocus.training.state import make_plan
from tests.training.scenes import metrics, tiny_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run, with class weights from its masks."""
    recipe = tiny_recipe()
    recipe.model.class_weights = "masks"
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    before = (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
    assert train(recipe, folder) == folder
    assert recipe.model.class_weights == "masks"  # the caller's recipe stays as it was
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
    return folder


def test_a_run_writes_metrics_checkpoints_panels_recipe_and_environment(run):
    rows, validations = metrics(run)
    assert list(rows) == list(range(1, 11))
    assert list(validations) == [5, 10]  # about every second epoch of 3 steps, the last on the last step
    for row in rows.values():
        terms = [value for key, value in row.items() if key.startswith("loss_")]
        assert terms
        assert math.fsum(terms) == pytest.approx(row["loss"], rel=1e-5)
    assert rows[10]["epoch"] == pytest.approx(10 / 3, abs=1e-4)
    assert {"val_boundary_iou_1", "val_pixel_accuracy"} <= validations[10].keys()
    panels = sorted((run / "panels").iterdir())
    assert [path.name for path in panels] == ["step_0000005.png", "step_0000010.png"]
    with Image.open(panels[0]) as panel:
        assert panel.width > 3 * panel.height / 2
    recipe = load_recipe(run / "recipe.yaml")
    assert recipe.training.steps == 10
    weights = recipe.model.class_weights
    assert isinstance(weights, list)
    assert len(weights) == 9
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert list((run / "tensorboard").glob("events*"))
    assert not [path for path in run.rglob(".*") if path.is_file()]  # no temporary file is left


def test_checkpoints_hold_the_scores_of_their_weights(run):
    last = checkpoint.load(run / "last.safetensors")
    assert last.scores["step"] == 10
    assert last.scores["miou"] == pytest.approx(metrics(run)[1][10]["val_miou"])
    best = checkpoint.read_metadata(run / "best.safetensors")
    assert best.scores["miou"] == pytest.approx(max(row["val_miou"] for row in metrics(run)[1].values()))
    scores = evaluate(run / "last.safetensors", device="cpu")
    assert {key: scores[key] for key in ("miou", "per_class", "boundary_iou", "n_pictures")} == {
        key: last.scores[key] for key in ("miou", "per_class", "boundary_iou", "n_pictures")
    }
    assert scores["how"]["checkpoint"] == str(run / "last.safetensors")
    assert scores["how"]["split"] == "val"
    json.dumps(scores, allow_nan=False)


def test_evaluate_shows_each_picture_and_takes_windows_scales_and_flips(run):
    seen = []
    loaded = checkpoint.load(run / "last.safetensors")
    scores = evaluate(
        loaded,
        split="test",
        evaluation=EvaluationConfig(window=[32, 32], scales=[0.75, 1.0], flip=True),
        device="cpu",
        on_picture=lambda name, picture, target, prediction: seen.append((name, picture.shape, target.shape)),
    )
    assert seen == [(f"test_0000{index}", (48, 64, 3), (48, 64)) for index in range(3)]
    assert scores["how"]["flip"] is True
    assert scores["how"]["window"] == [32, 32]
    assert scores["boundary_iou"].keys() == {"1", "3", "5", "2%"}


def test_validation_uses_the_recipe_s_window_scales_and_flip(tmp_path):
    recipe = tiny_recipe(steps=1)
    recipe.evaluation = EvaluationConfig(window=[32, 48], scales=[0.75, 1.0], flip=True, boundary_distances=[1])
    train(recipe, tmp_path / "run")
    scores = evaluate(tmp_path / "run" / "last.safetensors", device="cpu")
    assert scores["per_class"] == checkpoint.read_metadata(tmp_path / "run" / "last.safetensors").scores["per_class"]


def test_evaluate_refuses_a_dataset_of_other_classes(run, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / "one.png")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "masks" / "one.png")
    data = dataclasses.replace(
        tiny_recipe().data, name="folder", images=str(tmp_path / "images"), masks=str(tmp_path / "masks")
    )
    with pytest.raises(SegfocusError, match="expected a dataset of the checkpoint's 9 classes, got 2"):
        evaluate(run / "last.safetensors", data, "all", device="cpu")
    names = list(checkpoint.read_metadata(run / "last.safetensors").classes.names)
    swapped = dict(enumerate([names[1], names[0], *names[2:]]))
    (tmp_path / "classes.yaml").write_text(json.dumps({"classes": swapped}))
    data = dataclasses.replace(data, classes=str(tmp_path / "classes.yaml"))
    with pytest.raises(SegfocusError, match="class 0 to be 'sky', got 'road'"):
        evaluate(run / "last.safetensors", data, "all", device="cpu")


@pytest.mark.parametrize("length", [{}, {"steps": 4, "epochs": 2.0}, {"epochs": 0.0}, {"steps": -3}])
def test_exactly_one_length_is_needed(length, tmp_path):
    with pytest.raises(SegfocusError, match=r"expected one of training\.epochs, training\.steps"):
        train(tiny_recipe(**{"steps": None, **length}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_existing_folder_is_refused_and_overwritten_only_when_asked(tmp_path):
    folder = tmp_path / "run"
    train(tiny_recipe(steps=2), folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SegfocusError, match="expected a new folder"):
        train(tiny_recipe(steps=1), folder)
    train(tiny_recipe(steps=1), folder, overwrite=True)
    assert list(metrics(folder)[0]) == [1]
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(SegfocusError, match="got the file"):
        train(tiny_recipe(steps=1), tmp_path / "file", overwrite=True)


def test_default_folders_are_never_reused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [train(tiny_recipe(steps=1), name=name) for name in (None, None, "mine")]
    assert len(set(folders)) == 3
    assert folders[0].parent == Path("runs")
    assert folders[0].name.startswith("fornet-synthetic-20")
    assert folders[2].name.startswith("mine-20")


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("training", {"validate_every": 0.0}, "validate_every"),
        ("training", {"ema_decay": 1.0}, "ema_decay"),
        ("training", {"devices": 0}, "devices: expected at least 1"),
        ("training", {"devices": 3}, "expected a multiple of the 3 processes, got 4; try 3"),
        ("training", {"seed": -1}, "seed"),
        ("training", {"seed": 2**32}, "seed"),
        ("training", {"save_every": 0}, "save_every"),
        ("training", {"steps": None, "minutes": math.nan}, "length of the run"),
        ("data", {"batch_size": 0}, "batch_size"),
        ("data", {"workers": -1}, "workers"),
        ("optimizer", {"learning_rate": 0.0}, "learning_rate"),
        ("optimizer", {"learning_rate": math.nan}, "learning_rate"),
        ("optimizer", {"weight_decay": -0.1}, "weight_decay"),
        ("optimizer", {"momentum": 1.0}, "momentum"),
        ("optimizer", {"warmup_steps": -1}, "warmup_steps"),
        ("optimizer", {"clip_norm": -1.0}, "clip_norm"),
        ("evaluation", {"window": [32, 0]}, "window: expected"),
        ("evaluation", {"window": [32, 32], "stride": [64, 64]}, "stride: expected"),
        ("evaluation", {"scales": [0.0]}, "scales: expected"),
        ("evaluation", {"boundary_distances": []}, "boundary distances"),
        ("training", {"precision": "16-mixed"}, "expected 32-true or bf16-mixed on CPU"),
        ("training", {"accelerator": "tpu"}, "training.accelerator"),
        ("model", {"class_weights": [1.0, 2.0]}, "expected 9 values, got 2"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(section, change, message, tmp_path):
    recipe = tiny_recipe()
    setattr(recipe, section, dataclasses.replace(getattr(recipe, section), **change))
    with pytest.raises(SegfocusError, match=message) as caught:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def _folder_recipe(folder, split, sizes, value=1, orientation=1):
    """Six training and two validation pairs; the last one of `split` has (picture, mask) of `sizes` and this value."""
    recipe = tiny_recipe(steps=1)
    (folder / "classes.yaml").write_text(json.dumps({"classes": {0: "sky", 1: "road"}}))
    recipe.data = dataclasses.replace(recipe.data, name="folder", classes=str(folder / "classes.yaml"))
    for name, count in (("", 6), ("val_", 2)):
        for kind in ("images", "masks"):
            (folder / f"{name}{kind}").mkdir()
            setattr(recipe.data, f"{name}{kind}", str(folder / f"{name}{kind}"))
        for index in range(count):
            odd = name == split and index == count - 1
            picture, mask = sizes if odd else ((48, 64), (48, 64))
            labels = np.zeros(mask, np.uint8)
            labels[20:] = value if odd else 1
            exif = Image.Exif()
            exif[0x0112] = orientation if odd else 1
            Image.fromarray(np.zeros((*picture, 3), np.uint8)).save(folder / f"{name}images/{index}.jpg", exif=exif)
            Image.fromarray(labels).save(folder / f"{name}masks/{index}.png")
    return recipe


@pytest.mark.parametrize(("split", "name"), [("", "masks/5.png"), ("val_", "val_masks/1.png")])
def test_bad_masks_are_found_before_anything_is_written(split, name, tmp_path):
    cases = {
        "size": (((48, 64), (48, 60)), 1, f"{name}: expected the size of its picture .* 48x64 .* got 48x60"),
        "value": (((48, 64), (48, 64)), 7, f"{name}.*7"),
        "turned": (((48, 64), (64, 48)), 1, f"{name}: expected the size"),
    }
    for case, (sizes, value, message) in cases.items():
        (tmp_path / case).mkdir()
        recipe = _folder_recipe(tmp_path / case, split, sizes, value)
        with pytest.raises(SegfocusError, match=message):
            train(recipe, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_picture_turned_by_its_exif_data_fits_its_upright_mask(tmp_path):
    recipe = _folder_recipe(tmp_path, "", ((48, 64), (64, 48)), orientation=6)
    recipe.model.class_weights = "masks"
    data = SegmentationData(recipe.data)
    data.setup("fit")
    counts = check_pictures(data.train_dataset)
    assert counts is not None
    assert counts.tolist() == [5 * 20 * 64 + 20 * 48, 5 * 28 * 64 + 44 * 48]
    assert counts.tolist() == data.train_dataset.pixel_counts().tolist()
    weights = load_recipe(train(recipe, tmp_path / "run") / "recipe.yaml").model.class_weights
    assert weights == class_weights(counts)


def test_devices_that_are_not_there_are_refused_in_one_line(tmp_path, monkeypatch):
    def refuse(**options):
        raise ValueError("no such\nprecision")

    monkeypatch.setattr("lightning.Trainer", refuse)
    with pytest.raises(SegfocusError, match="got: no such precision; try"):
        train(tiny_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_created_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegfocusError, match=r"cannot write .*run"):
        train(tiny_recipe(steps=1), tmp_path / "file" / "run")


def test_folders_taken_meanwhile_are_not_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = new_folder(tiny_recipe(), None, False, "my_long_name")
    names = [create_folder(folder, False, False).name for _ in range(3)]
    assert names == [folder.name, f"{folder.name}_2", f"{folder.name}_3"]
    assert folder.name.startswith("my_long_name-20")
    chosen = new_folder(tiny_recipe(), "chosen", False, None)
    chosen.mkdir()
    (chosen / "recipe.yaml").write_text("another run's")
    with pytest.raises(SegfocusError, match="expected a new folder"):
        create_folder(chosen, True, False)
    assert create_folder(chosen, True, True) == chosen
    assert not list(chosen.iterdir())


def test_ranks_started_from_outside_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SegfocusError, match=r"--training\.devices N"):
        train(tiny_recipe(), tmp_path / "run")


def test_a_recipe_is_needed(tmp_path):
    with pytest.raises(SegfocusError, match="expected a recipe"):
        train(out=tmp_path / "run")


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(tmp_path):
    recipe = tiny_recipe(steps=8)
    recipe.optimizer = dataclasses.replace(recipe.optimizer, name="sgd", learning_rate=1e30, clip_norm=0.0)
    with pytest.raises(SegfocusError, match=r"expected a finite loss, got .* at step \d"):
        train(recipe, tmp_path / "run")


def test_a_run_without_averaging_publishes_the_trained_weights(tmp_path):
    train(tiny_recipe(ema_decay=0.0, steps=2), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "resume.ckpt", weights_only=True)
    assert state["average"] is None
    published = checkpoint.load(tmp_path / "run" / "last.safetensors").model.state_dict()
    for name, tensor in state["model"].items():
        assert torch.equal(published[name], tensor), name


def test_bf16_trains_and_is_validated_in_float32(tmp_path):
    train(tiny_recipe(precision="bf16-mixed", steps=3), tmp_path / "run")
    scores = evaluate(tmp_path / "run" / "last.safetensors", device="cpu")
    assert scores["per_class"] == checkpoint.read_metadata(tmp_path / "run" / "last.safetensors").scores["per_class"]


def test_loader_processes_change_nothing(run, tmp_path):
    recipe = tiny_recipe()
    recipe.model.class_weights = "masks"
    recipe.data.workers = 2
    train(recipe, tmp_path / "run")
    for step, row in metrics(run)[0].items():
        assert metrics(tmp_path / "run")[0][step]["loss"] == pytest.approx(row["loss"], abs=1e-5)


def test_class_weights_follow_the_formula():
    # median of the classes that occur: 100; sqrt(100 / count), between 0.1 and 10; 0 for the absent class
    assert class_weights(np.array([100, 400, 25, 0])) == [1.0, 0.5, 2.0, 0.0]
    assert class_weights(np.array([1, 10**6, 10**3])) == [10.0, 0.1, 1.0]
    with pytest.raises(SegfocusError, match="only ignored"):
        class_weights(np.array([0, 0]))


@pytest.mark.parametrize("total", [1, 2, 10, 99, 100, 101, 6900])
@pytest.mark.parametrize("every", [0.3, 1.0, 10.0, 1000.0])
def test_validations_lie_evenly_and_the_last_falls_on_the_last_step(total, every):
    plan = make_plan(total, every, steps_per_epoch=45.875, save_every=100)
    steps = [step for step in range(1, total + 1) if plan.validates(step)]
    assert steps[-1] == total
    assert {second - first for first, second in itertools.pairwise(steps)} <= {plan.validate_every}
    assert steps == [step for step in range(1, total + 1) if (step + plan.offset) % plan.validate_every == 0]
    assert len(steps) <= max(1, round(total / (every * 45.875)))
