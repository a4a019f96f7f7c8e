"""The command line: start-up, words of its errors, and every verb once."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segfocus
from segfocus import allocator, cli
from segfocus.cli import main
from segfocus.errors import SegfocusError
from segfocus.options import add_recipe_options, changed, overrides, parse, verb_parser
from segfocus.recipe import Recipe, recipe_keys

SECTIONS = ("data", "model", "optimizer", "training", "evaluation")
TINY = [
    *("--data.synthetic_pictures", "8", "--data.synthetic_size", "48", "64", "--data.crop", "48x64"),
    *("--data.batch_size", "4", "--data.workers", "0", "--training.steps", "2", "--training.precision", "32-true"),
]


@pytest.fixture(autouse=True)
def _plain_allocator(monkeypatch):
    """Commands run inside the test process: its allocator stays as it is."""
    monkeypatch.setenv(allocator.VARIABLE, "default")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *arguments: str) -> str:
    """The one line on standard error of a command that must fail with 2."""
    code, out, error = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert error.startswith("segfocus: error: ")
    assert error.count("\n") == 1
    return error


def started(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


# ------------------------------------------------------------------------------------------------------------ start-up


def test_help_is_quick_and_imports_nothing_heavy():
    script = (
        "import sys; from segfocus.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'jsonargparse', 'yaml', 'lightning'} & set(sys.modules);"
        "sys.exit(f'{heavy}' if heavy or code else 0)"
    )
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        done = started("-c", script)
        seconds.append(time.perf_counter() - begin)
        assert done.returncode == 0, done.stderr
        assert all(verb in done.stdout for verb in cli.VERBS)
    assert min(seconds) <= 0.5


def test_help_of_a_verb_and_lists_do_not_import_torch():
    script = (
        "import sys; from segfocus.cli import main;"
        "codes = [main(['train', '--help']), main(['list'])];"
        "sys.exit('torch' if 'torch' in sys.modules or any(codes) else 0)"
    )
    done = started("-c", script)
    assert done.returncode == 0, done.stderr
    assert "fornet-synthetic" in done.stdout


def test_module_and_version():
    done = started("-m", "segfocus", "--version")
    assert (done.returncode, done.stdout) == (0, f"segfocus {segfocus.__version__}\n")


def test_a_reader_that_has_gone_is_no_error():
    script = "import os, sys; from segfocus.cli import main; os.close(1); os.dup2(int(sys.argv[1]), 1); "
    script += "sys.exit(main(['--help']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = started("-c", script, str(writer), pass_fds=[writer])
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# ------------------------------------------------------------------------------------------------- words of the errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tarin"], ["unknown verb 'tarin'", "train"]),
        (["train", "fornet-camvit"], ["unknown recipe 'fornet-camvit'", "fornet-camvid"]),
        (["train"], ["expected a recipe", "fornet-synthetic"]),
        (["train", "fornet-camvid", "--data.rot", "x"], ["unknown option --data.rot", "--data.root"]),
        (["train", "fornet-camvid", "--root", "x"], ["unknown option --root", "--data.root"]),
        (["train", "fornet-camvid", "--data.root"], ["--data.root", "expected one argument"]),
        (["train", "fornet-camvid", "--data.crop", "big"], ["--data.crop", "a whole number", "'big'"]),
        (["train", "fornet-camvid", "--training.minutes", "long"], ["--training.minutes", "a number", "'long'"]),
        (["train", "fornet-camvid", "--training.precision", "8"], ["--training.precision", "bf16-mixed", "'8'"]),
        (["train", "fornet-camvid", "more"], ["no further arguments", "more"]),
        (["train", "fornet-camvid", "--data.root", "/absent"], ["/absent"]),
        (["train", "fornet-synthetic", *TINY, "--model.method", "fornett"], ["unknown method 'fornett'", "fornet"]),
        (["train", "--resume", "/absent"], ["/absent"]),
        (["train", "--resume", "runs/a", "--training.seed", "1"], ["--training.seed", "recipe.yaml"]),
        (["train", "fornet-camvid", "--resume", "runs/a"], ["leave out the recipe"]),
        (["evaluate"], ["expected also", "checkpoint"]),
        (["evaluate", "absent.safetensors"], ["absent.safetensors", "does not exist"]),
        (["predict", "shipped"], ["expected pictures"]),
        (["predict", "a.safetensors"], ["expected pictures"]),
        (["predict", "a.safetensors", "p.png", "--save", "lables"], ["'lables'", "labels"]),
        (["predict", "a.safetensors", "p.png", "--save", ","], ["--save", "got nothing"]),
        (["list", "recipies"], ["unknown 'recipies'", "recipes"]),
        (["describe", "fornet-camvid", "--size", "360"], ["--size", "360x480", "'360'"]),
        (["describe", "fornet-camvid", "--model.options.ratoi", "0.1"], ["'ratoi'", "ratio"]),
    ],
)
def test_problems_are_one_line_with_what_to_do(capsys, arguments, words):
    line = refused(capsys, *arguments)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--window", "64"], "--window: expected HEIGHTxWIDTH"),
        (["--scales", "1,a"], "--scales: expected numbers"),
        (["--scales", "0"], "--scales: expected numbers above 0"),
        (["--boundary-distances", "1.5"], "--boundary-distances: expected numbers"),
    ],
)
def test_wrong_prediction_options(capsys, trained, options, words):
    assert words in refused(capsys, "evaluate", str(trained / "best.safetensors"), *options)


def test_ctrl_c_ends_with_130_and_the_advice(capsys, monkeypatch):
    import segfocus.verbs.training

    def stop(arguments):
        raise KeyboardInterrupt("stopped after step 3 of 9; go on with: segfocus train --resume runs/x")

    monkeypatch.setattr(segfocus.verbs.training, "train", stop)
    code, _, error = run(capsys, "train", "x")
    assert code == 130
    assert error == "segfocus: stopped after step 3 of 9; go on with: segfocus train --resume runs/x\n"


def test_colours_only_on_terminals(monkeypatch):
    import io

    from segfocus.console import styled

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("a", "red", io.StringIO()) == "a"
    assert styled("a", "red", Terminal()) == "\x1b[31ma\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("a", "red", Terminal()) == "a"


# ------------------------------------------------------------------------------------------------------------- options


def parsed(*arguments: str) -> dict:
    parser = verb_parser("train", "RECIPE", "")
    parser.add_argument("recipe", nargs="?")
    add_recipe_options(parser, SECTIONS)
    return overrides(parse(parser, list(arguments)), SECTIONS)


def test_every_field_of_the_recipe_is_an_option_with_help(capsys):
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    for key in recipe_keys():
        if key != "description":
            assert re.search(rf"^  --{re.escape(key)} .", out, re.MULTILINE), key
    assert "pictures a step, over all processes [8]" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["r", "--data.crop", "360", "480"], {"data": {"crop": [360, 480]}}),
        (["r", "--data.crop", "360x480"], {"data": {"crop": [360, 480]}}),
        (["r", "--data.crop", "none"], {"data": {"crop": None}}),
        (["r", "--evaluation.scales", "0.75", "1"], {"evaluation": {"scales": [0.75, 1.0]}}),
        (["r", "--evaluation.scales", "0.75,1"], {"evaluation": {"scales": [0.75, 1.0]}}),
        (["r", "--evaluation.flip"], {"evaluation": {"flip": True}}),
        (["--data.flip=false", "r"], {"data": {"flip": False}}),
        (["r", "--data.root", "123"], {"data": {"root": "123"}}),
        (["r", "--training.minutes", "5"], {"training": {"minutes": 5.0}}),
        (["r", "--training.epochs", "none"], {"training": {"epochs": None}}),
        (["r", "--model.class_weights", "masks"], {"model": {"class_weights": "masks"}}),
        (["r", "--model.class_weights", "1", "2.5"], {"model": {"class_weights": [1.0, 2.5]}}),
        (["r", "--model.options", "{ratio: 0.2}"], {"model": {"options": {"ratio": 0.2}}}),
        (["r", "--model.options.ratio", "0.2"], {"model": {"options": {"ratio": 0.2}}}),
        (["r"], {}),
    ],
)
def test_options_become_recipe_fields(arguments, expected):
    assert parsed(*arguments) == expected


def test_changes_apply_on_top_of_the_recipe_and_mappings_merge():
    recipe = changed(Recipe(), {"model": {"options": {"ratio": 0.2}}, "data": {"crop": [8, 8]}})
    again = changed(recipe, {"model": {"options": {"block": 2}}, "data": {"crop": None}})
    assert again.model.options == {"ratio": 0.2, "block": 2}
    assert again.data.crop is None
    assert again.optimizer == Recipe().optimizer


def test_changes_are_checked():
    with pytest.raises(SegfocusError, match=r"data\.batch_size"):
        changed(Recipe(), {"data": {"batch_size": "many"}})


def test_a_length_given_replaces_the_recipes_in_any_unit():
    from segfocus.verbs.training import _one_length

    assert _one_length({"training": {"minutes": 2.0, "seed": 1}})["training"] == {
        "epochs": None,
        "steps": None,
        "minutes": 2.0,
        "seed": 1,
    }
    assert _one_length({"training": {"seed": 1}}) == {"training": {"seed": 1}}
    assert _one_length({}) == {}


# ----------------------------------------------------------------------------------------------------------- allocator


def test_allocator_is_left_alone_where_asked(monkeypatch):
    monkeypatch.setitem(allocator._process, "setting", "default")  # whatever ran before in this process
    assert not allocator.tune_allocator()
    assert allocator.allocator_setting() == "default"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_allocator_keeps_large_blocks_for_reuse():
    script = (
        "import ctypes, resource, sys\n"
        "from segfocus.allocator import allocator_setting, tune_allocator\n"
        "done = tune_allocator() if sys.argv[1] == 'yes' else None\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(8):\n"
        "        block = bytearray(64 << 20)\n"
        "        del block\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults()\n"
        "print(done, allocator_setting(), faults())\n"
    )
    environment = {**os.environ, allocator.VARIABLE: "tuned"}  # which says nothing about another process
    answers = [started("-c", script, word, env=environment).stdout.split() for word in ("yes", "no")]
    if answers[0][0] == "False":
        pytest.skip("not glibc")
    assert [answer[:2] for answer in answers] == [["True", "tuned"], ["None", "default"]]
    # the kernel hands out pages once instead of at each of the 8 allocations
    assert int(answers[0][2]) * 4 < int(answers[1][2])


# ----------------------------------------------------------------------------------------------------- the verbs, once


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(allocator.VARIABLE, "default")
        assert main(["demo", "--out", str(folder), *TINY]) == 0
    return folder


def test_demo_trains_scores_and_reports(trained):
    scores = json.loads((trained / "scores.json").read_text())
    keys = {"miou", "per_class", "pixel_accuracy", "mean_accuracy", "boundary_iou", "classes", "n_pictures", "ignore"}
    assert keys <= set(scores)
    assert scores["n_pictures"] == 2
    assert scores["how"]["checkpoint"].endswith("best.safetensors")
    assert scores["how"]["command"].startswith("segfocus demo --out")
    page = (trained / "report.html").read_text()
    assert "fornet on synthetic, val" in page
    assert "data:image/webp;base64," in page
    assert (trained / "recipe.yaml").is_file()


def test_demo_refuses_an_existing_run(capsys, trained):
    before = (trained / "best.safetensors").read_bytes()
    assert "--overwrite" in refused(capsys, "demo", "--out", str(trained), *TINY)
    assert (trained / "best.safetensors").read_bytes() == before


def test_train_and_resume_of_a_finished_run(capsys, tmp_path):
    folder = tmp_path / "run"
    code, out, _ = run(capsys, "train", "fornet-synthetic", "--out", str(folder), *TINY)
    assert code == 0
    assert f"report  {folder / 'report.html'}" in out
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "report.html").unlink()
    code, out, _ = run(capsys, "train", "--resume", str(folder))
    assert code == 0
    assert (folder / "report.html").is_file()
    assert json.loads((folder / "scores.json").read_text())["miou"] == scores["miou"]


def test_evaluate_equals_the_run_and_takes_options(capsys, trained, tmp_path):
    checkpoint = str(trained / "best.safetensors")
    code, out, _ = run(
        capsys, "evaluate", checkpoint, "--json", str(tmp_path / "scores.json"), "--report", str(tmp_path / "page")
    )
    assert code == 0
    assert "mIoU" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["per_class"] == json.loads((trained / "scores.json").read_text())["per_class"]
    assert (tmp_path / "page" / "report.html").is_file()
    code, _, _ = run(
        capsys,
        *("evaluate", checkpoint, "--split", "test", "--window", "32x32", "--stride", "16x16", "--scales", "0.75,1"),
        *("--flip", "--boundary-distances", "2", "--json", str(tmp_path / "other.json"), "--device", "cpu"),
    )
    assert code == 0
    other = json.loads((tmp_path / "other.json").read_text())
    how = other["how"]
    assert (how["split"], how["window"], how["stride"], how["flip"]) == ("test", [32, 32], [16, 16], True)
    assert how["scales"] == [0.75, 1.0]
    assert list(other["boundary_iou"]) == ["2", "2%"]


def test_evaluate_refuses_an_unknown_split(capsys, trained):
    assert "val" in refused(capsys, "evaluate", str(trained / "best.safetensors"), "--split", "vall")


def test_predict_writes_what_is_asked(capsys, trained, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(2):
        Image.fromarray(np.full((20, 30, 3), 90 * index, np.uint8)).save(pictures / f"{index}.png")
    checkpoint = str(trained / "best.safetensors")
    out = tmp_path / "out"
    command = ["predict", checkpoint, str(pictures), "--out", str(out), "--save", "labels,color,overlay,probabilities"]
    code, text, _ = run(capsys, *command)
    assert code == 0
    assert text == f"8 files in {out}\n"
    labels = np.asarray(Image.open(out / "labels" / "0.png"))
    probabilities = np.load(out / "probabilities" / "0.npz")["probabilities"]
    assert labels.shape == (20, 30)
    assert (np.take_along_axis(probabilities, labels[None].astype(int), 0)[0] >= probabilities.max(0) - 1e-3).all()
    assert "two inputs" not in refused(capsys, *command, "--flip")  # other settings into the same folder
    assert run(capsys, *command, "--flip", "--overwrite")[0] == 0
    assert "max" in refused(capsys, *command, "--overwrite", "--max-pixels", "100")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("methods", "Pan et al."),
        ("bases", "torchvision"),
        ("datasets", "camvid"),
        ("recipes", "lite FoR-Net"),
        (None, "fornet-synthetic"),
    ],
)
def test_list(capsys, what, words):
    code, out, _ = run(capsys, "list", *([what] if what else []))
    assert code == 0
    assert words in out


def test_describe_a_recipe_and_a_checkpoint(capsys, trained, tmp_path):
    file = tmp_path / "numbers.json"
    code, out, _ = run(capsys, "describe", "fornet-camvid", "--size", "64x96", "--json", str(file))
    assert code == 0
    found = json.loads(file.read_text())
    assert found["size"] == [64, 96]
    assert found["parameters"] > 0
    assert found["gmac"] > 0
    assert f"parameters  {found['parameters']:,}" in out
    code, out, _ = run(capsys, "describe", str(trained / "best.safetensors"), "--size", "48x64")
    assert code == 0
    assert "name: synthetic" in out


def test_what_masks_are_taken_for_is_said_once(capsys, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(4):
        Image.fromarray(np.full((40, 40, 3), 40 * number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray((np.eye(40) * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    folders = ["--data.images", str(tmp_path / "images"), "--data.masks", str(tmp_path / "masks")]
    length = ["--training.steps", "1", "--data.crop", "32", "32", "--data.batch_size", "2", "--data.workers", "0"]
    cpu = ["--training.accelerator", "cpu", "--training.precision", "32-true", "--out", str(tmp_path / "run")]
    assert main(["train", "fornet-folder", *folders, *length, *cpu]) == 0
    said = capsys.readouterr().err
    assert said.count("note: masks hold only 0 and 255: 255 is read as class foreground") == 1
