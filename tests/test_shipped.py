"""The checkpoint of the package: small, usable, and without a trace of the machine that it was made on."""

import json
import re
import struct
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segfocus
from segfocus import allocator, shipped
from segfocus.checkpoint import load, read_metadata
from segfocus.data import open_dataset
from segfocus.data.known import load_classes
from segfocus.errors import SegfocusError
from segfocus.methods.bases import build_base
from segfocus.recipe import DataConfig, ModelConfig
from tests.test_cli import refused, run

FILE = Path(segfocus.__file__).parent / shipped.FILE
NOTE = "note: weights: fornet_lite_camvid, trained on CamVid: non-commercial use only\n"


@pytest.fixture(autouse=True)
def _plain_allocator(monkeypatch):
    monkeypatch.setenv(allocator.VARIABLE, "default")


def texts(value) -> list[str]:
    """All texts of a JSON value."""
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def test_it_is_small_and_names_no_place_of_any_machine():
    content = FILE.read_bytes()
    assert len(content) <= 6_000_000
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    found = texts(json.loads(header["__metadata__"]["segfocus"]))
    assert "camvid" in found
    # absolute, relative to a folder above, of a home folder, or of a drive
    assert [text for text in found if re.search(r"(^|[\s=:])(/|~|\.\.|[A-Za-z]:[\\/])", text)] == []
    data = read_metadata("shipped").recipe.data
    assert (data.name, data.root, data.images, data.masks) == ("camvid", None, None, None)


def test_it_knows_camvids_classes_its_scores_and_its_terms():
    loaded = load("shipped")
    assert loaded.classes.names == load_classes("camvid").names
    assert loaded.scores["split"] == "val"
    assert loaded.scores["miou"] > 0.5
    assert loaded.terms == "trained on CamVid: non-commercial use only"
    # the card tells the scores of this very file
    assert f"| mIoU | {100 * loaded.scores['miou']:.1f} |" in FILE.with_suffix(".md").read_text(encoding="utf-8")


def test_a_street_is_labelled_right_after_installation(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenes = open_dataset(DataConfig(name="synthetic", synthetic_pictures=4, synthetic_size=[96, 128]), "train")
    picture = scenes.read(0)[0]
    Image.fromarray(picture).save("street.jpg")
    code, out, error = run(capsys, "predict", "street.jpg", "--device", "cpu")
    assert (code, out, error) == (0, "2 files in predictions\n", NOTE)
    labels = np.asarray(Image.open("predictions/labels/street.png"))
    assert labels.shape == (96, 128)
    assert labels.max() < 11
    code, _, error = run(capsys, "predict", "absent.jpg", "--device", "cpu")
    assert (code, error.count("\n")) == (2, 2)
    assert error.startswith(f"{NOTE}segfocus: error: ")
    assert "absent.jpg" in error
    code, _, error = run(capsys, "predict", "shipped", "street.jpg", "--device", "cpu", "--out", "named")
    assert (code, error) == (0, NOTE)
    np.testing.assert_array_equal(np.asarray(Image.open("named/labels/street.png")), labels)
    (tmp_path / "shipped").mkdir()  # pictures in a folder that happens to be called so
    Image.fromarray(picture).save("shipped/road.png")
    code, out, error = run(capsys, "predict", "shipped", "--device", "cpu", "--out", "folder")
    assert (code, out, error) == (0, "2 files in folder\n", NOTE)


def test_its_name_works_wherever_a_checkpoint_is_expected(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "describe", "shipped", "--size", "48x64")
    assert code == 0
    assert "classes     11" in out
    code, _, error = run(capsys, "evaluate", "shipped")
    assert code == 2
    assert error.startswith(f"{NOTE}segfocus: error: camvid: expected the folder of the dataset")
    assert "expected pictures after the checkpoint shipped" in refused(capsys, "predict", "shipped")
    base = ModelConfig(pretrained=False, options={"base": {"kind": "fornet", "checkpoint": "shipped"}})
    weights = load("shipped").model.state_dict()
    for name, tensor in build_base(base, 11, fetch=True).state_dict().items():
        np.testing.assert_array_equal(tensor, weights[name.removeprefix("net.")])
    # a file of the user's own that is called so comes first
    (tmp_path / "shipped").write_bytes(b"no checkpoint")
    assert "expected a safetensors file" in refused(capsys, "evaluate", "shipped")


def test_packages_hold_weights_card_and_licence():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["license"] == "Apache-2.0 AND CC-BY-NC-4.0"
    root = Path(__file__).parents[1]
    licences = {path.name for pattern in project["project"]["license-files"] for path in root.glob(pattern)}
    assert licences == {"LICENSE", "LICENSE-fornet_lite_camvid"}
    text = FILE.with_name("LICENSE-fornet_lite_camvid").read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by-nc/4.0/legalcode" in text
    ignored = (root / ".gitignore").read_text(encoding="utf-8")
    assert "safetensors" not in ignored
    assert "weights" not in ignored


def test_a_folder_of_that_name_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shipped").mkdir()
    assert read_metadata("shipped").recipe.data.name == "camvid"
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(SegfocusError, match=r"got folder.safetensors, which is a folder; try best.safetensors in it"):
        read_metadata("folder.safetensors")
