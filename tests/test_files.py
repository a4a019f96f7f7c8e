"""Atomic writing: nothing half-written, earlier files intact."""

import errno
import json

import pytest

from segfocus.errors import SegfocusError
from segfocus.files import write_atomically, write_json


def test_a_finished_block_replaces_the_file(tmp_path):
    path = tmp_path / "deep" / "scores.json"
    write_json(path, {"miou": 0.5})
    write_json(path, {"miou": None})
    assert json.loads(path.read_text()) == {"miou": None}
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.json"]


def test_not_a_number_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "scores.json", {"miou": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_a_failed_block_leaves_the_earlier_file(tmp_path, error):
    path = tmp_path / "labels.png"
    path.write_bytes(b"earlier")

    def half() -> None:
        with write_atomically(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.png"]


def test_a_full_disk_is_said_in_one_line(tmp_path):
    path = tmp_path / "labels.png"
    path.write_bytes(b"earlier")
    with pytest.raises(SegfocusError, match=r"No space left.*written before are complete"), write_atomically(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.png"]
