"""Options of evaluate, predict and describe that decide what is scored, how, and where it is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segfocus import allocator
from segfocus.checkpoint import save
from segfocus.cli import main
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.options import parse, verb_parser
from segfocus.prediction_options import add_prediction_options, evaluation_changes
from segfocus.recipe import DataConfig, EvaluationConfig, ModelConfig, Recipe
from tests.test_cli import refused, run


@pytest.fixture(autouse=True)
def _plain_allocator(monkeypatch):
    monkeypatch.setenv(allocator.VARIABLE, "default")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight pictures of 40 x 40, their masks, and an untrained checkpoint whose recipe reads other folders."""
    root = tmp_path_factory.mktemp("folder")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(8):
        Image.fromarray(np.full((40, 40, 3), 20 * number, np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(np.eye(40, dtype=np.uint8)).save(root / "masks" / f"{number}.png")
    recipe = Recipe(
        data=DataConfig(images=str(root / "moved"), masks=str(root / "moved")),
        model=ModelConfig(pretrained=False),
        evaluation=EvaluationConfig(window=[32, 32], stride=[8, 8], flip=True),
    )
    torch.manual_seed(0)
    save(root / "net.safetensors", build(recipe.model, 2), recipe, Classes.of(["class_0", "class_1"]))
    return root


def evaluation(folder: Path, *options: str) -> list[str]:
    data = ["--data.images", str(folder / "images"), "--data.masks", str(folder / "masks"), "--device", "cpu"]
    return ["evaluate", str(folder / "net.safetensors"), *data, *options]


def scores_of(capsys, folder: Path, out: Path, *options: str) -> dict:
    code, _, error = run(capsys, *evaluation(folder, "--json", str(out / "new" / "scores.json"), *options))
    assert code == 0, error
    return json.loads((out / "new" / "scores.json").read_text())


def changes(*arguments: str) -> dict:
    parser = verb_parser("evaluate", "", "")
    add_prediction_options(parser)
    return evaluation_changes(parse(parser, list(arguments)))


def test_a_window_given_alone_drops_the_recipes_stride():
    assert changes("--window", "64x48") == {"window": [64, 48], "stride": None}
    assert changes("--window", "64x48", "--stride", "8x8") == {"window": [64, 48], "stride": [8, 8]}
    assert changes("--window", "none") == {"window": None, "stride": None}
    assert changes("--stride", "8x8") == {"stride": [8, 8]}


def test_flip_can_be_turned_on_and_off():
    assert (changes("--flip"), changes("--no-flip"), changes()) == ({"flip": True}, {"flip": False}, {})


def test_one_of_focus_and_adaptive_decides():
    assert changes("--focus", "0.1") == {"focus": 0.1, "adaptive": None}
    assert changes("--adaptive", "0.9") == {"focus": None, "adaptive": 0.9}
    assert changes("--focus", "none") == {"focus": None, "adaptive": None}
    for text in ("1.5", "-0.1", "nan", "much"):
        with pytest.raises(SegfocusError, match=f"--focus: expected a share from 0 to 1, .*, got '{text}'"):
            changes("--focus", text)


def test_an_adaptive_share_of_nothing_and_two_shares_are_refused_as_they_were_typed():
    with pytest.raises(SegfocusError, match=r"^--adaptive: expected a share above 0, up to 1, .*, got '0'"):
        changes("--adaptive", "0")
    with pytest.raises(SegfocusError, match=r"^expected one of --focus and --adaptive, got both; try"):
        changes("--focus", "0.1", "--adaptive", "0.9")
    assert changes("--focus", "none", "--adaptive", "0.9") == {"focus": None, "adaptive": 0.9}


def test_focus_changes_what_is_scored_and_is_recorded(capsys, folder, tmp_path):
    scores = scores_of(capsys, folder, tmp_path, "--focus", "0.1", "--window", "none", "--no-flip")
    assert (scores["how"]["focus"], scores["how"]["adaptive"]) == (0.1, None)
    assert "got both" in refused(capsys, *evaluation(folder, "--focus", "0.1", "--adaptive", "0.9"))
    pictures = ["predict", str(folder / "net.safetensors"), str(folder / "images"), "--window", "none", "--no-flip"]
    assert run(capsys, *pictures, "--adaptive", "0.9", "--out", str(tmp_path / "out"))[0] == 0
    assert "--overwrite" in refused(capsys, *pictures, "--focus", "0", "--out", str(tmp_path / "out"))


def test_flip_and_no_flip_together_are_refused(capsys, folder):
    assert "one of --flip and --no-flip" in refused(capsys, *evaluation(folder, "--flip", "--no-flip"))


def test_pictures_named_on_the_command_line_are_all_scored(capsys, folder, tmp_path):
    scores = scores_of(capsys, folder, tmp_path, "--window", "24x24", "--no-flip")
    assert (scores["n_pictures"], scores["how"]["split"]) == (8, "all")
    assert (scores["how"]["window"], scores["how"]["stride"], scores["how"]["flip"]) == ([24, 24], None, False)
    scores = scores_of(capsys, folder, tmp_path, "--split", "val")
    assert scores["n_pictures"] < 8
    assert (scores["how"]["stride"], scores["how"]["flip"]) == ([8, 8], True)


def test_folders_that_have_moved_are_one_line(capsys, folder):
    assert "moved: expected a folder" in refused(capsys, "evaluate", str(folder / "net.safetensors"))


def test_max_pixels_works_for_every_verb_that_reads_pictures(capsys, folder, tmp_path):
    limit = ("--max-pixels", "1599")
    words = "expected at most 1599 pixels, got 1600 (40x40); --max-pixels raises it"
    assert words in refused(capsys, *evaluation(folder, *limit))
    predicting = ["predict", str(folder / "net.safetensors"), str(folder / "images"), "--out", str(tmp_path / "out")]
    assert words in refused(capsys, *predicting, *limit)
    data = ["--data.images", str(folder / "images"), "--data.masks", str(folder / "masks")]
    assert words in refused(capsys, "train", "fornet-folder", *data, *limit, "--out", str(tmp_path / "run"))
    assert "--max-pixels: expected 1 or more, got 0" in refused(capsys, *predicting, "--max-pixels", "0")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_targets_are_checked_before_the_work(capsys, folder, tmp_path, monkeypatch, option):
    import segfocus.report.runs

    monkeypatch.setattr(segfocus.report.runs, "evaluate_and_report", lambda *_, **__: pytest.fail("began"))
    (tmp_path / "file").touch()
    assert "is no folder" in refused(capsys, *evaluation(folder, option, str(tmp_path / "file" / "below" / "x.html")))
    wrong = tmp_path if option == "--json" else tmp_path / "file"
    assert f"{option}: expected a f" in refused(capsys, *evaluation(folder, option, str(wrong)))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be written" in refused(capsys, *evaluation(folder, option, str(tmp_path / "new" / "x.html")))


def test_describe_refuses_a_number_of_classes_that_cannot_be(capsys, folder):
    assert "two or more, got 0" in refused(capsys, "describe", "fornet-camvid", "--num-classes", "0")
    line = refused(capsys, "describe", str(folder / "net.safetensors"), "--num-classes", "5")
    assert "expected none with a checkpoint, which says its own" in line


def test_a_file_error_that_nobody_caught_is_one_line(capsys, monkeypatch):
    def denied(arguments):
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("segfocus.verbs.training.train", denied)
    assert refused(capsys, "train", "x") == "segfocus: error: /some/file: Permission denied\n"

    def nameless(arguments):
        raise OSError("odd")

    monkeypatch.setattr("segfocus.verbs.training.train", nameless)
    with pytest.raises(OSError, match="odd"):
        main(["train", "x"])
