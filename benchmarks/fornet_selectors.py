"""Does FoR-Net's importance find what matters?  Every selector on ONE trained network.

python benchmarks/fornet_selectors.py CHECKPOINT --root CAMVID --steps N   -> results/fornet_selectors.json

Learned selectors (boundary, error, loss) are trained here, alike and at once: N steps on the network's own features,
which do not change; seeds 0, 1, 2.  The others learn nothing.  Then, on CamVid val:
  recall@K of boundary pixels, of wrong pixels of the prediction without focus, and of thin pixels; what each selector
  finds more than entropy and than chance (paired bootstrap over pictures, 95 %);
  mIoU and Boundary IoU of the network when this selector chooses its regions, for each K.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import torch
from record import record
from tqdm import tqdm

from segfocus.checkpoint import load
from segfocus.data import open_dataset
from segfocus.losses import boundary_cross_entropy
from segfocus.methods.fornet_selectors import CELL, SELECTORS, Evidence, LearnedSelector
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.importance import AMOUNTS, sought_pixels
from segfocus.metrics.region_recall import (
    RATIOS,
    paired_recall_intervals,
    recall_counts,
    recall_scores,
    region_scores,
    region_side,
    region_sums,
)
from segfocus.metrics.scores import Counts
from segfocus.ops.resample import enlarge

SEEDS = (0, 1, 2)
SHARES = (0.05, 0.1, 0.25, 0.5)
ADAPTIVE = (0.5, 0.7, 0.8, 0.9)
"""shares of the importance"""
LEARNED = tuple(name for name, kind in SELECTORS.items() if issubclass(kind, LearnedSelector))


def trained_selectors(network: Any, recipe: Any, steps: int) -> dict[str, list[Any]]:
    """Selectors that learned on the network's features, by name, one a seed; all see the same pictures."""
    from segfocus.data.module import SegmentationData

    hidden = network.selector.spatial[0].out_channels
    channels = network.selector.spatial[0].in_channels
    found: dict[str, list[Any]] = {name: [] for name in LEARNED}
    for seed in SEEDS:
        for name in LEARNED:
            torch.manual_seed(seed)
            found[name].append(SELECTORS[name](channels, hidden).train())  # pyright: ignore[reportCallIssue]
    every = [selector for selectors in found.values() for selector in selectors]
    optimizer = torch.optim.AdamW([p for selector in every for p in selector.parameters()], 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    data = SegmentationData(recipe.data, seed=0)
    data.setup("fit")
    data.total_steps = steps
    for batch in tqdm(data.train_dataloader(), "selectors", total=steps):
        image, target = batch["image"].contiguous(memory_format=torch.channels_last), batch["target"]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features = network.features(image)[0]
            base = network.auxiliary(features).float()
        features = features.float()
        loss = torch.zeros(())
        for selector in every:
            wanted, labelled = selector.target(target, base)
            logits = selector.logits(features)[..., : wanted.shape[-2], : wanted.shape[-1]]
            loss = loss + boundary_cross_entropy(logits, wanted, labelled)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for selector in every:
        selector.eval()
    return found


@torch.inference_mode()
def measure(network: Any, selectors: dict[str, Any], dataset: Any, classes: int) -> dict[str, Any]:
    """Recall counts of each picture, and scores of the network for each selector and K."""
    torch.manual_seed(0)
    counts: dict[str, dict[str, Any]] = {name: {} for name in selectors}
    tallies: dict[tuple[str, float], Counts] = {}
    refined: dict[float, list[float]] = {}
    for index in tqdm(range(len(dataset)), "val"):
        picture, target = dataset.read(index)
        name, size = dataset.pairs[index].name, target.shape
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        image = image.contiguous(memory_format=torch.channels_last)
        truth = torch.from_numpy(np.asarray(target)).long()[None]
        features = network.features(image)[0]
        base = network.auxiliary(features)
        before = enlarge(base, CELL, 1, size)[0].argmax(0).numpy().astype(np.uint8)
        sought = sought_pixels(Comparison(np.asarray(target), before, classes, name=name))
        for kind, selector in selectors.items():
            importance = selector(Evidence(image, features, base, truth))
            rows, columns = -(-size[0] // CELL), -(-size[1] // CELL)
            grid = importance[0, 0, :rows, :columns].numpy()
            side = region_side(grid.shape, size)
            amounts = {key: region_sums(mask, side) for key, mask in sought.items()}
            counts[kind][name] = recall_counts(region_scores(grid, size), amounts, RATIOS)
            network.selector = selector
            for share in SHARES:
                network.focus(share)
                labels = network(image, truth=truth).labels()[0].numpy().astype(np.uint8)
                add(tallies, (kind, share), target, labels, classes, name)
        network.selector = selectors["own"]
        for share in ADAPTIVE:
            network.focus(adaptive=share)
            output = network(image)
            refined.setdefault(share, []).append(float(output.selected.float().mean()))
            add(tallies, ("adaptive", share), target, output.labels()[0].numpy().astype(np.uint8), classes, name)
        for share in (0.0, 1.0):
            network.focus(share)
            labels = network(image, truth=truth).labels()[0].numpy().astype(np.uint8)
            add(tallies, ("any", share), target, labels, classes, name)
    return {"counts": counts, "tallies": tallies, "refined": refined}


def add(tallies: dict[Any, Counts], key: Any, target: Any, labels: Any, classes: int, name: str) -> None:
    tally = tallies.setdefault(key, Counts(classes, (1, 3, 5), ()))
    tally.add(Comparison(np.asarray(target), labels, classes, name=name))


def summed(counts: dict[str, Any]) -> dict[str, Any]:
    """The recalls of all pictures together."""
    first = next(iter(counts.values()))
    total = {key: sum(one[key] for one in counts.values()) for key in first}
    return recall_scores(total, AMOUNTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--root", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    loaded = load(arguments.checkpoint)
    network: Any = loaded.model
    loaded.recipe.data.root = arguments.root
    own = network.selector
    learned = trained_selectors(network, loaded.recipe, arguments.steps)
    selectors: dict[str, Any] = {"own": own}
    selectors |= {
        f"{name} {seed}": one for name, ones in learned.items() for seed, one in zip(SEEDS, ones, strict=True)
    }
    # chance draws anew for every picture in training alone; one fixed draw is luck
    selectors |= {name: kind().train(name == "random") for name, kind in SELECTORS.items() if name not in LEARNED}
    dataset = open_dataset(loaded.recipe.data, "val", classes=loaded.classes)
    found = measure(network, selectors, dataset, loaded.classes.num_classes)
    rows: dict[str, Any] = {}
    for kind in selectors:
        per_share = {f"{share:g}": found["tallies"][kind, share].summary(loaded.classes) for share in SHARES}
        rows[kind] = {
            "recall": summed(found["counts"][kind]),
            "miou": {share: scores["miou"] for share, scores in per_share.items()},
            "boundary_iou_3": {share: scores["boundary_iou"]["3"] for share, scores in per_share.items()},
            "more_than": {
                rival: paired_recall_intervals(found["counts"][rival], found["counts"][kind], AMOUNTS)
                for rival in ("entropy", "random")
                if rival != kind
            },
        }
    for name in LEARNED:
        runs = [rows[f"{name} {seed}"] for seed in SEEDS]
        rows[name] = {
            "seeds": len(runs),
            "miou": {share: spread([run["miou"][share] for run in runs]) for share in runs[0]["miou"]},
            "boundary_iou_3": {
                share: spread([run["boundary_iou_3"][share] for run in runs]) for share in runs[0]["miou"]
            },
            "recall": {
                amount: [
                    spread([run["recall"][amount]["recall"][place] for run in runs]) for place in range(len(RATIOS))
                ]
                for amount in AMOUNTS
            },
        }
    ends = {f"{share:g}": found["tallies"]["any", share].summary(loaded.classes) for share in (0.0, 1.0)}
    adaptive = {}
    for share in ADAPTIVE:
        scores, shares = found["tallies"]["adaptive", share].summary(loaded.classes), found["refined"][share]
        adaptive[f"{share:g}"] = {
            "miou": scores["miou"],
            "boundary_iou": scores["boundary_iou"],
            "refined": {"mean": statistics.mean(shares), "least": min(shares), "most": max(shares)},
        }
    results = {
        "ratios": list(RATIOS),
        "shares": list(SHARES),
        "steps": arguments.steps,
        "no_focus": {"miou": ends["0"]["miou"], "boundary_iou": ends["0"]["boundary_iou"]},
        "adaptive": adaptive,
        "everything": {"miou": ends["1"]["miou"], "boundary_iou": ends["1"]["boundary_iou"]},
        "selectors": rows,
    }
    note = (
        "one network, its selection replaced; 'own': the selector it was trained with; learned selectors: "
        f"{arguments.steps} steps of batch 8 on fixed features, mean and standard deviation of 3 seeds; errors: of the "
        "auxiliary head's prediction, which knows no focus; CamVid val (101 pictures, one clip); regions of 32 px. "
        f"{arguments.note}"
    )
    record("fornet_selectors", results, seeds=list(SEEDS), note=note.strip())


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": round(statistics.mean(values), 5), "sd": round(statistics.stdev(values), 5)}


if __name__ == "__main__":
    main()
