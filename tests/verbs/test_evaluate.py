"""`evaluate --metrics` and `report` on the same network's files tell the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segfocus.cli import main
from segfocus.data import open_dataset
from tests.training.scenes import tiny_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from segfocus.training.run import train

    return train(tiny_recipe(), tmp_path_factory.mktemp("runs") / "tiny") / "best.safetensors"


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("evaluated") / "scores.json"
    assert main(["evaluate", str(trained), "--metrics", "all", "--json", str(out), "--boundary-distances", "1,3"]) == 0
    return json.loads(out.read_text())


def test_files_of_predictions_score_as_the_network_does(trained, evaluated, tmp_path):
    recipe = tiny_recipe()
    dataset = open_dataset(recipe.data, recipe.data.val_split)
    for index, pair in enumerate(dataset.pairs):
        picture, target = dataset.read(index)
        for folder, values in (("images", picture), ("masks", dataset.classes.decode(target))):
            path = tmp_path / folder / f"{pair.name}.png"
            path.parent.mkdir(exist_ok=True, parents=True)
            Image.fromarray(values).save(path)
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(dataset.classes.to_dict()))
    assert (
        main(["predict", str(trained), str(tmp_path / "images"), "--out", str(tmp_path), "--save", "probabilities"])
        == 0
    )
    scored = tmp_path / "scores.json"
    names = {"predictions": "probabilities", "labels": "masks", "classes": "classes.yaml", "images": "images"}
    options = [part for name, path in names.items() for part in (f"--{name}", str(tmp_path / path))]
    out = ["--out", str(tmp_path / "page"), "--json", str(scored), "--boundary-distances", "1,3"]
    assert main(["report", *options, *out]) == 0
    from_files = json.loads(scored.read_text())
    # probabilities are stored in half precision: a pixel on the edge between two classes may change sides
    for key in ("miou", "pixel_accuracy", "mba"):
        assert from_files[key] == pytest.approx(evaluated[key], abs=2e-3)
    assert from_files["calibration"]["ece"] == pytest.approx(evaluated["calibration"]["ece"], abs=2e-3)
    assert from_files["regions"]["thickness"]["pixels"] == evaluated["regions"]["thickness"]["pixels"]
    assert from_files["intervals"]["miou"] == pytest.approx(evaluated["intervals"]["miou"], abs=5e-3)
    # only the network says where it looked
    variants = [{row["variant"] for row in found["headroom"]["rows"]} for found in (from_files, evaluated)]
    assert variants[1] - variants[0] == {"importance"}


def test_groups_of_scores(trained, evaluated, capsys, tmp_path):
    out = tmp_path / "some.json"
    assert main(["evaluate", str(trained), "--metrics", "thin,mba", "--json", str(out)]) == 0
    some = json.loads(out.read_text())
    assert some["mba"] == evaluated["mba"]
    assert some["thin"] == evaluated["thin"]
    assert "regions" not in some
    assert main(["evaluate", str(trained), "--json", str(out)]) == 0
    basic = json.loads(out.read_text())
    assert "mba" not in basic
    assert basic["miou"] == evaluated["miou"]
    capsys.readouterr()
    assert main(["evaluate", str(trained), "--metrics", "thinn"]) == 2
    assert "--metrics: unknown 'thinn'; did you mean thin" in capsys.readouterr().err
    assert main(["evaluate", str(trained), "--metrics", "instances"]) == 2
    assert "expected instances for 'instances', got none" in capsys.readouterr().err


def test_importance_ranks_the_regions_of_the_headroom(evaluated):
    rows = evaluated["headroom"]["rows"]
    by_importance = [row["pixel_accuracy"] for row in rows if row["variant"] == "importance"]
    by_truth = [row["pixel_accuracy"] for row in rows if (row["idea"], row["variant"]) == ("fornet", "truth")]
    assert len(by_importance) == len(by_truth) == 5
    assert (np.diff(by_importance) >= 0).all()
    assert (np.array(by_truth) >= by_importance).all()
    assert by_importance[-1] == by_truth[-1] == 1


def test_the_network_tells_how_well_it_knows_where_it_is_wrong(trained, evaluated, capsys):
    part = evaluated["importance"]
    assert part["n_pictures"] == evaluated["n_pictures"]
    errors = part["amounts"]["error"]
    assert errors["total"] > 0
    assert (np.array(errors["recall"]) <= errors["best"]).all()
    assert "error_before" not in part["amounts"]
    assert main(["evaluate", str(trained), "--metrics", "importance"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "25 % most important regions" in line)
    assert f"{100 * errors['recall'][3]:.1f} (at best {100 * errors['best'][3]:.1f}" in row
    assert main(["evaluate", str(trained), "--metrics", "importance", "--window", "32x32"]) == 2
    assert "expected importance for 'importance', got none" in capsys.readouterr().err
