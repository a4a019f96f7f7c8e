"""`segfocus doctor` from the command line: what is printed, the files it writes and its exit status."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from segfocus import allocator
from segfocus.cli import main
from segfocus.data.classes import Classes
from tests.data.doctor.folders import CLASSES, images_of, masks_of, save, two_classes, write_scenes


@pytest.fixture(autouse=True)
def _plain_allocator(monkeypatch):
    """Commands run inside the test process: its allocator stays as it is."""
    monkeypatch.setenv(allocator.VARIABLE, "default")


@pytest.fixture
def run(tmp_path, capsys):
    """Calls the verb on tmp_path/images and tmp_path/masks: exit status, standard output, standard error."""

    def call(*options):
        folders = ["--images", tmp_path / "images", "--masks", tmp_path / "masks"]
        code = main(["doctor", *map(str, [*folders, *options])])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def classes_file(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump(CLASSES.to_dict()))
    return path


def test_a_good_data_set(tmp_path, run, classes_file):
    write_scenes(tmp_path)
    code, out, error = run("--classes", classes_file, "--json", tmp_path / "found.json")
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "pairs     12: train 8, val 4 (folders train/, val/)"
    assert lines[1] == "pictures  RGB PNG, 64x80"
    assert lines[2] == "masks     8-bit PNG, 4 values: 0-2, 255"
    assert lines[-1] == "no errors; 1 note"
    assert "  segfocus train fornet-folder \\" in lines
    assert "suggested classes" not in out
    assert "\x1b" not in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["passed"], found["errors"], found["notes"]) == (True, 0, 1)
    table = {line.split()[0]: line.split() for line in lines if line.startswith(("ground", "house", "wire"))}
    for row in found["classes"]:
        assert table[row["name"]][2:6] == [
            f"{100 * row['share']:.2f}",
            f"{100 * row['edge_share']:.2f}",
            str(row["files"]["train"]),
            str(row["files"]["val"]),
        ]


def test_errors_come_last_and_give_1(tmp_path, run, classes_file):
    write_scenes(tmp_path)
    for path in masks_of(tmp_path)[:7]:
        save(path, np.zeros((10, 12), np.uint8))
    code, out, _ = run("--classes", classes_file)
    assert code == 1
    lines = out.splitlines()
    assert lines[-1] == "1 error, 1 note: mend the errors before training"
    assert lines[-3] == "    and 2 more (--json FILE lists them)"
    assert lines[-4].endswith("e.png  10x12, its picture 64x80")
    assert "segfocus train" not in out


def test_the_suggested_classes_file_is_written_and_works(tmp_path, run):
    two_classes(tmp_path)
    code, out, _ = run("--write-classes", tmp_path / "new.yaml")
    assert code == 0
    assert "suggested classes.yaml" not in out
    assert Classes.load(tmp_path / "new.yaml").raw == ((0,), (255,))
    code, out, _ = run("--classes", tmp_path / "new.yaml")
    assert code == 0
    code, _, error = run("--classes", tmp_path / "new.yaml", "--write-classes", tmp_path / "more.yaml")
    assert code == 2
    assert "one was given" in error


def test_many_classes_show_the_rarest(tmp_path, run):
    write_scenes(tmp_path)
    for path in masks_of(tmp_path):
        save(path, (np.arange(64 * 80).reshape(64, 80) // 80).astype(np.uint8))
    code, out, _ = run()
    assert code == 0
    assert "the 40 rarest of 64 classes; --json FILE lists all" in out
    assert "  ... 50 more lines" in out


def test_endings_give_no_command_but_say_so(tmp_path, run):
    write_scenes(tmp_path)
    for path in masks_of(tmp_path):
        path.rename(path.with_name(f"{path.stem}_gt.png"))
    code, out, error = run()
    assert (code, out) == (2, "")
    assert "--mask-suffix=_gt" in error
    code, out, _ = run("--mask-suffix=_gt")
    assert code == 0
    assert "no training command: training pairs files of equal names" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "none.yaml"], "does not exist"),
        (["--max-pixels", "0"], "expected 1 or more"),
        (["--json", "."], "expected a file to write"),
        (["--mask", "x"], "did you mean --masks"),
        (["--val-images", "x"], "--val-masks"),
    ],
)
def test_what_cannot_begin_gives_2_and_one_line(tmp_path, run, options, words):
    write_scenes(tmp_path)
    code, out, error = run(*options)
    assert (code, out) == (2, "")
    assert words in error
    assert error.count("\n") == 1


def test_colours_on_terminals_only(tmp_path, run, monkeypatch):
    write_scenes(tmp_path)
    images_of(tmp_path)[0].write_bytes(b"")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    out = run()[1]
    assert "\x1b[31merror: 1 picture cannot be read" in out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run()[1]


def test_it_works_without_torch(tmp_path):
    write_scenes(tmp_path)
    script = (
        "import sys; from segfocus.cli import main;"
        f"code = main(['doctor', '--images', r'{tmp_path / 'images'}', '--masks', r'{tmp_path / 'masks'}']);"
        "sys.exit('torch' if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_spoilt_masks_leave_no_table(tmp_path, run):
    write_scenes(tmp_path, table=(0, 90, 180))
    for path in masks_of(tmp_path):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    code, out, _ = run()
    assert code == 1
    assert "no values that could be classes" in out
    assert "pixels%" not in out
