"""`segfocus refine`: from a base's checkpoint to maps, a refiner and refined maps; and one line for what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfocus.checkpoint import load, read_metadata
from segfocus.cli import main
from segfocus.data.map_files import open_map
from segfocus.inference.refiner import MapRefiner
from segfocus.refinement import compare as compare_module
from segfocus.refinement import saturation
from segfocus.verbs import training
from tests.refinement.bases import TEST, crack_recipe, save_untrained, write_cracks

SMALL = ["--training.precision", "32-true", "--data.workers", "0", "--data.batch_size", "2"]
SMALL += ["--data.crop", "32", "32", "--training.steps", "2", "--training.accelerator", "cpu"]
SMALL += ["--model.options", "{width: 4, patch: 16}", "--evaluation.window", "none", "--evaluation.stride", "none"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_cracks(tmp_path_factory.mktemp("cracks"))


@pytest.fixture(scope="module")
def base(root, tmp_path_factory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("base") / "base.safetensors", crack_recipe(root))


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory) -> Path:
    """What export-maps writes of the test split."""
    out = tmp_path_factory.mktemp("exported") / "test"
    assert main(["refine", "export-maps", str(base), "--split", "test", "--out", str(out), "--device", "cpu"]) == 0
    return out


@pytest.fixture(scope="module")
def run(exported, tmp_path_factory) -> Path:
    """A refiner trained on them, as far as two steps go."""
    out = tmp_path_factory.mktemp("runs") / "refiner"
    assert main(["refine", "train", "threshnet-maps", "--maps", str(exported), "--out", str(out), *SMALL]) == 0
    return out


def error_of(capsys, *arguments: object) -> str:
    """The one line of a call that is refused."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    return lines[0]


# ------------------------------------------------------------------------------------------------------ what there is


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_lists_what_it_can_do(capsys, arguments):
    assert main(["refine", *arguments]) == 0
    out = capsys.readouterr().out
    for action in ("export-maps", "train", "apply", "compare"):
        assert f"\n  {action} " in out


@pytest.mark.parametrize("action", ["export-maps", "train", "apply", "compare"])
def test_each_action_has_help(capsys, action):
    assert main(["refine", action, "--help"]) == 0
    assert f"usage: segfocus refine {action}" in capsys.readouterr().out


def test_an_unknown_action_is_refused(capsys):
    assert "unknown action 'aply'; did you mean apply?" in error_of(capsys, "refine", "aply")


# ---------------------------------------------------------------------------------------------------- from end to end


def test_export_takes_the_options_of_prediction_and_data(base, root, tmp_path, capsys):
    moved = shutil.copytree(root, tmp_path / "moved")
    out = tmp_path / "out"
    arguments = ["--data.root", str(moved), "--split", "test:1of3", "--window", "16x24", "--flip", "--format", "npy"]
    assert main(["refine", "export-maps", str(base), "--out", str(out), *arguments, "--device", "cpu"]) == 0
    record = json.loads((out / "maps.json").read_text())
    assert record["settings"]["how"] == {"window": [16, 24], "stride": None, "scales": [1.0], "flip": True}
    assert record["root"] == str(moved)
    assert "--split test:1of3" in record["command"]
    assert len(record["names"]) < len(TEST)
    assert [path.suffix for path in (out / "maps").iterdir()] == [".npy"] * len(record["names"])
    assert f"{len(record['names'])} maps in {out}" in capsys.readouterr().out


def test_train_goes_the_way_of_train(run, exported):
    recipe = read_metadata(run / "best.safetensors").recipe
    assert (recipe.data.name, recipe.data.logits) == ("maps", False)
    places = (recipe.data.maps, recipe.data.masks, recipe.data.images, recipe.data.classes)
    assert places == tuple(str(exported / name) for name in ("maps", "masks", "images", "classes.yaml"))
    assert recipe.model.options == {"width": 4, "patch": 16}
    scores = json.loads((run / "scores.json").read_text())
    assert scores["baseline"]["kind"] == "base"
    assert "segfocus refine train threshnet-maps" in scores["how"]["command"]
    assert load(run / "best.safetensors").classes.names == ("background", "crack")


def test_a_finished_refiner_can_be_resumed(run, capsys):
    assert main(["refine", "train", "--resume", str(run)]) == 0
    assert f"report  {run / 'report.html'}" in capsys.readouterr().out


def test_apply_writes_what_the_refiner_says(run, exported, tmp_path, capsys):
    out = tmp_path / "refined"
    weights = run / "best.safetensors"
    arguments = ["refine", "apply", str(weights), "--maps", str(exported), "--out", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    assert f"{2 * len(TEST)} files in {out}" in capsys.readouterr().out
    refiner = MapRefiner(weights, device="cpu")
    for name in TEST:
        map_file = open_map(exported / "maps" / f"{name}.png", 2)
        everything = (slice(0, map_file.size[0]), slice(0, map_file.size[1]))
        prediction = refiner(map_file.read(*everything))
        assert np.array_equal(np.asarray(Image.open(out / "labels" / f"{name}.png")), prediction.labels)
        refined = open_map(out / "probabilities" / f"{name}.png", 2).read(*everything)
        assert abs(refined - prediction.probabilities).max() <= 1 / 65535
    assert main(arguments) == 0  # goes on where it stopped: nothing is left
    assert f"0 files in {out}" in capsys.readouterr().out


def test_apply_takes_what_is_given_before_the_recipes_own(run, exported, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "segfocus.inference.refiner.MapRefiner.__init__",
        lambda self, model, **how: seen.append(how) or (_ for _ in ()).throw(KeyboardInterrupt),
    )
    recipe = read_metadata(run / "best.safetensors").recipe
    recipe.data.resize, recipe.evaluation.shifts = [64, 64], True
    weights = save_untrained(tmp_path / "refiner.safetensors", recipe)
    start = ["refine", "apply", str(weights), "--maps", str(exported), "--out", str(tmp_path / "out")]
    for given in ([], ["--window", "32x48", "--no-shifts"], ["--resize", "none"], ["--window", "none", "--shifts"]):
        assert main([*start, *given]) == 130
    assert capsys.readouterr().err.endswith("segfocus: stopped; the same command goes on\n")
    assert seen == [
        {"window": None, "stride": None, "resize": (64, 64), "shifts": True, "device": "auto"},
        {"window": (32, 48), "stride": None, "resize": None, "shifts": False, "device": "auto"},
        {"window": None, "stride": None, "resize": None, "shifts": True, "device": "auto"},
        {"window": None, "stride": None, "resize": (64, 64), "shifts": True, "device": "auto"},
    ]


def test_compare_hands_on_and_tells(exported, tmp_path, capsys, monkeypatch):
    given = {}
    row = {"title": "the maps as they are", "score": {"value": 0.5}}
    results = {"rows": [row], "foreground": "crack", "n_pictures": 3, "failures": ["x: no map"]}
    monkeypatch.setattr(
        compare_module, "compare", lambda *folders, **options: given.update(options, folders=folders) or results
    )
    arguments = ["--maps", exported, "--out", tmp_path / "report", "--methods", "fixed,platt", "crf", "--steps", 5]
    arguments += ["--fit-maps", exported, "--seed", 3]
    assert main(["refine", "compare", *map(str, arguments)]) == 1
    assert given["folders"] == (exported / "maps", exported / "masks")
    assert (given["images"], given["classes"]) == (exported / "images", exported / "classes.yaml")
    assert (given["fit_maps"], given["fit_masks"]) == (exported / "maps", exported / "masks")
    assert (given["methods"], given["steps"], given["seed"]) == (["fixed", "platt", "crf"], 5, 3)
    assert "minutes" in given
    assert "patch" not in given
    told = capsys.readouterr()
    assert "IoU of crack in percent, 3 pictures\n  the maps as they are  50.0" in told.out
    assert "segfocus: x: no map" in told.err


def test_folders_given_one_by_one_keep_their_classes_file(exported, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "_finish", lambda *of: None)
    monkeypatch.setattr("segfocus.training.run.train", lambda recipe, *of, **options: seen.append(recipe.data))
    folders = ["--maps", str(exported / "maps"), "--masks", str(exported / "masks")]
    for more in ([], ["--data.classes", "camvid", "--logits"]):
        monkeypatch.setattr("segfocus.verbs.refine._look_at_maps", lambda recipe, keep_batch: None)
        assert main(["refine", "train", "threshnet-maps", *folders, *more]) == 0
    assert (seen[0].classes, seen[0].images, seen[0].logits) == (str(exported / "classes.yaml"), None, False)
    assert (seen[1].classes, seen[1].logits) == ("camvid", True)


def test_train_says_that_maps_are_saturated(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saturation, "uncertain_pixels", lambda probabilities: 0)
    monkeypatch.setattr(training, "_finish", lambda *of: None)
    monkeypatch.setattr("segfocus.training.run.train", lambda *of, **options: None)
    assert main(["refine", "train", "threshnet-maps", "--maps", str(exported), *SMALL]) == 0
    assert "the maps are saturated: only 0.00 % of the pixels" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ what is wrong


def broken(exported: Path, tmp_path: Path, values: np.ndarray | bytes, ending: str = ".npy") -> Path:
    """The exported folder with something else as its first map."""
    out = shutil.copytree(exported, tmp_path / "broken")
    (out / "maps" / f"{TEST[0]}.png").unlink()
    path = out / "maps" / f"{TEST[0]}{ending}"
    if isinstance(values, bytes):
        path.write_bytes(values)
    elif ending == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    return out


WRONG = {
    "logits": (np.full((32, 40), 3.5, np.float32), ".npy", "expected probabilities in [0, 1], got 3.5 to 3.5"),
    "NaN": (np.full((32, 40), np.nan, np.float32), ".npy", "got NaN or infinity 1280 times"),
    "channels": (np.full((5, 32, 40), 0.2, np.float32), ".npy", "expected a map of 2 classes"),
    "colours": (np.arange(3840, dtype=np.uint8).reshape(32, 40, 3), ".png", "got a colour picture"),
    "size": (np.full((32, 41), 0.5, np.float32), ".npy", "expected the size of its"),
    "damaged": (b"no picture", ".png", "expected a picture file"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_train_refuses_maps_that_are_none(exported, tmp_path, capsys, what):
    values, ending, words = WRONG[what]
    out = broken(exported, tmp_path, values, ending)
    line = error_of(capsys, "refine", "train", "threshnet-maps", "--maps", out, "--out", tmp_path / "run", *SMALL)
    assert words in line
    assert TEST[0] in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", [name for name in WRONG if name != "size"])
def test_apply_leaves_them_out_and_does_the_others(run, exported, tmp_path, capsys, what):
    values, ending, words = WRONG[what]
    maps = broken(exported, tmp_path, values, ending) / "maps"
    out = tmp_path / "out"
    line = error_of(
        capsys, "refine", "apply", run / "best.safetensors", "--maps", maps, "--out", out, "--device", "cpu"
    )
    assert words in line
    assert f"1 of {len(TEST)}" in line
    assert {path.stem for path in (out / "labels").iterdir()} == set(TEST[1:])


def test_logits_are_told(run, exported, tmp_path):
    for name in ("probabilities", "logits"):
        (tmp_path / name).mkdir()
    values = np.random.default_rng(0).normal(0, 2, (32, 40)).astype(np.float32)
    np.save(tmp_path / "logits" / "a.npy", values)
    np.save(tmp_path / "probabilities" / "a.npy", (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32))
    found = []
    for name, more in (("logits", ["--logits"]), ("probabilities", [])):
        out = tmp_path / f"{name}-out"
        weights = str(run / "best.safetensors")
        start = ["refine", "apply", weights, "--maps", str(tmp_path / name), "--out", str(out), "--device", "cpu"]
        assert main([*start, *more, "--save", "labels"]) == 0
        found.append(np.asarray(Image.open(out / "labels" / "a.png")))
        assert not (out / "probabilities").exists()
    assert np.array_equal(*found)


def test_missing_masks_are_listed(exported, tmp_path, capsys):
    out = shutil.copytree(exported, tmp_path / "lacking")
    (out / "masks" / f"{TEST[1]}.png").unlink()
    line = error_of(capsys, "refine", "train", "threshnet-maps", "--maps", out, *SMALL)
    assert f"expected a file for each of 3 maps, got none for 1: {TEST[1]}" in line


REFUSED = {
    "no recipe": (["train", "--maps", "MAPS"], "refine train: expected a recipe; try one of threshnet-"),
    "no maps": (["train", "threshnet-maps"], "expected the folder of the maps, got none; try --maps"),
    "no masks": (["train", "threshnet-maps", "--maps", "MAPS/maps"], "expected the folder of the true masks, got none"),
    "no refiner's recipe": (["train", "unet-deepcrack", "--maps", "MAPS"], "expected the recipe of a refiner, got one"),
    "not trained": (
        ["train", "threshnet-maps", "--model.method", "crf", "--maps", "MAPS"],
        "method crf: expected one that is trained",
    ),
    "resume and maps": (["train", "--resume", "RUN", "--maps", "MAPS"], "the run folder says which maps"),
    "apply without maps": (["apply", "RUN/best.safetensors", "--out", "OUT"], "refine apply: expected the folder of"),
    "a base": (["apply", "BASE", "--maps", "MAPS", "--out", "OUT"], "expected a refiner of maps, got PlainSegmenter"),
    "into the maps": (["apply", "RUN/best.safetensors", "--maps", "MAPS/maps", "--out", "MAPS/maps"], "MAPS/maps"),
    "inside the maps": (["apply", "RUN/best.safetensors", "--maps", "MAPS/maps", "--out", "MAPS/maps/a"], "MAPS/maps"),
    "kinds": (["apply", "RUN/best.safetensors", "--maps", "MAPS", "--out", "OUT", "--save", "label"], "mean labels?"),
    "window": (
        ["apply", "RUN/best.safetensors", "--maps", "MAPS", "--out", "OUT", "--window", "40x40"],
        "16",
    ),
    "shifts": (
        ["apply", "RUN/best.safetensors", "--maps", "MAPS", "--out", "OUT", "--shifts", "--no-shifts"],
        "expected one of --shifts and --no-shifts, got both",
    ),
    "no checkpoint": (["apply", "absent.safetensors", "--maps", "MAPS", "--out", "OUT"], "which does not exist"),
    "compare without maps": (["compare", "--out", "OUT"], "refine compare: expected the folder of the maps, got none"),
    "compare without masks": (["compare", "--maps", "MAPS/maps", "--out", "OUT"], "expected the folder of the true"),
    "export a refiner": (["export-maps", "RUN/best.safetensors", "--out", "OUT"], "expected a network that sees"),
    "export nothing": (["export-maps", "BASE", "--out", "OUT", "--split", "tset"], "unknown split 'tset'"),
    "export to a file": (["export-maps", "BASE", "--out", "BASE"], "--out: expected a folder to write"),
    "export one fold": (["export-maps", "BASE", "--out", "OUT", "--folds", "1"], "--folds: expected 2 or more"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_refused_in_one_line(base, run, exported, tmp_path, capsys, what):
    arguments, words = REFUSED[what]
    named = {"MAPS": exported, "RUN": run, "BASE": base, "OUT": tmp_path / "out"}
    for name, path in named.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
        words = words.replace(name, str(path))
    assert words in error_of(capsys, "refine", *arguments)
    assert not (tmp_path / "out").exists()
