"""Runs that are killed or interrupted end as uninterrupted ones do."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segfocus.errors import SegfocusError
from segfocus.training.run import train
from segfocus.training.state import RESUME, load_state
from tests.training.scenes import metrics, tiny_recipe

STEPS = 36


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Metrics and weights of a run of `STEPS` steps in one go."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_recipe(steps=STEPS, save_every=7, ema_decay=0.95), folder)
    return folder


def _start(folder: Path) -> subprocess.Popen:
    """The same run in another process, returned when it is in its fourth epoch or later."""
    program = Path(__file__).with_name("scenes.py")
    command = [sys.executable, str(program), str(folder), f"steps={STEPS}", "save_every=7", "ema_decay=0.95"]
    environment = {**os.environ, "PYTHONPATH": str(program.parents[2])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if (folder / "metrics.csv").is_file() and max(metrics(folder)[0], default=0) >= 10:
            return process
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate()[1])


def assert_same_run(first: Path, second: Path) -> None:
    (train_first, val_first), (train_second, val_second) = metrics(first), metrics(second)
    assert list(train_first) == list(range(1, STEPS + 1))
    assert train_first.keys() == train_second.keys()
    for step, row in train_first.items():
        for key in row.keys() - {"minutes"}:
            assert train_second[step][key] == pytest.approx(row[key], abs=1e-5), (step, key)
    assert val_first.keys() == val_second.keys()
    for step, row in val_first.items():
        assert val_second[step]["val_miou"] == pytest.approx(row["val_miou"], abs=1e-5), step
    for name in ("best", "last"):
        weights, others = (load_file(folder / f"{name}.safetensors") for folder in (first, second))
        for key, tensor in weights.items():
            torch.testing.assert_close(others[key], tensor, rtol=0, atol=1e-5, msg=key)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_the_same_losses(uninterrupted, tmp_path):
    folder = tmp_path / "killed"
    process = _start(folder)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stopped = load_state(folder / RESUME)["progress"]["step"]
    assert 7 <= stopped < STEPS
    rows = (folder / "metrics.csv").read_text()
    train(out=folder, resume=True)
    assert (folder / "metrics.csv").read_text().startswith(rows)
    assert_same_run(uninterrupted, folder)


@pytest.mark.slow
def test_ctrl_c_saves_the_step_it_stopped_at_and_says_how_to_go_on(uninterrupted, tmp_path):
    folder = tmp_path / "stopped"
    process = _start(folder)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert f"segfocus train --resume {folder}" in said
    assert "Traceback" not in said
    state = load_state(folder / RESUME)
    assert state["progress"]["step"] == max(metrics(folder)[0])
    train(out=folder, resume=True)
    assert_same_run(uninterrupted, folder)


def test_a_validation_that_was_cut_off_is_made_up_for(uninterrupted, tmp_path, monkeypatch):
    from segfocus.training.callbacks import Recorder

    folder = tmp_path / "cut"
    original = Recorder.on_validation_batch_end
    calls = []

    def stop_at_the_last(self, trainer, task, *rest, **options):
        calls.append(task.step)
        if task.step == STEPS:
            self.stop.set()
        original(self, trainer, task, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "on_validation_batch_end", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {STEPS} of {STEPS}"):
            train(tiny_recipe(steps=STEPS, save_every=7, ema_decay=0.95), folder)
    assert STEPS not in metrics(folder)[1]
    train(out=folder, resume=True)
    assert_same_run(uninterrupted, folder)
    rows = (folder / "metrics.csv").read_text()
    train(out=folder, resume=True)  # a finished run has nothing left to do
    assert (folder / "metrics.csv").read_text() == rows


def test_an_error_between_steps_leaves_a_state_to_resume_from(tmp_path, monkeypatch):
    from segfocus.training.callbacks import Bar

    def fail(self, trainer, task, *rest):
        if task.step == 5:
            raise RuntimeError("a loader died")

    monkeypatch.setattr(Bar, "on_train_batch_end", fail)
    with pytest.raises(RuntimeError, match="a loader died"):
        train(tiny_recipe(), tmp_path / "run")
    assert load_state(tmp_path / "run" / RESUME)["progress"]["step"] == 5


def test_a_run_killed_before_its_first_save_starts_from_its_recipe(uninterrupted, tmp_path):
    folder = tmp_path / "early"
    folder.mkdir()
    shutil.copy(uninterrupted / "recipe.yaml", folder)
    train(out=folder, resume=True)
    assert_same_run(uninterrupted, folder)


def test_a_resume_without_a_run_is_refused(tmp_path):
    with pytest.raises(SegfocusError, match="expected a run folder, got none"):
        train(resume=True)
    with pytest.raises(SegfocusError, match=r"recipe\.yaml"):
        train(out=tmp_path, resume=True)


def test_a_damaged_state_is_refused(tmp_path):
    with pytest.raises(SegfocusError, match="does not exist"):
        load_state(tmp_path / RESUME)
    (tmp_path / RESUME).write_bytes(b"nothing of the kind")
    with pytest.raises(SegfocusError, match="damaged"):
        load_state(tmp_path / RESUME)


def test_the_resume_state_holds_tensors_and_plain_values_only(uninterrupted):
    state = torch.load(uninterrupted / RESUME, weights_only=True)
    assert state.keys() == {"progress", "model", "average", "optimizer", "precision"}
    assert state["progress"]["step"] == STEPS
