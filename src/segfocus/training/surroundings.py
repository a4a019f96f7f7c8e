"""What a run changes in its process, and puts back: warnings, determinism, Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from segfocus.recipe import Recipe


@contextlib.contextmanager
def surroundings(recipe: Recipe) -> Iterator[None]:
    """Deterministic algorithms and quiet libraries, for the time of the run only."""
    import lightning.pytorch  # noqa: F401  (its first import sets the levels of its loggers, so it comes first)

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filling = memory.fill_uninitialized_memory
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for text in _THIRD_PARTY_WARNINGS:
            warnings.filterwarnings("ignore", message=text)
        if recipe.training.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
            memory.fill_uninitialized_memory = False  # costs time and guards only against bugs
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            memory.fill_uninitialized_memory = filling
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_THIRD_PARTY_WARNINGS = (
    # Lightning's advice on loader processes: the recipe says how many, and on two cores more are slower
    r"The '\w+_dataloader' does not have many workers",
    # Lightning counts modules in eval mode: networks may freeze parts of themselves on purpose
    r"Found \d+ module\(s\) in eval mode",
    # torch names operations without a deterministic form; the recipe asks for them where they exist
    r".*does not have a deterministic implementation",
    # two processes validate unequal numbers of pictures on purpose: none is repeated, so the scores are exact
    r"Total length of `.*` across ranks is zero",
    # Lightning uses a name that newer torch replaces
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    # a resumed run has a loader of its own length
    r"The number of training batches .* is smaller than the logging interval",
)


_PROCESS_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


@contextlib.contextmanager
def own_process() -> Iterator[None]:
    """Put back what Lightning's launcher changes in this process, so that a later run can have another number of them.

    Those are environment variables, the threads of torch, and torch's group of processes.
    """
    before = {name: os.environ.get(name) for name in _PROCESS_VARIABLES}
    threads = torch.get_num_threads()
    grouped = _in_group()
    try:
        yield
    finally:
        if _in_group() and not grouped:
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _in_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def end_others(trainer: Any) -> None:
    """End the processes that Lightning's launcher has started beside this one.

    They may hang in an operation that waits for this process, so they are killed; they write nothing.
    """
    processes = getattr(trainer.strategy.launcher, "procs", None)
    if not processes:
        return
    others = list(processes)
    processes.clear()  # or Lightning's watchman would take their end for a reason to kill this process too
    for process in others:
        process.kill()
        process.wait()


@contextlib.contextmanager
def interruptible(stop: threading.Event, leader: bool) -> Iterator[None]:
    """Turn the first Ctrl-C into `stop.set()`; a second one interrupts at once.

    Processes other than the leader ignore Ctrl-C: the leader ends them.  Loader processes started inside inherit the
    handler and go on, so that the step in work gets its data.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main = os.getpid()

    def handle(signum: int, frame: Any) -> None:
        if not leader or os.getpid() != main:
            return
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
