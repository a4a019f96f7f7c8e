"""The pictures of the leaderboard: read, split by their names, linked, told apart."""

import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.refinement.parts import Folders, Part
from tests.refinement.small import NAMES, make_folders, map_of, truth_of


@pytest.fixture
def part(tmp_path) -> Part:
    return Part.open(make_folders(tmp_path, 3), None, False)


def test_files_are_read_as_they_are(part):
    found = part.read("c")
    np.testing.assert_array_equal(found.probabilities, map_of(2, 3))
    np.testing.assert_array_equal(found.truth, truth_of(2, 3))
    assert found.picture is not None
    assert found.picture.dtype == np.uint8
    assert set(np.unique(found.picture)) == {60, 100, 140}
    assert part.classes.num_classes == 3


def test_without_pictures_there_are_none(tmp_path):
    part = Part.open(make_folders(tmp_path, pictures=False), None, False)
    assert part.read("a").picture is None


def test_halves_are_told_by_names_and_share_no_photograph(part):
    fit, scored = part.split()
    assert sorted([*fit.names, *scored.names]) == sorted(NAMES)
    assert abs(len(fit) - len(scored)) <= 1
    assert part.split()[0].names == fit.names
    with pytest.raises(SegfocusError, match="at least 2"):
        part.only(["a"]).split()


def test_parts_of_one_photograph_stay_together(tmp_path):
    names = [f"{photograph}-{number}" for photograph in ("w", "x", "y", "z") for number in (1, 2, 3)]
    fit, scored = Part.open(make_folders(tmp_path, names=names), None, False).split()
    assert not {name[0] for name in fit.names} & {name[0] for name in scored.names}


def test_some_pictures_evenly(part):
    assert len(list(part.pairs())) == len(NAMES)
    some = list(part.pairs(3))
    for found, index in zip(some, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(found.truth, truth_of(index, 3))


def test_what_cannot_be_read_is_told_and_left_out(part):
    (part.folders.maps / "b.npy").write_bytes(b"damaged")
    good, failures = part.readable(part.names)
    assert good.names == [name for name in NAMES if name != "b"]
    assert len(failures) == 1
    assert "b.npy" in failures[0]


def test_links_hold_the_part_alone(part, tmp_path):
    some = part.only(["a", "d"])
    folders = some.linked(tmp_path / "fit")
    assert sorted(path.name for path in folders.maps.iterdir()) == ["a.npy", "d.npy"]
    again = Part.open(some.linked(tmp_path / "fit"), part.classes, False)  # a second time does no harm
    assert again.names == ["a", "d"]
    for name in again.names:
        for one, other in zip(again.read(name), part.read(name), strict=True):
            np.testing.assert_array_equal(one, other)
    assert part.linked(tmp_path / "all") == part.folders
    assert not (tmp_path / "all").exists()


def test_files_are_copied_where_links_are_not_allowed(part, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("not allowed")

    monkeypatch.setattr("pathlib.Path.symlink_to", refused)
    folders = part.only(["a"]).linked(tmp_path / "fit")
    assert not (folders.maps / "a.npy").is_symlink()
    np.testing.assert_array_equal(np.load(folders.maps / "a.npy"), map_of(0, 3))


def test_digest_follows_files_and_names(part):
    before = part.digest()
    assert Part.open(part.folders, None, False).digest() == before
    assert part.only(part.names[1:]).digest() != before
    np.save(part.folders.maps / "a.npy", map_of(0, 3)[:, :-1])
    assert part.digest() != before


def test_missing_masks_are_listed(tmp_path):
    folders = make_folders(tmp_path)
    for name in "ab":
        (folders.masks / f"{name}.png").unlink()
    with pytest.raises(SegfocusError, match="none for 2: a, b"):
        Part.open(folders, None, False)
    with pytest.raises(SegfocusError, match="expected a folder"):
        Part.open(Folders(tmp_path / "nothing", folders.masks), None, False)
