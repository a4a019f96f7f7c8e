import errno
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.inference.folder import encode, predict_folder
from segfocus.inference.predictor import Predictor
from tests.inference.stubs import ByBrightness, by_brightness

CLASSES = Classes.from_dict(
    {"classes": {0: {"name": "dark", "color": [10, 20, 30]}, 1: {"name": "mid", "color": [0, 200, 0]}, 2: "bright"}}
)


def make_predictor(model=None, classes=CLASSES, **options):
    return Predictor(model or ByBrightness(), classes, device="cpu", **options)


def make_picture(path: Path, seed: int = 0, size=(12, 17)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return picture


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(("a.png", "deep/er/b.png", "c.d.png")):
        make_picture(tmp_path / "in" / name, index)
    return tmp_path / "in"


def files_below(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_every_kind(folder, tmp_path):
    out = tmp_path / "out"
    written = predict_folder(make_predictor(), [folder], out, ("labels", "color", "overlay", "probabilities"))
    names = ["a", "c.d", "deep/er/b"]
    suffixes = {"color": "png", "labels": "png", "overlay": "jpg", "probabilities": "npz"}
    expected = sorted(f"{kind}/{name}.{suffix}" for kind, suffix in suffixes.items() for name in names)
    assert files_below(out) == sorted([*expected, "predictions.json"])
    assert sorted(path.relative_to(out).as_posix() for path in written) == expected
    picture = cv2.cvtColor(cv2.imread(str(folder / "deep/er/b.png")), cv2.COLOR_BGR2RGB)
    labels = by_brightness(picture[:, :, 0])
    np.testing.assert_array_equal(cv2.imread(str(out / "labels/deep/er/b.png"), cv2.IMREAD_UNCHANGED), labels)
    with Image.open(out / "color/deep/er/b.png") as color:
        assert color.mode == "P"
        np.testing.assert_array_equal(np.asarray(color), labels)
        np.testing.assert_array_equal(np.asarray(color.convert("RGB")), np.asarray(CLASSES.colors, np.uint8)[labels])
    with np.load(out / "probabilities/deep/er/b.npz", allow_pickle=False) as archive:
        stored = archive["probabilities"]
    assert stored.dtype == np.float16
    expected_probabilities = make_predictor()(picture).probabilities
    np.testing.assert_allclose(stored.astype(float), expected_probabilities, atol=1e-3)
    assert cv2.imread(str(out / "overlay/deep/er/b.jpg")).shape == (12, 17, 3)


def test_single_files_use_their_own_name(folder, tmp_path):
    predict_folder(make_predictor(), [folder / "deep/er/b.png", folder / "a.png"], tmp_path / "out", ("labels",))
    assert files_below(tmp_path / "out") == ["labels/a.png", "labels/b.png", "predictions.json"]


def test_the_same_call_goes_on_where_it_stopped(folder, tmp_path):
    out = tmp_path / "out"
    first = predict_folder(make_predictor(), [folder], out, ("labels",))
    assert len(first) == 3
    again = make_predictor()
    assert predict_folder(again, [folder], out, ("labels",)) == []
    assert again.model.seen == []
    (out / "labels/a.png").unlink()
    make_picture(folder / "new.png", 9)
    later = time.time() + 5
    os.utime(folder / "c.d.png", (later, later))  # a changed picture
    found = predict_folder(make_predictor(), [folder], out, ("labels",))
    assert [path.name for path in found] == ["a.png", "c.d.png", "new.png"]
    assert len(predict_folder(make_predictor(), [folder / "a.png"], out, ("labels", "overlay"))) == 2


def test_other_settings_are_not_mixed_in(folder, tmp_path):
    out = tmp_path / "out"
    predict_folder(make_predictor(), [folder], out, ("labels",))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    other = make_predictor(flip=True)
    with pytest.raises(SegfocusError, match=r"predictions of another network or with other settings.*--overwrite"):
        predict_folder(other, [folder], out, ("labels",))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    assert len(predict_folder(other, [folder / "a.png"], out, ("labels",), overwrite=True)) == 1
    # what the first settings wrote is older than the record, so going on with the second replaces it
    assert len(predict_folder(other, [folder], out, ("labels",))) == 2
    (out / "predictions.json").write_text("{broken")
    with pytest.raises(SegfocusError, match="another network or with other settings"):
        predict_folder(other, [folder], out, ("labels",))


def test_foreign_files_are_not_overwritten(folder, tmp_path):
    out = tmp_path / "out"
    (out / "labels").mkdir(parents=True)
    (out / "labels/a.png").write_bytes(b"mine")
    with pytest.raises(SegfocusError, match="holds files that would be overwritten"):
        predict_folder(make_predictor(), [folder], out, ("labels",))
    assert files_below(out) == ["labels/a.png"]
    assert len(predict_folder(make_predictor(), [folder], out, ("labels",), overwrite=True)) == 3


def test_bad_files_are_named_and_the_rest_is_finished(folder, tmp_path):
    (folder / "b_broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "b_empty.png").touch()
    (folder / "b_text.jpg").write_text("no picture")
    told = []
    with pytest.raises(SegfocusError) as caught:
        predict_folder(
            make_predictor(), [folder], tmp_path / "out", ("labels",), on_error=lambda path, error: told.append(path)
        )
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("3 of 6 pictures could not be predicted, the others are done: ")
    for name in ("b_broken.png", "b_empty.png", "b_text.jpg"):
        assert message.count(name) == 1
    assert [path.name for path in told] == ["b_broken.png", "b_empty.png", "b_text.jpg"]
    assert files_below(tmp_path / "out") == [
        "labels/a.png",
        "labels/c.d.png",
        "labels/deep/er/b.png",
        "predictions.json",
    ]


def test_many_bad_files_are_counted(tmp_path):
    for index in range(8):
        (tmp_path / f"in{index}.png").touch()
    paths = sorted(tmp_path.glob("*.png"))
    with pytest.raises(SegfocusError, match=r"8 of 8 .*; and 3 more$"):
        predict_folder(make_predictor(), paths, tmp_path / "out", ("labels",))


def test_two_pictures_of_one_name_are_refused_before_anything_is_written(folder, tmp_path):
    Image.new("RGB", (4, 4)).save(folder / "a.jpg")
    with pytest.raises(SegfocusError, match=r"a\.jpg and .*a\.png would both be written as 'a'"):
        predict_folder(make_predictor(), [folder], tmp_path / "out", ("labels",))
    make_picture(tmp_path / "other/A.png")
    with pytest.raises(SegfocusError, match=r"would both be written as 'A'"):
        predict_folder(make_predictor(), [folder / "a.png", tmp_path / "other/A.png"], tmp_path / "out", ("labels",))
    assert not (tmp_path / "out").exists()


def test_a_picture_given_twice_is_predicted_once(folder, tmp_path):
    written = predict_folder(
        make_predictor(), [folder / "a.png", folder, folder / "a.png"], tmp_path / "out", ["labels"]
    )
    assert [path.name for path in written] == ["a.png", "c.d.png", "b.png"]


def test_output_must_not_be_the_pictures_folder(folder, tmp_path):
    for inputs, out in (
        ([folder], folder),
        ([folder / "a.png"], folder),
        ([folder], folder / "deep" / ".."),
    ):
        with pytest.raises(SegfocusError, match=r"output folder .* is also the pictures' folder"):
            predict_folder(make_predictor(), inputs, out, ("labels",))
    make_picture(tmp_path / "labels/x.png")
    with pytest.raises(SegfocusError, match="is read and would be overwritten"):
        predict_folder(make_predictor(), [tmp_path / "labels"], tmp_path, ("labels",), overwrite=True)
    assert files_below(folder) == ["a.png", "c.d.png", "deep/er/b.png"]
    (tmp_path / "file").touch()
    with pytest.raises(SegfocusError, match="expected a folder, got the file"):
        predict_folder(make_predictor(), [folder], tmp_path / "file", ("labels",))


def test_an_output_folder_below_the_pictures_is_not_predicted_again(folder):
    out = folder / "predictions"
    assert len(predict_folder(make_predictor(), [folder], out, ("labels",))) == 3
    assert predict_folder(make_predictor(), [folder], out, ("labels",)) == []


def test_refusals_before_anything_is_written(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(SegfocusError, match="unknown kind 'label'; did you mean labels"):
        predict_folder(make_predictor(), [folder], out, ("label",))
    with pytest.raises(SegfocusError, match="save: expected some of labels"):
        predict_folder(make_predictor(), [folder], out, ())
    with pytest.raises(SegfocusError, match="'overlay' needs classes"):
        predict_folder(make_predictor(classes=None), [folder], out)
    with pytest.raises(SegfocusError, match=r"got .*nowhere, which does not exist"):
        predict_folder(make_predictor(), [tmp_path / "nowhere"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegfocusError, match=r"at least one picture, got none in .*empty"):
        predict_folder(make_predictor(), [tmp_path / "empty"], out)
    with pytest.raises(SegfocusError, match="got none in nothing"):
        predict_folder(make_predictor(), [], out)
    assert not out.exists()
    prediction = make_predictor()(folder / "a.png")
    with pytest.raises(SegfocusError, match="color: expected classes"):
        encode(prediction, "color")


def test_a_full_disk_leaves_whole_files_only(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write = Path.write_bytes
    room = iter(range(2))

    def write_until_full(path: Path, data: bytes) -> int:
        if next(room, None) is None:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    with pytest.raises(SegfocusError, match=r"cannot write .*No space left on device"):
        predict_folder(make_predictor(), [folder], out, ("labels",))
    monkeypatch.undo()
    assert files_below(out) == ["labels/a.png", "labels/c.d.png", "predictions.json"]
    assert cv2.imread(str(out / "labels/c.d.png"), cv2.IMREAD_UNCHANGED).shape == (12, 17)
    assert [path.name for path in predict_folder(make_predictor(), [folder], out, ("labels",))] == ["b.png"]


def test_no_progress_bar_where_there_is_no_terminal(folder, tmp_path, capsys):
    predict_folder(make_predictor(), [folder], tmp_path / "out", ("labels",))
    predict_folder(make_predictor(), [folder], tmp_path / "quiet", ("labels",), progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_picture_too_large_for_a_file_type_is_said_so(folder):
    prediction = make_predictor()(np.zeros((1, 70000, 3), np.uint8))
    with pytest.raises(SegfocusError, match=r"70000x1 px does not fit into a .jpg"):
        encode(prediction, "overlay", CLASSES)
    assert encode(prediction, "labels")
