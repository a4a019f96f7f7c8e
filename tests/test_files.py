"""Atomic writing: nothing half-written, earlier files intact."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

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


# the system refuses every file above the limit, as it refuses what does not fit on a full disk
LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from segfocus import checkpoint
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.training.state import save_state, Progress
from tests.training.scenes import tiny_recipe
from types import SimpleNamespace as Some

folder = Path(sys.argv[1])
model = torch.nn.Linear(300, 300)
part = Some(state_dict=lambda: {})
task = Some(model=model, average=None, trainer=Some(optimizers=[part], precision_plugin=part))
classes = Classes.from_dict({"classes": {0: "sky", 1: "road"}})
writers = [
    lambda: checkpoint.save(folder / "best.safetensors", model, tiny_recipe(), classes),
    lambda: save_state(folder / "resume.ckpt", task, Progress()),
]
for write in writers:
    write()
before = {path.name: path.read_bytes() for path in folder.iterdir()}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for write in writers:
    try:
        write()
    except SegfocusError as error:
        assert "\\n" not in str(error)
        print(error)
assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
"""


def test_checkpoints_and_states_that_do_not_fit_leave_the_earlier_ones(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert [Path(line.removeprefix("cannot write ").split(":")[0]).name for line in lines] == [
        "best.safetensors",
        "resume.ckpt",
    ]
    assert all("File too large" in line for line in lines)
