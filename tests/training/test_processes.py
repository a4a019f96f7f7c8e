"""Several processes train one run: the same scores as one, and none waits in vain for another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segfocus import checkpoint
from segfocus.training.run import evaluate
from tests.training.scenes import metrics

SEVERAL = """
import os, sys, time
from pathlib import Path
import torch
from segfocus.errors import SegfocusError
from segfocus.training.callbacks import Bar
from segfocus.training.run import train
from tests.training.scenes import tiny_recipe

follower = "LOCAL_RANK" in os.environ  # a follower runs this program again, for the stage that started it
original = Bar.on_train_batch_end


def fail(self, trainer, task, *rest):
    raise SegfocusError("the first one fails")


for stage in [os.environ["STAGE"]] if follower else ["fails", "ends"]:
    os.environ["STAGE"] = stage
    folder = Path(sys.argv[1]) / stage
    folder.mkdir(exist_ok=True)
    before = dict(os.environ)
    if stage == "fails" and not follower:
        Bar.on_train_batch_end = fail
    try:
        train(tiny_recipe(devices=2, steps=4, validate_every=1.0), folder / "two")
    except SegfocusError as error:
        (folder / "error").write_text(str(error))
    if follower:
        (folder / "follower").write_text("ended by itself")
        sys.exit(0)
    names = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    assert {name: os.environ.get(name) for name in names} == {name: before.get(name) for name in names}
    assert not torch.distributed.is_initialized()
    Bar.on_train_batch_end = original
    train(tiny_recipe(steps=2), folder / "one")
time.sleep(6)  # Lightning's watchman of the other processes looks every five seconds
"""


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Four runs of one program: of two processes, which fails, of one, of two, and of one."""
    folder = tmp_path_factory.mktemp("several")
    program = folder / "program.py"
    program.write_text(SEVERAL)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(program), str(folder)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return folder, answer


@pytest.mark.slow
def test_two_processes_score_exactly_what_one_does(several):
    folder = several[0] / "ends" / "two"
    # each process averages its half of a batch, so the gradients are those of the whole batch but for batch statistics
    assert list(metrics(folder)[0]) == [1, 2, 3, 4]
    last = checkpoint.load(folder / "last.safetensors")
    alone = evaluate(last, device="cpu")
    for key in ("miou", "per_class", "pixel_accuracy", "boundary_iou_per_class", "n_pictures"):
        assert alone[key] == last.scores[key], key
    assert alone["n_pictures"] == 3  # two for the one process, one for the other


@pytest.mark.slow
@pytest.mark.parametrize("word", ["fails", "ends"])
def test_a_run_of_one_process_follows_one_of_two(word, several):
    folder, answer = several
    assert answer.returncode == 0, answer.stderr
    error = folder / word / "error"
    assert (error.exists() and error.read_text() == "the first one fails") == (word == "fails")
    assert (folder / word / "follower").exists() == (word == "ends")
    assert list(metrics(folder / word / "one")[0]) == [1, 2]
