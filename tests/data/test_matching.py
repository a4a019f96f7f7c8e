"""Which files belong together, and words for whatever does not."""

import logging

import pytest

from segfocus.data.matching import Source, match_files, named_files
from segfocus.errors import SegfocusError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def labels(folder, suffix=""):
    return Source("--labels", folder, "--label-suffix", suffix)


def predictions(folder, suffix="", **options):
    return Source("--predictions", folder, "--prediction-suffix", suffix, {".png", ".npz"}, **options)


def test_nested_folders_any_extension_and_dots(tmp_path):
    truth = make(tmp_path / "a", "x.png", "deep/er/y.TIF", "deep/er/v1.0.png", ".hidden/z.png", ".z.png", "notes.txt")
    guess = make(tmp_path / "b", "x.npz", "deep/er/y.png", "deep/er/v1.0.npz")
    rows, missing = match_files(labels(truth), [predictions(guess)])
    assert [row.name for row in rows] == ["deep/er/v1.0", "deep/er/y", "x"]
    assert rows[1].files == {"--labels": truth / "deep/er/y.TIF", "--predictions": guess / "deep/er/y.png"}
    assert missing == []


def test_endings_as_in_cityscapes(tmp_path, caplog):
    truth = make(
        tmp_path / "gtFine/val",
        *(f"ulm/ulm_{index}_gtFine_{kind}.png" for index in "01" for kind in ("color", "labelIds", "instanceIds")),
    )
    guess = make(tmp_path / "out", "ulm/ulm_0_pred.png", "ulm/ulm_1_pred.png", "ulm/ulm_2_pred.png")
    instances = Source("--instances", truth, "--instance-suffix", "_gtFine_instanceIds")
    with caplog.at_level(logging.INFO, "segfocus"):
        rows, _ = match_files(labels(truth, "_gtFine_labelIds"), [predictions(guess, "_pred"), instances])
    assert [row.name for row in rows] == ["ulm/ulm_0", "ulm/ulm_1"]
    assert rows[0].files["--instances"].name == "ulm_0_gtFine_instanceIds.png"
    assert f"{truth}: 4 files do not end in '_gtFine_labelIds' and are passed over" in caplog.messages
    assert f"{guess}: 1 of 3 files have no label and are left out" in caplog.messages


def test_missing_files_are_listed_and_refused_unless_allowed(tmp_path, caplog):
    truth = make(tmp_path / "a", *(f"{index:02}.png" for index in range(30)))
    guess = make(tmp_path / "b", *(f"{index:02}.png" for index in range(0, 30, 2)))
    listed = ", ".join(f"{index:02}" for index in range(1, 20, 2))
    with pytest.raises(SegfocusError) as caught:
        match_files(labels(truth), [predictions(guess)])
    assert str(caught.value) == (
        f"--predictions {guess}: expected a file for each of 30 labels, got none for 15: {listed} and 5 more; "
        "try --allow-missing to score the others alone"
    )
    rows, missing = match_files(labels(truth), [predictions(guess)], allow_missing=True)
    assert [row.name for row in rows] == [f"{index:02}" for index in range(0, 30, 2)]
    assert missing == [f"{index:02}" for index in range(1, 30, 2)]
    assert f"{guess}: 15 of 30 labels have no file there and are left out" in caplog.messages


def test_optional_files_may_be_absent(tmp_path):
    truth = make(tmp_path / "a", "x.png", "y.png")
    guess = make(tmp_path / "b", "x.png")
    rows, missing = match_files(labels(truth), [predictions(guess, optional=True)])
    assert [set(row.files) for row in rows] == [{"--labels", "--predictions"}, {"--labels"}]
    assert missing == []


def test_nothing_left(tmp_path):
    truth = make(tmp_path / "a", "x.png", "y.png")
    first, second = make(tmp_path / "b", "x.png"), make(tmp_path / "c", "y.png")
    with pytest.raises(SegfocusError, match="expected a label with a file in every folder"):
        match_files(labels(truth), [predictions(first), Source("--baseline", second, "")], allow_missing=True)


@pytest.mark.parametrize(
    ("label", "guess", "advice"),
    [
        ("a_gtFine_labelIds.png", "a.png", "--label-suffix _gtFine_labelIds$"),
        ("a.png", "a_pred.png", "--prediction-suffix _pred$"),
        ("val/a.png", "a.png", "the folder above or below: only the subfolders differ$"),
        ("a_gt.png", "a_pred.png", "--label-suffix _gt --prediction-suffix _pred$"),
        ("a.png", "b.png", "--label-suffix or --prediction-suffix to leave out endings$"),
    ],
)
def test_names_that_do_not_match(tmp_path, label, guess, advice):
    truth, other = make(tmp_path / "a", label), make(tmp_path / "b", guess)
    with pytest.raises(SegfocusError, match=rf"called like the labels, such as .*; try {advice}"):
        match_files(labels(truth), [predictions(other)], allow_missing=True)


def assert_refused(source, match):
    with pytest.raises(SegfocusError, match=match) as caught:
        named_files(source)
    assert str(source.folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_are_none_or_empty(tmp_path):
    assert_refused(predictions(tmp_path / "none"), "--predictions .*: expected a folder, got nothing there")
    assert_refused(predictions(make(tmp_path, "file.png") / "file.png"), "got a file")
    (tmp_path / "empty").mkdir()
    assert_refused(predictions(tmp_path / "empty"), r"expected files \(\.npz, \.png\), got an empty folder")
    assert_refused(predictions(make(tmp_path / "text", "a.txt", "b.csv")), "got 2 other files such as a.txt")
    assert_refused(predictions(make(tmp_path / "lossy", "a.jpg")), "try PNG: JPEG changes values")


def test_two_files_with_one_name_and_an_ending_that_none_has(tmp_path):
    assert_refused(predictions(make(tmp_path / "a", "x.png", "x.npz")), r"one file called 'x', got x\.npz and x\.png")
    assert_refused(
        predictions(tmp_path / "a", "_pred"), "expected names that end in '_pred' in .*, got 2 files such as 'x'"
    )
