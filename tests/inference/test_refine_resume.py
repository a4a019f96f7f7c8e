import errno
import os
import time

import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.inference.refine import refine_folder
from tests.inference.map_stubs import (
    ALL,
    SIZE,
    Painter,
    Sharpener,
    files_below,
    make_map,
    make_maps,
    make_picture,
    make_refiner,
)


@pytest.fixture
def maps(tmp_path):
    return make_maps(tmp_path / "maps")


def test_the_same_call_goes_on_where_it_stopped(maps, tmp_path):
    out = tmp_path / "out"
    assert len(refine_folder(make_refiner(), maps, out)) == 6
    assert files_below(out) == ALL
    model = Sharpener()
    assert refine_folder(make_refiner(model), maps, out) == []
    assert model.seen == []
    (out / "labels/a.png").unlink()
    make_map(maps / "new.npy", 9)
    later = time.time() + 5
    os.utime(maps / "c.d.tif", (later, later))
    found = refine_folder(make_refiner(), maps, out, save=("labels",))
    assert [path.name for path in found] == ["a.png", "c.d.png", "new.png"]
    assert refine_folder(make_refiner(), maps, out, save=("labels",))[0].name == "c.d.png"  # still from the future


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_leaves_whole_files_only(maps, tmp_path, signal):
    out = tmp_path / "out"
    model = Sharpener()
    tiles = iter(range(20))  # of 15 a map

    def interrupt(*_):
        if next(tiles, None) is None:
            raise signal

    model.register_forward_pre_hook(interrupt)
    with pytest.raises(signal):
        refine_folder(make_refiner(model, stride=(8, 8)), maps, out)
    assert files_below(out) == ["labels/a.png", "predictions.json", "probabilities/a.npy"]
    assert np.load(out / "probabilities/a.npy").shape == SIZE
    found = refine_folder(make_refiner(stride=(8, 8)), maps, out)
    assert [path.relative_to(out).parts[0] for path in found] == ["labels", "probabilities"] * 2
    assert files_below(out) == ALL


def test_a_full_disk_stops_at_once(maps, tmp_path, monkeypatch):
    out = tmp_path / "out"
    refine_folder(make_refiner(), maps, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    later = time.time() + 5
    for path in maps.rglob("*.*"):
        os.utime(path, (later, later))
    model = Sharpener()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SegfocusError, match=r"cannot write .*No space left on device"):
        refine_folder(make_refiner(model), maps, out)
    monkeypatch.undo()
    assert len(model.seen) == 35  # the tiles of the first map alone
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_missing_partners_are_listed_before_anything_is_written(maps, tmp_path):
    out, images = tmp_path / "out", tmp_path / "images"
    with pytest.raises(SegfocusError, match="Painter: expected the maps' pictures, got none; try --images"):
        refine_folder(make_refiner(Painter()), maps, out)
    make_picture(images / "c.d.png")
    with pytest.raises(SegfocusError, match=r"a file for each of 3 maps, got none for 2: a, deep/er/b"):
        refine_folder(make_refiner(Painter()), maps, out, images=images)
    assert not out.exists()
    make_picture(images / "a.png", size=(21, 31))
    make_picture(images / "deep/er/b.png")
    with pytest.raises(SegfocusError, match=r"1 of 3 .*a\.png: expected the size of its map .*21x30, got 21x31"):
        refine_folder(make_refiner(Painter()), maps, out, images=images)
    assert files_below(out) == [name for name in ALL if not name.split("/")[-1].startswith("a.")]


def test_output_and_inputs_lie_apart(maps, tmp_path):
    for out, words in (
        (maps, "is also"),
        (maps / "out", "lies in"),
        (tmp_path, "holds"),
        (maps / "deep/..", "is also"),
    ):
        with pytest.raises(SegfocusError, match=f"output folder .* {words} the maps' folder"):
            refine_folder(make_refiner(), maps, out, overwrite=True)
    images = tmp_path / "images"
    for name in ("a.png", "c.d.png", "deep/er/b.png"):
        make_picture(images / name)
    for out in (images, images / "out"):
        with pytest.raises(SegfocusError, match=r"is the pictures' folder .* or lies in it"):
            refine_folder(make_refiner(Painter()), maps, out, images=images)
    assert files_below(maps) == ["a.npy", "c.d.tif", "deep/er/b.png"]


def test_refusals_before_anything_is_written(maps, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(SegfocusError, match="unknown kind 'overlay'; expected one of: labels, probabilities"):
        refine_folder(make_refiner(), maps, out, save=("overlay",))
    with pytest.raises(SegfocusError, match="expected a folder, got nothing there"):
        refine_folder(make_refiner(), tmp_path / "nowhere", out)
    make_map(maps / "a.png")
    with pytest.raises(SegfocusError, match=r"expected one file called 'a', got a\.npy and a\.png"):
        refine_folder(make_refiner(), maps, out)
    assert not out.exists()
    (maps / "a.png").unlink()
    (out / "labels").mkdir(parents=True)
    (out / "labels/a.png").write_bytes(b"mine")
    with pytest.raises(SegfocusError, match="holds files that would be overwritten"):
        refine_folder(make_refiner(), maps, out)
    refine_folder(make_refiner(), maps, out, overwrite=True)
    with pytest.raises(SegfocusError, match="another network or with other settings"):
        refine_folder(make_refiner(Sharpener(shift=2.0)), maps, out)
    with pytest.raises(SegfocusError, match="another network or with other settings"):
        refine_folder(make_refiner(window=(12, 12)), maps, out)
