"""Maps of a checkpoint over a split: as the network predicts them, resumable, held out by folds."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfocus.checkpoint import load
from segfocus.data import open_dataset
from segfocus.data.maps import MapsDataset
from segfocus.errors import SegfocusError
from segfocus.inference.predictor import Predictor
from segfocus.recipe import DataConfig
from segfocus.refinement import export_maps as module
from segfocus.refinement.export_maps import export_maps
from segfocus.refinement.map_folder import MapFolder, places, to_16_bits
from segfocus.refinement.saturation import uncertain_pixels, uncertain_share
from tests.refinement.bases import TEST, TRAIN, crack_recipe, plain_recipe, save_untrained, write_cracks


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_cracks(tmp_path_factory.mktemp("cracks"))


@pytest.fixture(scope="module")
def base(root, tmp_path_factory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("base") / "base.safetensors", crack_recipe(root))


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "test"
    export_maps(base, out, split="test", device="cpu")
    return out


def open_maps(out: Path) -> MapsDataset:
    found = places(out)
    folders = {key: str(getattr(found, key)) for key in ("maps", "masks", "images", "classes")}
    dataset = open_dataset(DataConfig(name="maps", **folders), "all")
    assert isinstance(dataset, MapsDataset)
    return dataset


def files(out: Path) -> dict[str, bytes]:
    """All maps, masks and pictures with what they hold."""
    found = (path for kind in ("maps", "masks", "images") for path in (out / kind).rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


# ---------------------------------------------------------------------------------------------------- what is written


def test_maps_masks_and_pictures_are_those_of_the_network_and_the_split(exported, base, root):
    predictor = Predictor(base, device="cpu")
    truth = open_dataset(load(base).recipe.data, "test")
    dataset = open_maps(exported)
    assert [pair.name for pair in dataset.pairs] == TEST
    assert dataset.classes.names == truth.classes.names
    assert dataset.classes.thin == (False, True)
    for index, name in enumerate(TEST):
        picture, target = truth.read(index)
        prediction = predictor(picture)
        values = dataset.read_map(index)
        assert abs(values - prediction.probabilities).max() <= 0.5 / 65535 + 1e-7
        assert np.array_equal(values[1] > 0.5, prediction.probabilities[1] > 0.5)
        found, labels = dataset.read(index)
        assert np.array_equal(found, picture)
        assert np.array_equal(labels, target)
        source = root / "images" / "test" / f"{name}.png"
        assert (exported / "images" / f"{name}.png").read_bytes() == source.read_bytes()


def test_the_record_says_where_the_maps_come_from(exported, base):
    record = json.loads((exported / "maps.json").read_text())
    assert record["complete"]
    assert record["names"] == TEST
    assert record["checkpoint"] == str(base)
    assert record["recipe"] == load(base).recipe.to_dict()
    assert (record["settings"]["split"], record["settings"]["folds"]) == ("test", None)
    dataset = open_maps(exported)
    maps = [dataset.read_map(index) for index in range(len(dataset))]
    certain = sum(int(((values[1] <= 0.05) | (values[1] >= 0.95)).sum()) for values in maps)
    assert record["uncertain_share"] == pytest.approx(1 - certain / sum(values[1].size for values in maps))
    assert uncertain_share(dataset) == pytest.approx(record["uncertain_share"])


def test_16_bits_keep_the_cut_at_a_half():
    half = np.float32(0.5)
    near = np.array([0, np.nextafter(half, np.float32(0)), half, np.nextafter(half, np.float32(1)), 1], np.float32)
    assert to_16_bits(near).tolist() == [0, 32767, 32767, 32768, 65535]
    values = np.random.default_rng(0).random(1000, np.float32)
    assert abs(to_16_bits(values) / 65535 - values).max() <= 0.5 / 65535 + 1e-7


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_maps_of_many_classes_hold_all_of_them(kind, tmp_path):
    recipe = plain_recipe()
    checkpoint = save_untrained(tmp_path / "base.safetensors", recipe)
    export_maps(checkpoint, tmp_path / "out", split="test", format=kind, device="cpu")
    predictor, scenes = Predictor(checkpoint, device="cpu"), open_dataset(recipe.data, "test")
    dataset = open_maps(tmp_path / "out")
    assert len(dataset) == len(scenes) == 3
    for index in range(3):
        picture, target = scenes.read(index)
        assert abs(dataset.read_map(index) - predictor(picture).probabilities).max() < 1e-4
        found, labels = dataset.read(index)
        assert np.array_equal(found, picture)
        assert np.array_equal(labels, target)


def test_one_channel_files_are_for_two_classes(tmp_path):
    checkpoint = save_untrained(tmp_path / "base.safetensors", plain_recipe())
    with pytest.raises(SegfocusError, match="expected npz or npy for 9 classes, got png16"):
        export_maps(checkpoint, tmp_path / "out", format="png16", device="cpu")
    with pytest.raises(SegfocusError, match=r"format: unknown 'pngs'; did you mean png16"):
        export_maps(checkpoint, tmp_path / "out", format="pngs", device="cpu")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------- going on


def test_a_stopped_call_goes_on_and_leaves_nothing_half(exported, base, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", []
    write = MapFolder.write

    def stops(self, pair, *parts):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(pair.name)
        write(self, pair, *parts)

    monkeypatch.setattr(MapFolder, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        export_maps(base, out, split="test", device="cpu")
    assert not json.loads((out / "maps.json").read_text())["complete"]
    (out / "masks" / f"{TEST[0]}.png").unlink()  # stopped between two files of one picture
    monkeypatch.setattr(
        MapFolder, "write", lambda self, pair, *parts: (calls.append(pair.name), write(self, pair, *parts))
    )
    record = export_maps(base, out, split="test", device="cpu")
    assert calls == [TEST[0], *TEST]
    assert files(out) == files(exported)
    assert record["uncertain_share"] == json.loads((exported / "maps.json").read_text())["uncertain_share"]
    export_maps(base, out, split="test", device="cpu")
    assert len(calls) == 4  # all were there


def test_other_maps_are_not_mixed_in(exported, base, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    with pytest.raises(SegfocusError, match=r"got .*out with other pictures, split; try another, or --overwrite"):
        export_maps(base, out, split="holdout", device="cpu")
    assert files(out) == files(exported)
    (out / "maps" / "mine.txt").write_text("mine")
    export_maps(base, out, split="holdout", device="cpu", overwrite=True)
    names = {pair.name for pair in open_maps(out).pairs}
    assert names == set(json.loads((out / "maps.json").read_text())["names"])
    assert not names & set(TEST)
    assert (out / "maps" / "mine.txt").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_files_is_refused(base, tmp_path, overwrite):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SegfocusError, match=r"expected a new folder, got .* which holds other files"):
        export_maps(base, tmp_path, device="cpu", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_broken_picture_is_named_and_the_others_are_done(base, root, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    broken = tmp_path / "root" / "images" / "test" / f"{TEST[1]}.png"
    broken.write_bytes(broken.read_bytes()[:200])
    data = crack_recipe(tmp_path / "root").data
    told = []
    with pytest.raises(SegfocusError, match=rf"1 of 3 pictures have no map, the others are done: .*{TEST[1]}\.png"):
        export_maps(base, tmp_path / "out", data, "test", device="cpu", on_error=lambda name, error: told.append(name))
    assert told == [TEST[1]]
    assert {path.stem for path in (tmp_path / "out" / "maps").iterdir()} == {TEST[0], TEST[2]}
    assert not json.loads((tmp_path / "out" / "maps.json").read_text())["complete"]


# ----------------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(("split", "seen"), [("fit", "all"), ("train", "some"), ("holdout", "none"), ("test", "none")])
def test_says_which_pictures_were_trained_on(base, root, tmp_path, caplog, split, seen):
    trained = len(open_dataset(crack_recipe(root).data, "fit"))
    of = {"fit": trained, "train": len(TRAIN)}.get(split)
    with caplog.at_level(logging.WARNING, "segfocus"):
        export_maps(base, tmp_path / "out", split=split, device="cpu")
    said = [text for text in caplog.messages if "trained on" in text]
    expected = [] if seen == "none" else [f"{trained} of {of} pictures of {split} were trained on"]
    assert [text.split(":")[0] for text in said] == expected


def test_says_that_maps_are_saturated(base, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module, "uncertain_pixels", lambda probabilities: probabilities[0].size // 200)
    with caplog.at_level(logging.WARNING, "segfocus"):
        export_maps(base, tmp_path / "out", split="test", device="cpu")
    assert any("only 0.47 % of the pixels" in text for text in caplog.messages)


def test_uncertain_is_what_no_class_is_sure_of():
    foreground = np.array([[0.0, 0.04, 0.06, 0.5, 0.94, 0.96, 1.0]], np.float32)
    assert uncertain_pixels(np.stack([1 - foreground, foreground])) == 3
    assert uncertain_pixels(np.full((4, 2, 3), 0.25, np.float32)) == 6


def test_a_refiner_has_no_maps_of_pictures(root, tmp_path):
    recipe = crack_recipe(root)
    recipe.model.method, recipe.model.options = "threshnet", {"width": 4, "patch": 16}
    checkpoint = save_untrained(tmp_path / "refiner.safetensors", recipe)
    with pytest.raises(SegfocusError, match="expected a network that sees pictures, got the refiner threshnet"):
        export_maps(checkpoint, tmp_path / "out", device="cpu")


def test_other_classes_are_refused(base, root, tmp_path):
    folders = {kind: str(root / kind / "test") for kind in ("images", "masks")}
    with pytest.raises(SegfocusError, match=r"expected the checkpoint's classes background, crack, got .*foreground"):
        export_maps(base, tmp_path / "out", DataConfig(name="folder", **folders), "all", device="cpu")


# ----------------------------------------------------------------------------------------------------------- folds


@pytest.fixture(scope="module")
def folded(base, tmp_path_factory) -> Path:
    """Two folds, stopped before the second one's first map, and gone on with."""
    out, trained = tmp_path_factory.mktemp("maps") / "folds", module._train_fold

    def stops(recipe, run):
        if run.name == "fold_2":
            raise KeyboardInterrupt("stopped")
        return trained(recipe, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_train_fold", stops)
        with pytest.raises(KeyboardInterrupt):
            export_maps(base, out, split="train", folds=2, device="cpu")
    assert 0 < len(list((out / "maps").iterdir())) < len(TRAIN)
    export_maps(base, out, split="train", folds=2, device="cpu")
    return out


def test_each_map_is_of_the_network_that_has_not_seen_it(folded):
    dataset = open_maps(folded)
    assert [pair.name for pair in dataset.pairs] == TRAIN
    seen = {}
    for number in (1, 2):
        run = folded / "runs" / f"fold_{number}"
        recipe = load(run / "last.safetensors").recipe
        assert (recipe.data.train_split, recipe.data.val_split) == (f"train:not{number}of2", f"train:{number}of2")
        seen[number] = {pair.name for pair in open_dataset(recipe.data, recipe.data.train_split).pairs}
        predictor = Predictor(run / "last.safetensors", device="cpu")
        for index, pair in enumerate(dataset.pairs):
            if pair.name not in seen[number]:
                found = predictor(dataset.read(index)[0]).probabilities
                assert abs(dataset.read_map(index) - found).max() <= 0.5 / 65535 + 1e-7
    assert not seen[1] & seen[2]
    assert seen[1] | seen[2] == set(TRAIN)


def test_finished_folds_are_not_trained_again(folded, base, monkeypatch):
    monkeypatch.setattr(module, "_train_fold", lambda recipe, run: pytest.fail("trained again"))
    before = files(folded)
    assert export_maps(base, folded, split="train", folds=2, device="cpu")["complete"]
    assert files(folded) == before


def test_a_lost_map_is_made_again_by_the_run_that_is_there(folded, base):
    before = files(folded)
    (folded / "maps" / f"{TRAIN[0]}.png").unlink()
    export_maps(base, folded, split="train", folds=2, device="cpu")
    assert files(folded) == before


@pytest.mark.parametrize(("folds", "words"), [(1, "--folds: expected 2 or more, got 1"), (9, "at least 9 pictures")])
def test_folds_that_cannot_be_are_refused(base, tmp_path, folds, words):
    with pytest.raises(SegfocusError, match=words):
        export_maps(base, tmp_path / "out", split="train", folds=folds, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_picture_newer_than_its_map_is_predicted_again(base, root, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    data = crack_recipe(tmp_path / "root").data
    export_maps(base, tmp_path / "out", data, "test", device="cpu")
    before = files(tmp_path / "out")
    Image.fromarray(np.full((32, 40, 3), 90, np.uint8)).save(tmp_path / "root" / "images" / "test" / f"{TEST[2]}.png")
    export_maps(base, tmp_path / "out", data, "test", device="cpu")
    after = files(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} == {f"maps/{TEST[2]}.png", f"images/{TEST[2]}.png"}
