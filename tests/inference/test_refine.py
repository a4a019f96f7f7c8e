import os
import time

import cv2
import numpy as np
import pytest
import tifffile

from segfocus.data.map_files import MapFile
from segfocus.errors import SegfocusError
from segfocus.inference import map_writers
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
    sharpened,
)


@pytest.fixture
def maps(tmp_path):
    return make_maps(tmp_path / "maps")


@pytest.mark.parametrize("window", [None, (8, 8)])
@pytest.mark.parametrize(
    ("name", "dtype", "step"),
    [
        ("a.npy", np.uint8, 0.5 / 255),
        ("a.npy", np.float32, 0),
        ("a.npz", np.float16, 5e-4),
        ("a.tif", np.uint16, 0.5 / 65535),
        ("a.tif", np.float32, 0),
        ("a.png", np.uint8, 0.5 / 65535),
        ("a.png", np.uint16, 0.5 / 65535),
    ],
)
def test_each_format_is_refined_and_kept(tmp_path, name, dtype, step, window):
    expected = sharpened(make_map(tmp_path / "maps" / name, dtype=dtype))
    refine_folder(make_refiner(window=window), tmp_path / "maps", tmp_path / "out")
    assert files_below(tmp_path / "out") == ["labels/a.png", "predictions.json", f"probabilities/{name}"]
    path = tmp_path / "out" / "probabilities" / name
    if path.suffix in (".npy", ".npz"):
        stored = np.load(path)
        stored = stored["probabilities"] if path.suffix == ".npz" else stored
        assert stored.dtype == dtype
    else:
        stored = tifffile.imread(path) if path.suffix == ".tif" else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == (np.uint16 if path.suffix == ".png" else dtype)
    found = stored / (np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=step + 1e-6)
    labels = cv2.imread(str(tmp_path / "out/labels/a.png"), cv2.IMREAD_UNCHANGED)
    certain = abs(expected - 0.5) > 1e-6
    np.testing.assert_array_equal(labels[certain], (expected > 0.5)[certain])


def test_more_classes(tmp_path):
    values = np.random.default_rng(0).random((5, *SIZE)) + 0.01
    values = (values / values.sum(0)).astype(np.float32)
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", values)
    np.save(tmp_path / "maps/b.npy", np.moveaxis(values, 0, 2))
    refiner = make_refiner(Sharpener(5, shift=2.0), shifts=True)
    refine_folder(refiner, tmp_path / "maps", tmp_path / "out")
    weights = values * np.exp([0, 0, 0, 0, 2.0])[:, None, None]
    expected = weights / weights.sum(0)
    np.testing.assert_allclose(np.load(tmp_path / "out/probabilities/a.npy"), expected, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "out/probabilities/b.npy"), np.moveaxis(expected, 0, 2), atol=1e-6)
    labels = cv2.imread(str(tmp_path / "out/labels/b.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, expected.argmax(0))


def test_logits_become_probabilities(tmp_path):
    logits = np.random.default_rng(0).normal(0, 3, SIZE).astype(np.float32)
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", logits)
    with pytest.raises(SegfocusError, match=r"1 of 1 maps could not be refined.*in \[0, 1\].*--logits"):
        refine_folder(make_refiner(), tmp_path / "maps", tmp_path / "out")
    refine_folder(make_refiner(), tmp_path / "maps", tmp_path / "other", logits=True)
    expected = sharpened(1 / (1 + np.exp(-logits.astype(np.float64))))
    np.testing.assert_allclose(np.load(tmp_path / "other/probabilities/a.npy"), expected, atol=1e-6)
    with pytest.raises(SegfocusError, match="with other settings"):
        refine_folder(make_refiner(), tmp_path / "maps", tmp_path / "other")


def test_masks_taken_for_maps_are_told_of(tmp_path, caplog):
    (tmp_path / "maps").mkdir()
    cv2.imwrite(str(tmp_path / "maps/a.png"), np.eye(*SIZE, dtype=np.uint8))
    refine_folder(make_refiner(), tmp_path / "maps", tmp_path / "out")
    assert "no value above 1 in 1 maps of integers, which may be labels" in caplog.text
    caplog.clear()
    make_map(tmp_path / "maps/b.png", dtype=np.uint8)
    refine_folder(make_refiner(), tmp_path / "maps", tmp_path / "other")
    assert caplog.text == ""


def test_the_papers_way_resizes_whole_maps(tmp_path):
    make_map(tmp_path / "maps/a.npy")
    refiner = make_refiner(window=None, resize=(16, 16))
    refine_folder(refiner, tmp_path / "maps", tmp_path / "out")
    foreground = np.load(tmp_path / "maps/a.npy")
    expected = refiner.refine(np.stack([1 - foreground, foreground]))[1]
    np.testing.assert_array_equal(np.load(tmp_path / "out/probabilities/a.npy"), expected)


def test_bad_files_are_named_and_the_rest_is_finished(maps, tmp_path):
    (maps / "b_broken.npy").write_bytes((maps / "a.npy").read_bytes()[:200])
    (maps / "b_empty.png").touch()
    make_picture(maps / "b_rgb.png")
    np.save(maps / "b_nan.npy", np.where(np.eye(*SIZE) > 0, np.nan, 0.5))
    np.save(maps / "b_outside.npy", np.full(SIZE, 3.5))
    np.save(maps / "b_classes.npy", np.full((3, *SIZE), 1 / 3))
    told = []
    with pytest.raises(SegfocusError) as caught:
        refine_folder(make_refiner(), maps, tmp_path / "out", on_error=lambda path, error: told.append(path.name))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("6 of 9 maps could not be refined, the others are done: ")
    assert message.endswith("; and 1 more")
    assert told == ["b_broken.npy", "b_classes.npy", "b_empty.png", "b_nan.npy", "b_outside.npy", "b_rgb.png"]
    assert files_below(tmp_path / "out") == ALL


def test_a_map_that_goes_bad_half_way_leaves_nothing(tmp_path):
    values = np.full((60, 20), 0.5, np.float32)
    values[50, 7] = 1.5
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", values)
    with pytest.raises(SegfocusError, match=r"1 of 1 maps .*got 0.5 to 1.5"):
        refine_folder(make_refiner(), tmp_path / "maps", tmp_path / "out")
    assert files_below(tmp_path / "out") == ["predictions.json"]


def test_pictures_are_matched_by_name(maps, tmp_path):
    images = tmp_path / "images"
    red = {}
    for seed, name in enumerate(("a.png", "c.d.tif", "deep/er/b.png", "more.png")):
        red[name] = make_picture(images / name, 10 + seed)[:, :, 0]
    refine_folder(make_refiner(Painter()), maps, tmp_path / "out", images=images)
    expected = np.rint(red["a.png"] / 255 * 65535)
    found = np.load(tmp_path / "out/probabilities/a.npy")
    np.testing.assert_allclose(found, expected, atol=1)
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out/probabilities/c.d.tif"), red["c.d.tif"] * 257.0, atol=1)
    make_picture(images / "a.png", 20)
    later = time.time() + 5
    os.utime(images / "a.png", (later, later))
    again = refine_folder(make_refiner(Painter()), maps, tmp_path / "out", images=images)
    assert [path.name for path in again] == ["a.png", "a.npy"]


def test_pictures_that_nobody_reads_are_not_asked_for(maps, tmp_path):
    assert len(refine_folder(make_refiner(), maps, tmp_path / "out", images=tmp_path / "nowhere")) == 6


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_no_limit_of_pixels_by_tiles(tmp_path, suffix):
    make_map(tmp_path / f"maps/a.{suffix}")
    with pytest.raises(SegfocusError, match=r"at most 100 pixels in one piece, got 630 \(21x30\); try --window"):
        refine_folder(make_refiner(window=None), tmp_path / "maps", tmp_path / "out", max_pixels=100)
    refine_folder(make_refiner(), tmp_path / "maps", tmp_path / "other", max_pixels=100)
    assert files_below(tmp_path / "other") == ["labels/a.png", "predictions.json", f"probabilities/a.{suffix}"]


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_no_array_holds_the_map(tmp_path, monkeypatch, name):
    """Bands of the window's height are all that is read and written; benchmarks/refine_large.py measures memory."""
    make_map(tmp_path / "maps" / name, size=(200, 12), dtype=np.uint8)
    read, stored, bands = MapFile.read, map_writers._stored, []

    def read_noting(self, rows, columns):
        bands.append(rows.stop - rows.start)
        return read(self, rows, columns)

    def stored_noting(values, dtype):
        bands.append(values.shape[1])
        return stored(values, dtype)

    monkeypatch.setattr(MapFile, "read", read_noting)
    monkeypatch.setattr(map_writers, "_stored", stored_noting)
    refine_folder(make_refiner(window=(16, 12)), tmp_path / "maps", tmp_path / "out")
    assert len(bands) == 34  # 17 rows of tiles read, as many bands written
    assert max(bands) == 16


def test_running_out_of_memory_names_the_window(maps, tmp_path):
    model = Sharpener()

    def exhausted(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    model.register_forward_pre_hook(exhausted)
    with pytest.raises(SegfocusError, match=r"3 of 3 .*did not fit into the memory of cpu; try --window 512x512"):
        refine_folder(make_refiner(model, window=None), maps, tmp_path / "out")
    with pytest.raises(SegfocusError, match=r"try a smaller --window"):
        refine_folder(make_refiner(model), maps, tmp_path / "other")


def test_no_progress_bar_where_there_is_no_terminal(maps, tmp_path, capsys):
    refine_folder(make_refiner(), maps, tmp_path / "out")
    refine_folder(make_refiner(), maps, tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")
