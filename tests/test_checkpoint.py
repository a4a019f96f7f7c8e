"""Checkpoints: round trips, halves, metadata without torch, and every way a file can be wrong."""

import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from segfocus import checkpoint
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.recipe import ModelConfig, Recipe


@pytest.fixture
def classes():
    return Classes.from_dict({"classes": {0: "ground", 1: "sky", 2: {"name": "pole", "raw": [7], "thin": True}}})


@pytest.fixture
def recipe():
    return Recipe(description="a test", model=ModelConfig(pretrained=False, class_weights=[1.0, 2.0, 0.5]))


@pytest.fixture
def model(recipe):
    torch.manual_seed(0)
    model = build(recipe.model, 3, class_weights=recipe.model.class_weights).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    return model


@pytest.fixture
def saved(tmp_path, model, recipe, classes):
    path = tmp_path / "best.safetensors"
    checkpoint.save(path, model, recipe, classes, {"miou": 0.5, "per_class": {"ground": float("nan")}})
    return path


def test_a_round_trip_gives_equal_weights_recipe_classes_scores_and_predictions(saved, model, recipe, classes):
    loaded = checkpoint.load(saved)
    assert not loaded.model.training
    assert loaded.recipe == recipe
    assert loaded.classes == classes
    assert loaded.scores == {"miou": 0.5, "per_class": {"ground": None}}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    image = torch.rand(1, 3, 41, 50)
    with torch.no_grad():
        again = loaded.model.to(memory_format=torch.channels_last)(image)  # the layout chooses the kernels
        assert torch.equal(again.logits, model.eval()(image).logits)


def test_half_stores_half_the_bytes_and_loads_as_float32(tmp_path, saved, model, recipe, classes):
    model.state_dict()[next(name for name in model.state_dict() if name.endswith("running_var"))].fill_(1e6)
    path = tmp_path / "half.safetensors"
    checkpoint.save(path, model, recipe, classes, half=True)
    assert path.stat().st_size < 0.6 * saved.stat().st_size
    loaded = checkpoint.load(path).model
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=1e-3, atol=1e-6, msg=name)


def test_metadata_is_read_without_torch(saved):
    code = (
        "import sys; from segfocus.checkpoint import read_metadata; "
        f"print(read_metadata({str(saved)!r}).classes.names[2], 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["pole", "False"]


def test_a_missing_file_and_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(SegfocusError, match="does not exist"):
        checkpoint.load(tmp_path / "nowhere.safetensors")
    path = tmp_path / "other"
    for content in (b"", b"short", b"\x89PNG\r\n\x1a\n" + b"x" * 100, struct.pack("<Q", 2) + b"[]"):
        path.write_bytes(content)
        with pytest.raises(SegfocusError, match="expected a safetensors file"):
            checkpoint.load(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(SegfocusError, match="expected a safetensors file"):
        checkpoint.load(path)


@pytest.mark.parametrize("left", [20, 5000, -1])
def test_a_truncated_file_is_refused(saved, left):
    saved.write_bytes(saved.read_bytes()[:left])
    with pytest.raises(SegfocusError, match="truncated or damaged"):
        checkpoint.load(saved)


def test_weights_from_elsewhere_are_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(SegfocusError, match="written by segfocus"):
        checkpoint.read_metadata(tmp_path / "foreign.safetensors")


def _rewrite(path, change_tensors=lambda tensors: None, change_metadata=lambda values: None):
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    values = json.loads(header["__metadata__"]["segfocus"])
    tensors = load_file(path)
    change_tensors(tensors)
    change_metadata(values)
    save_file(tensors, path, metadata={"segfocus": json.dumps(values)})


def test_missing_unexpected_and_misshapen_tensors_are_named(saved, model):
    first, second, third = sorted(name for name, tensor in model.state_dict().items() if tensor.ndim == 4)[:3]

    def change(tensors):
        del tensors[first]
        tensors["surplus"] = torch.zeros(1)
        tensors[third] = torch.zeros(1, 2, 3, 4)

    _rewrite(saved, change)
    with pytest.raises(SegfocusError) as caught:
        checkpoint.load(saved)
    for part in (f"lacks 1 tensors ({first})", "has also 1 tensors (surplus)", f"{third} is [1, 2, 3, 4]"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert second not in str(caught.value)


def test_another_class_count_is_refused(saved):
    _rewrite(saved, change_metadata=lambda values: values["classes"]["classes"].popitem())
    with pytest.raises(SegfocusError, match=r"do not fit|expected 2 values"):
        checkpoint.load(saved)


def test_a_recipe_key_of_another_version_is_named(saved):
    _rewrite(saved, change_metadata=lambda values: values["recipe"]["model"].update(metod="x"))
    with pytest.raises(SegfocusError, match=r"metod.*model\.method"):
        checkpoint.read_metadata(saved)


def test_incomplete_metadata_is_refused(saved):
    _rewrite(saved, change_metadata=lambda values: values.pop("classes"))
    with pytest.raises(SegfocusError, match="expected segfocus metadata"):
        checkpoint.read_metadata(saved)


def test_an_absent_device_is_refused(saved):
    with pytest.raises(SegfocusError, match="device 'cuda:7'"):
        checkpoint.load(saved, device="cuda:7")
