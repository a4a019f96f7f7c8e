"""The metrics file, Ctrl-C handling and averaging, each on its own."""

import csv
import errno
import os
import signal
import threading

import pytest
import torch
from torch import nn

from segfocus.errors import SegfocusError
from segfocus.training.environment import describe_environment, git_commit
from segfocus.training.metrics_file import MetricsFile
from segfocus.training.surroundings import interruptible
from segfocus.training.task import WeightAverage, step_seed


def _rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_new_columns_extend_the_header_and_keep_the_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.write({"step": 1, "loss": 0.5})
    file.write({"step": 2, "loss": 0.25})
    file.write({"step": 2, "val_iou_a, b": 0.75, "val_iou_c": None})
    again = MetricsFile(path)  # as a resume opens it
    again.write({"step": 3, "loss": 0.125})
    assert [row["step"] for row in _rows(path)] == ["1", "2", "2", "3"]
    assert [row["loss"] for row in _rows(path)] == ["0.5", "0.25", "", "0.125"]
    assert [row["val_iou_a, b"] for row in _rows(path)] == ["", "", "0.75", ""]


def test_a_row_cut_off_by_a_kill_is_removed_by_the_first_write(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsFile(path).write({"step": 1, "loss": 0.5})
    whole = path.read_bytes()
    with path.open("a") as file:
        file.write("2,0.")
    again = MetricsFile(path)
    assert path.read_bytes() == whole + b"2,0."  # other processes open it too, and write nothing
    again.write({"step": 2, "loss": 0.25})
    assert path.read_bytes().startswith(whole)
    assert _rows(path) == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25"}]


def test_a_tensorboard_log_that_does_not_fit_is_said_in_one_line(tmp_path, monkeypatch):
    from lightning.pytorch.loggers import TensorBoardLogger

    from segfocus.training.tensorboard import Board

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    board = Board(tmp_path, name="tensorboard", version="")
    for name, arguments in (("log_metrics", ({"loss": 1.0}, 1)), ("save", ()), ("finalize", ("success",))):
        monkeypatch.setattr(TensorBoardLogger, name, full)
        with pytest.raises(SegfocusError, match=r"cannot write .*tensorboard.*No space left"):
            getattr(board, name)(*arguments)


def test_a_metrics_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("step\n")
    file = MetricsFile(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(SegfocusError, match=r"cannot write .*metrics\.csv"):
        file.write({"step": 1})


def test_the_first_ctrl_c_asks_and_the_second_interrupts():
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    with interruptible(stop, leader=True):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_processes_leave_ctrl_c_to_the_first_and_threads_have_none():
    stop = threading.Event()
    with interruptible(stop, leader=False):
        os.kill(os.getpid(), signal.SIGINT)
    assert not stop.is_set()
    entered = []

    def run():
        with interruptible(stop, leader=True):
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGINT)]


def test_the_average_follows_its_formula_and_copies_statistics():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.5)
    expected = model[0].weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model[0].weight.add_(1.0)
            model[1].running_mean.add_(1.0)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.model[0].weight, expected)
    assert torch.equal(average.model[1].running_mean, model[1].running_mean)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_step_seeds_differ_by_seed_step_and_process():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(2)}
    assert len(seeds) == 3 * 20 * 2
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


def test_the_environment_is_described(tmp_path, monkeypatch):
    described = describe_environment(7)
    assert described["seed"] == 7
    assert {"torch", "lightning", "numpy"} <= described["packages"].keys()
    assert git_commit(tmp_path) is None
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert git_commit(tmp_path) is None
