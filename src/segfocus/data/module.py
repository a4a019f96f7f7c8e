"""SegmentationData: the one LightningDataModule, and the samplers that make runs resumable and shards exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

from segfocus.data import dataset_classes, open_dataset
from segfocus.data.classes import Classes
from segfocus.data.dataset import SegmentationDataset
from segfocus.data.transforms import training_transform
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig


class RunBatchSampler(Sampler[list[tuple[int, int]]]):
    """The batches of a whole run, as lists of (epoch, index), in one pass of the loader.

    The samples of a run are the epochs' permutations, each a function of (seed, epoch), laid end to end; step k
    takes the k-th `batch_size` of them, across the borders of epochs.  A run resumed at step k therefore sees
    exactly what an uninterrupted one would have seen.  Each of `world` processes takes its share of every batch.

    Args:
        length: training pictures.
        batch_size: pictures a step over all processes; a multiple of `world`.
        seed: of the order.
        start_step, total_steps: steps [start_step, total_steps) are given.
        rank, world: this process, and how many there are.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        start_step: int,
        total_steps: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if length < 1:
            raise SegfocusError("training split: expected pictures, got none")
        if batch_size < 1 or batch_size % world:
            raise SegfocusError(
                f"data.batch_size: expected a multiple of the {world} processes, got {batch_size}; "
                f"try {max(1, batch_size // world) * world}"
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.total_steps = total_steps
        self.rank = rank
        self.world = world

    @property
    def steps_per_epoch(self) -> float:
        """Steps that one pass over the pictures takes, not rounded."""
        return self.length / self.batch_size

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        for step in range(self.start_step, self.total_steps):
            batch = []
            for position in range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world):
                epoch, place = divmod(position, self.length)
                if epoch not in orders:
                    # A batch can span several epochs of a tiny dataset; those before its first are done with.
                    orders = {known: order for known, order in orders.items() if known >= epoch - 1}
                    orders[epoch] = epoch_order(self.length, self.seed, epoch)
                batch.append((epoch, int(orders[epoch][place])))
            yield batch


class ShardSampler(Sampler[int]):
    """Every `world`-th index from `rank` on: shards may differ in length by one, and no picture is repeated."""

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, length, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class OneLineLoader(DataLoader):
    """A DataLoader whose workers' SegfocusErrors arrive as the one line they were raised with.

    torch hands on the text of the worker's whole traceback instead.
    """

    def __iter__(self) -> Any:
        try:
            yield from super().__iter__()
        except SegfocusError as error:
            marker = f"{SegfocusError.__module__}.{SegfocusError.__qualname__}: "
            raise SegfocusError(str(error).rpartition(marker)[2].strip()) from None


class SegmentationData(lightning.LightningDataModule):
    """Training and validation loaders of a recipe's data section.

    `start_step` and `total_steps` are set before fit; with `total_steps` 0 the training loader gives one epoch.
    The Trainer needs `use_distributed_sampler=False`: both loaders divide their pictures themselves.

    Args:
        config: the recipe's data section.
        seed: of order and augmentation.
    """

    def __init__(self, config: DataConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.start_step = 0
        self.total_steps = 0
        self._train_dataset: SegmentationDataset | None = None
        self._val_dataset: SegmentationDataset | None = None
        self._classes: Classes | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find the files (once).

        Raises:
            SegfocusError: what is wrong with the files, or pictures of several sizes and no `data.crop`.
        """
        if self._train_dataset is not None:
            return
        config = self.config
        transform = training_transform(config)
        train = open_dataset(config, config.train_split, transform, self.seed, self.classes)
        sized = config.crop is not None or (config.name == "maps" and config.resize is not None)
        if not sized and config.batch_size > 1 and not train.one_size():
            raise SegfocusError(
                "training pictures: expected one size for all, got several; try --data.crop HEIGHT WIDTH"
            )
        self._val_dataset = open_dataset(config, config.val_split, None, self.seed, self.classes)
        self._train_dataset = train

    @property
    def classes(self) -> Classes:
        if self._classes is None:
            self._classes = dataset_classes(self.config)
        return self._classes

    @property
    def train_dataset(self) -> SegmentationDataset:
        self.setup()
        assert self._train_dataset is not None
        return self._train_dataset

    @property
    def val_dataset(self) -> SegmentationDataset:
        self.setup()
        assert self._val_dataset is not None
        return self._val_dataset

    @property
    def steps_per_epoch(self) -> float:
        """Steps that one pass over the training pictures takes, not rounded."""
        return len(self.train_dataset) / self.config.batch_size

    def train_dataloader(self) -> DataLoader:
        """Batches of this process from `start_step` to `total_steps`: image, target, name."""
        rank, world = self._place()
        total = self.total_steps or self.start_step + math.ceil(self.steps_per_epoch)
        sampler = RunBatchSampler(
            len(self.train_dataset), self.config.batch_size, self.seed, self.start_step, total, rank, world
        )
        return self._loader(self.train_dataset, sampler)

    def val_dataloader(self) -> DataLoader:
        """This process's share of the validation pictures, one by one, at their own size, in order."""
        shard = ShardSampler(len(self.val_dataset), *self._place())
        # one by one: a logit's last bits can depend on its batch, and batches would on the number of processes
        return self._loader(self.val_dataset, BatchSampler(shard, 1, drop_last=False))

    def _loader(self, dataset: SegmentationDataset, batches: Sampler[list]) -> DataLoader:
        workers = self.config.workers
        return OneLineLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
        )

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Permutation of 0..length-1 for an epoch, a function of (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(length)


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # a worker is one process a core: threads of its own would only contend
