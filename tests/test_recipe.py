"""Recipes: keys, types, errors; every recipe of the package is complete, builds and runs one step."""

import dataclasses

import pytest
import torch
import yaml

from segfocus.data import WITHOUT_READER
from segfocus.errors import SegfocusError, nearest
from segfocus.methods import build
from segfocus.recipe import Recipe, load_recipe, recipe_keys, recipe_names


def test_a_recipe_survives_dictionary_and_yaml():
    recipe = Recipe.from_dict(
        {"data": {"crop": [64, 96]}, "model": {"class_weights": [1.0, 2.0], "options": {"ratio": 0.2}}}
    )
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe
    assert recipe.data.crop == [64, 96]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dta": {}}, "unknown recipe key 'dta'; did you mean data"),
        ({"data": {"bach_size": 4}}, "unknown recipe key 'data.bach_size'; did you mean data.batch_size"),
        ({"data": {"batch_size": "many"}}, "data.batch_size.*many"),
        ({"optimizer": {"name": "adam"}}, "optimizer.name.*adam"),
        ({"data": 3}, "section 'data': expected a mapping of keys, got int"),
    ],
)
def test_mistakes_are_named_in_one_line(values, words):
    with pytest.raises(SegfocusError, match=words) as caught:
        Recipe.from_dict(values)
    assert "\n" not in str(caught.value)


def test_unknown_recipes_and_broken_files(tmp_path):
    with pytest.raises(SegfocusError, match="did you mean fornet-camvid"):
        load_recipe("fornet-camvit")
    with pytest.raises(SegfocusError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("data: [1, 2")
    with pytest.raises(SegfocusError, match="expected YAML"):
        load_recipe(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(SegfocusError, match="expected a mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_nearest_lists_everything_when_nothing_is_near():
    assert nearest("xyzzy", ["alpha", "beta"]) == "expected one of: alpha, beta"


def test_every_field_has_a_help_text():
    import docstring_parser

    for section in dataclasses.fields(Recipe)[1:]:
        config = type(getattr(Recipe(), section.name))
        described = {item.arg_name for item in docstring_parser.parse_from_object(config).params if item.description}
        assert described == {item.name for item in dataclasses.fields(config)}


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_files_are_complete(name):
    from importlib import resources

    text = (resources.files("segfocus") / "recipes" / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    keys = ["description"] + [f"{section}.{key}" for section in list(values)[1:] for key in values[section]]
    assert keys == recipe_keys()
    recipe = load_recipe(name)
    # published weights start only what papers trained on data that nothing here reads yet
    assert recipe.model.pretrained is (recipe.data.name in WITHOUT_READER)
    lengths = [recipe.training.epochs, recipe.training.steps, recipe.training.minutes]
    assert sum(length is not None for length in lengths) == 1


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_runs_one_step_on_generated_scenes(name):
    from segfocus.data import open_dataset
    from segfocus.recipe import DataConfig

    recipe = load_recipe(name)
    scenes = open_dataset(DataConfig(name="synthetic", synthetic_pictures=4, synthetic_size=[64, 64]), "train")
    sample = scenes[0]
    if recipe.data.name == "maps":  # of one class, sure of a truth that lies two pixels beside the real one
        network = build(recipe.model, 2, fetch=False)
        sample["target"] = (sample["target"] == sample["target"].mode().values.mode().values).long()
        foreground = 0.1 + 0.8 * sample["target"].roll(2, -1)[None, None].float()
        inputs = [torch.cat([1 - foreground, foreground], 1), sample["image"][None]]
    else:
        network = build(recipe.model, scenes.classes.num_classes, fetch=False)
        inputs = [sample["image"][None]]
    output = network(*inputs)
    total = sum(network.loss(output, sample["target"][None]).values())
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hrnet-w48-cityscapes", 65_859_379),
        ("hrnet-ocr-cityscapes", 70_372_678),
        ("ovenet-hrnet-w48-cityscapes", 98_795_926),
        ("ovenet-ocr-cityscapes", 103_309_225),
        ("ovenet-ocr-acdc", 103_309_225),
    ],
)
def test_networks_of_papers_have_their_parameters(name, parameters):
    from segfocus.data import dataset_classes
    from segfocus.describe import describe

    recipe = load_recipe(name)
    found = describe(recipe, dataset_classes(recipe.data).num_classes, (64, 64))
    assert (found["num_classes"], found["parameters"]) == (19, parameters)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in recipe_names()
        if load_recipe(name).data.name in WITHOUT_READER and not name.startswith("ranet")  # see test_ranet.py
    ],
)
def test_recipes_of_papers_keep_their_numbers(name):
    """Fact sheet of OVeNet, section 3; W48 alone: batch 12, the confidence loss of two pictures a GPU."""
    recipe = load_recipe(name)
    data, optimizer, options = recipe.data, recipe.optimizer, recipe.model.options
    ade, ocr, wraps = "ade20k" in name, "ocr" in name, name.startswith("ovenet")
    assert data.crop == {"cityscapes": [512, 1024], "acdc": [540, 960], "ade20k": [520, 520]}[data.name]
    assert data.scale == [0.5, 2.1]
    assert data.batch_size == (8 if ade or (wraps and not ocr) else 10 if wraps else 12)
    assert (optimizer.name, optimizer.momentum, optimizer.schedule, optimizer.power) == ("sgd", 0.9, "poly", 0.9)
    assert (optimizer.learning_rate, optimizer.weight_decay) == ((0.02, 1e-4) if ade else (0.01, 5e-4))
    assert (optimizer.warmup_steps, optimizer.clip_norm, recipe.training.ema_decay) == (0, 0, 0)
    assert recipe.training.epochs == (120 if ade else 484)
    assert options["ohem"] is (ade or not ocr)
    assert options["base"] == ({"kind": "ocr"} if ocr else {"kind": "hrnet", "norm_momentum": 0.01})
    assert recipe.model.class_weights == "none" if ade else len(recipe.model.class_weights) == 19
    if wraps:
        assert (options["trunk"], options["units"], options["tau"]) == ("stage4", "normalized", 0.2 if ocr else 0.5)
        assert (options["confidence_reduction"], options["confidence_weight"]) == ("mean", 2.0)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"description: \xff\xfe")
    with pytest.raises(SegfocusError, match=r"readable YAML file, got .*decode"):
        load_recipe(path)

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "read_text", denied)
    with pytest.raises(SegfocusError, match=r"readable YAML file, got .*Permission denied"):
        load_recipe(path)
