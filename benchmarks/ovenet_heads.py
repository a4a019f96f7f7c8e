"""Heads on a frozen base for `ovenet_camvid.py`: its maps once, the rows, their training and their scores."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as pictures

from segfocus.data import open_dataset
from segfocus.data.dataset import SegmentationDataset
from segfocus.data.transforms import training_transform
from segfocus.losses import cross_entropy
from segfocus.methods.base import Base, BaseMaps
from segfocus.methods.ovenet import OVeNet
from segfocus.metrics import Comparison, Suite
from segfocus.ops.resample import enlarge, resize
from segfocus.output import Output, logit_channels
from segfocus.recipe import OptimizerConfig
from segfocus.training.optim import build_optimizer, learning_rate_factor, set_learning_rate

STRIDE = 4
BATCH = 8
HIDDEN, DEPTH = 32, 2
TAU = 0.25
"""longest offset in normalised units; the pixel rows have the same reach at the size of training"""
OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=2e-3, weight_decay=0.02, warmup_steps=50)
SCALES = {"1x": 1, "2x": 2}
OFFSETS = "OVeNet, pixel units"
RESIDUAL = "(b) residual logits from a head of the same size"
FIXED = "(c) confidence fixed to 1"
ROWS: dict[str, dict[str, Any]] = {
    OFFSETS: {},
    RESIDUAL: {},
    FIXED: {"fused_weight": 0.0, "seed_weight": 1.0, "confidence_weight": 0.0},
    "(d) no confidence loss": {"confidence_weight": 0.0},
    "(e) normalised units": {"units": "normalized", "tau": TAU},
}
BASE = "(a) base alone"


class KnownBase(Base):
    """Stands for a base whose maps were computed before: says what they are like, so that a head can be built."""

    stride = feature_stride = STRIDE

    def __init__(self, num_classes: int, feature_channels: int) -> None:
        super().__init__()
        self.num_classes, self.feature_channels = num_classes, feature_channels

    def maps(self, image: Tensor, branch_stage: int | None = None) -> BaseMaps:
        raise NotImplementedError("its maps are in a Cache")


class ResidualHead(nn.Module):
    """Control (b): the offset head with one output a class, added to the logits (zero at the start)."""

    def __init__(self, offset_head: OVeNet, class_weights: list[float] | None) -> None:
        super().__init__()
        self.base = offset_head.base
        self.trunk, self.head = offset_head.trunk, offset_head.head
        last = [module for module in self.head.modules() if isinstance(module, nn.Conv2d)][-1]
        last.weight = nn.Parameter(last.weight.new_zeros(logit_channels(self.base.num_classes), *last.weight.shape[1:]))
        last.bias = nn.Parameter(last.weight.new_zeros(len(last.weight)))
        last.out_channels = len(last.weight)
        self.weights = None if class_weights is None else torch.tensor(class_weights)

    def forward(self, image: Tensor) -> Output:
        with torch.no_grad():
            maps = self.base.maps(image)
        return self.fuse(maps, (image.shape[-2], image.shape[-1]))

    def fuse(self, maps: BaseMaps, size: tuple[int, int]) -> Output:
        residual = self.head(self.trunk(maps.features))
        return Output(logits=enlarge(maps.logits + residual.to(maps.logits.dtype), STRIDE, 1, size))

    def loss(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        return {"fused": cross_entropy(output.logits, target, class_weights=self.weights)}


def build_head(name: str, base: Base, class_weights: list[float] | None, size: tuple[int, int]) -> Any:
    """The head of a row on a base; `size` of the training pictures fixes the pixel units' reach."""
    reach = [TAU * (length - STRIDE) / 2 for length in (size[1], size[0])]  # a grid of n cells spans n - 1 of them
    options = {"trunk": "convs", "hidden": HIDDEN, "depth": DEPTH, "max_offset": reach, "frozen": True, **ROWS[name]}
    head = OVeNet(base, base.num_classes, class_weights=class_weights, **options)
    return ResidualHead(head, class_weights) if name == RESIDUAL else head


@dataclass
class Cache:
    """What a frozen base gives for pictures of one size."""

    logits: Tensor
    """float16 [n, classes, h, w]"""
    features: Tensor
    """float16 [n, channels, h, w]"""
    targets: Tensor
    """uint8 [n, height, width] of the picture as stored, 255 = void"""
    size: tuple[int, int]
    """of the picture that the base saw"""

    def batch(self, index: Any) -> tuple[BaseMaps, Tensor]:
        logits, features = (
            maps[index].float().contiguous(memory_format=torch.channels_last) for maps in (self.logits, self.features)
        )
        return BaseMaps(logits, features), self.targets[index].long()


@torch.no_grad()
def cache(network: Any, samples: Iterable[tuple[Tensor, Tensor]], factor: int = 1) -> Cache:
    """Maps of `network` for (picture, target), the picture enlarged `factor` times."""
    logits, features, targets, size = [], [], [], (0, 0)
    for image, target in samples:
        size = (factor * image.shape[-2], factor * image.shape[-1])
        maps = network.maps(resize(image[None], size).contiguous(memory_format=torch.channels_last))
        logits.append(maps.logits.half().contiguous())
        features.append(maps.features.half().contiguous())
        targets.append(target.to(torch.uint8))
    return Cache(torch.cat(logits), torch.cat(features), torch.stack(targets), size)


def training_samples(data: Any, seed: int, most: int, draws: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every picture as stored, mirrored, and `draws` times by the base's own augmentation."""
    stored = open_dataset(data, data.train_split)
    drawn = SegmentationDataset(stored.pairs, stored.classes, training_transform(data), seed)
    for index in range(min(len(stored), most)):
        sample = stored[index]
        yield sample["image"], sample["target"]
        yield pictures.horizontal_flip(sample["image"]), pictures.horizontal_flip(sample["target"])
        for epoch in range(draws):
            sample = drawn[epoch, index]
            yield sample["image"], sample["target"]


def train_head(head: Any, known: Cache, steps: int, seed: int) -> dict[str, Any]:
    """Train on the cache; all rows see the same batches.  Returns the seconds and the last mean loss terms."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [
            torch.randperm(len(known.targets), generator=generator)
            for _ in range(1 + steps * BATCH // len(known.targets))
        ]
    )
    optimizer = build_optimizer(head, OPTIMIZER, fused=True)
    head.train()
    start, late = time.perf_counter(), []
    for step in range(steps):
        set_learning_rate(optimizer, learning_rate_factor(step, steps, OPTIMIZER))
        maps, target = known.batch(order[step * BATCH : (step + 1) * BATCH])
        terms = head.loss(head.fuse(maps, known.size), target)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(head.parameters(), OPTIMIZER.clip_norm)
        optimizer.step()
        if step >= steps - max(1, steps // 10):
            late.append({name: float(value.detach()) for name, value in terms.items()})
    means = {name: round(statistics.mean(row[name] for row in late), 4) for name in late[0]}
    return {"seconds": round(time.perf_counter() - start, 1), "loss": means}


def labels_of(logits: Tensor, stride: int, seen: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """uint8 train ids at the picture's own size, from logits of what the network saw."""
    full = resize(enlarge(logits.float(), stride, 1, seen), size)
    return full[0].max(0).indices.to(torch.uint8).numpy()  # four times as fast as argmax where channels come first


class Scores:
    """Suites of a network's outputs, each against the prediction S_i of the same network at the same size."""

    def __init__(self, classes: Any, names: Iterable[str]) -> None:
        self.classes = classes
        self.suites = {name: Suite(classes, ["regions", "thin"], (3,), baseline=True) for name in names}

    def add(self, target: np.ndarray, initial: np.ndarray, predictions: dict[str, np.ndarray]) -> None:
        for name, prediction in predictions.items():
            self.suites[name].add(Comparison(target, prediction, self.classes.num_classes, baseline=initial))

    def summary(self) -> dict[str, dict[str, float]]:
        found = {}
        for name, suite in self.suites.items():
            values, pole = suite.summary(), self.classes.names.index("pole")
            truth, confusion = suite.overlap.confusion.sum(), suite.overlap.confusion
            slim = suite.tallies["regions"].counts["thickness"][:2].sum(0)  # parts at most 4 px thick
            found[name] = {
                "miou": values["miou"],
                "boundary_iou_3": values["boundary_iou"]["3"],
                "pole_iou": values["per_class"]["pole"],
                "pole_recall": confusion[pole, pole] / confusion[pole].sum(),
                "pole_skeleton_recall": values["thin"]["pole"]["topology_sensitivity"],
                "recall_to_4_px_thick": slim.trace() / slim.sum(),
                "fixed_percent": 100 * values["changed"]["fixed"] / truth,
                "broken_percent": 100 * values["changed"]["broken"] / truth,
            }
            found[name] = {key: round(float(value or 0), 5) for key, value in found[name].items()}
        return found


@torch.no_grad()
def score_head(head: Any, known: Cache, classes: Any, name: str) -> dict[str, Any]:
    """Scores of a row's fused and, with offsets, seed prediction; mean offset length (px) and confidence."""
    head.eval()
    size = (known.targets.shape[-2], known.targets.shape[-1])
    scores, lengths, trust = None, [], []
    for index in range(len(known.targets)):
        maps, target = known.batch(slice(index, index + 1))
        output = head.fuse(maps, known.size)
        predictions = {"fused": labels_of(output.logits, 1, known.size, size)}
        initial = labels_of(maps.logits, STRIDE, known.size, size)
        if output.offsets is not None:
            predictions["seed"] = labels_of(output.aux_logits["seed"], STRIDE, known.size, size)
            lengths.append(output.offsets.norm(dim=1).mean().item())
            trust.append(output.confidence.mean().item())
            if name == FIXED:
                predictions["fused"] = predictions.pop("seed")  # F = 1: S_f is S_s
        scores = scores or Scores(classes, predictions)
        scores.add(target[0].numpy().astype(np.uint8), initial, predictions)
    assert scores is not None
    found: dict[str, Any] = scores.summary()
    if lengths:
        found["mean_offset_px"] = round(statistics.mean(lengths), 2)
        found["mean_confidence"] = 1.0 if name == FIXED else round(statistics.mean(trust), 3)
    return found


def score_base(known: Cache, classes: Any) -> dict[str, Any]:
    """Scores of what the base predicts itself."""
    scores = Scores(classes, ["initial"])
    for index in range(len(known.targets)):
        maps, target = known.batch(slice(index, index + 1))
        initial = labels_of(maps.logits, STRIDE, known.size, (target.shape[-2], target.shape[-1]))
        scores.add(target[0].numpy().astype(np.uint8), initial, {"initial": initial})
    return scores.summary()
