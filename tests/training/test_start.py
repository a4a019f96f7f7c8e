"""`model.start`: what is taken from another checkpoint, what starts anew, and what is refused."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from segfocus import checkpoint
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.methods import build
from segfocus.recipe import ModelConfig, Recipe, load_recipe
from segfocus.training.run import train
from segfocus.training.start import start_from
from tests.training.scenes import tiny_recipe

CONFIG = ModelConfig(pretrained=False)


def network(classes: int, seed: int, config: ModelConfig = CONFIG) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build(config, classes)


def saved(folder, classes: int, seed: int = 1, config: ModelConfig = CONFIG, **options) -> str:
    path = folder / f"{config.method}-{classes}.safetensors"
    names = Classes.of([f"class_{number}" for number in range(classes)])
    checkpoint.save(path, network(classes, seed, config), Recipe(model=config), names, **options)
    return str(path)


def test_everything_is_taken_where_everything_fits(tmp_path):
    model, path = network(9, seed=0).to(memory_format=torch.channels_last), saved(tmp_path, 9)
    line = start_from(model, path)
    for name, tensor in network(9, seed=1).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    total = len(model.state_dict())
    assert line == f"started from {path}: {total} of {total} tensors"


def test_other_classes_start_anew_and_are_named(tmp_path):
    model, path = network(4, seed=0), saved(tmp_path, 9, half=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = network(9, seed=1).state_dict()
    line = start_from(model, path)
    anew = [name for name in before if before[name].shape != other[name].shape]
    assert {name.split(".")[0] for name in anew} == {"decoder", "auxiliary"}
    for name, tensor in model.state_dict().items():
        expected = before[name] if name in anew else other[name].half().to(tensor.dtype)
        assert torch.equal(tensor, expected), name
        assert tensor.dtype == before[name].dtype
    assert f": {len(before) - len(anew)} of {len(before)} tensors; new: {', '.join(anew)}" in line


def test_of_many_new_tensors_the_number_is_told(tmp_path):
    path = saved(tmp_path, 9)
    deeper = ModelConfig(pretrained=False, options={"branches": [[1, 1], [3, 1], [3, 2], [3, 4], [3, 8], [3, 16]]})
    line = start_from(network(9, 0, deeper), path)
    assert "; new: branches.4." in line
    assert line.endswith(" more")


def test_what_is_no_start_is_refused_in_one_line(tmp_path):
    model = network(9, seed=0)
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    refiner = ModelConfig(method="threshnet", pretrained=False)
    found = {
        str(tmp_path / "nowhere.safetensors"): "does not exist",
        str(tmp_path / "foreign.safetensors"): "written by segfocus",
        saved(tmp_path, 2, config=refiner): "a threshnet on .*, none of whose weights .* of this FoRNet; try none",
    }
    broken = network(9, seed=1)
    broken.decoder.classify.bias.data[3] = float("nan")
    path = tmp_path / "broken.safetensors"
    checkpoint.save(path, broken, Recipe(model=CONFIG), Classes.of([f"class_{number}" for number in range(9)]))
    found[str(path)] = "expected finite weights, got NaN or infinity in decoder.classify.bias of .*; try"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for path, words in found.items():
        with pytest.raises(SegfocusError, match=f"^model.start: .*{words}") as caught:
            start_from(model, path)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_run_starts_from_it_says_so_and_resumes_without_it(tmp_path, caplog):
    recipe = tiny_recipe(steps=1, ema_decay=0.0)
    path = recipe.model.start = saved(tmp_path, 9)
    recipe.optimizer.learning_rate = 1e-9
    with caplog.at_level(logging.INFO, logger="segfocus"):
        run = train(recipe, tmp_path / "run")
    assert any(message.startswith(f"started from {path}: ") for message in caplog.messages)
    first = dict(network(9, seed=1).named_parameters())
    for name, weight in checkpoint.load(run / "last.safetensors").model.named_parameters():
        torch.testing.assert_close(weight, first[name], atol=1e-6, rtol=0, msg=name)
    assert load_recipe(run / "recipe.yaml").model.start == path
    (tmp_path / "fornet-9.safetensors").unlink()
    assert train(out=run, resume=True) == run


def test_a_missing_start_is_refused_before_anything_is_written(tmp_path):
    recipe = tiny_recipe(steps=1)
    recipe.model.start = str(tmp_path / "nowhere.safetensors")
    with pytest.raises(SegfocusError, match=r"model\.start: .*does not exist"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
