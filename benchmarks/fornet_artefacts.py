"""Does choosing blocks leave seams?  And are predictions the same when the picture moves by a few pixels?

python benchmarks/fornet_artefacts.py CHECKPOINT --root CAMVID   -> results/fornet_artefacts.json

Seams: mean step of the logits between neighbouring cells (stride 4) of which one is refined and the other not, as a
share of the step that the same network has at the same places when everything is refined (1: no seam); and the share
of those places where the label changes.  With the mask on the branches' output (ours), with a feathered mask (its
weight rises over two cells), and with the mask on the input (released; the same weights).
Consistency: share of pixels within 8 px of a true boundary between classes (void and the frame are none) whose label
is the same after moving the picture by 1 to 7 px and moving the prediction back.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from record import record
from torch.nn import functional
from tqdm import tqdm

from segfocus.checkpoint import load
from segfocus.data import open_dataset
from segfocus.methods.fornet import FINE
from segfocus.methods.fornet_selection import Selection
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.importance import boundary_pixels
from segfocus.metrics.scores import Counts
from segfocus.ops.resample import enlarge

SHARE = 0.25
SHIFTS = range(1, 8)
BAND = 8


def feathered(selection: Selection) -> Selection:
    """The same regions with a weight that rises from 1/3 at their border to 1 two cells inside."""
    mask = selection.mask.float()
    near = [-functional.max_pool2d(-functional.pad(mask, (r,) * 4, value=1.0), 2 * r + 1, 1) for r in (1, 2)]
    return replace(selection, importance=(mask + near[0] + near[1]) / 3, gradient="gate", fills=False)


def steps(logits: torch.Tensor, border: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float, int]:
    """Sum of the steps across the border, places where the label changes, and their number."""
    labels = logits.argmax(1, keepdim=True)
    total, changed, count = 0.0, 0.0, 0
    for dim, edge in zip((2, 3), border, strict=True):
        total += float((logits.diff(dim=dim).abs().mean(1, keepdim=True) * edge).sum())
        changed += float(((labels.diff(dim=dim) != 0) & edge).sum())
        count += int(edge.sum())
    return total, changed, count


@torch.inference_mode()
def seams(network: Any, dataset: Any, classes: Any) -> dict[str, Any]:
    ways = ("everything refined", "no focus", "mask on the output", "feathered mask", "mask on the input")
    found = {way: np.zeros(3) for way in ways}
    scores = {way: Counts(classes.num_classes, (1, 3, 5), ()) for way in ways}
    select = network.select
    for index in tqdm(range(len(dataset)), "seams"):
        picture, target = dataset.read(index)
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        network.focus(SHARE)
        selected = network.maps(image).extras["selected"].float()
        fine = selected.repeat_interleave(2, 2).repeat_interleave(2, 3)
        border = (fine.diff(dim=2) != 0, fine.diff(dim=3) != 0)
        for way in ways:
            network.focus({"everything refined": 1.0, "no focus": 0.0}.get(way, SHARE))
            network.mask_position = "input" if way == "mask on the input" else "output"
            if way == "feathered mask":
                network.select = lambda importance, cells: [feathered(one) for one in select(importance, cells)]
            logits = network.maps(image).logits
            network.select = select
            labels = enlarge(logits, FINE, 1, target.shape).argmax(1)[0].numpy().astype(np.uint8)
            scores[way].add(Comparison(target, labels, classes.num_classes, name=dataset.pairs[index].name))
            found[way] += steps(logits[..., : fine.shape[-2], : fine.shape[-1]], border)
    network.mask_position = "output"
    whole = found["everything refined"]
    return {
        way: {
            "step_of_everything_refined": round(float(total / whole[0]), 4),
            "label_changes_share": round(float(changed / count), 4),
            "places": int(count),
            **{key: scores[way].summary(classes)[key] for key in ("miou", "boundary_iou")},
        }
        for way, (total, changed, count) in found.items()
    }


@torch.inference_mode()
def consistency(network: Any, dataset: Any) -> dict[str, float]:
    same: dict[float, np.ndarray] = {share: np.zeros(2) for share in (0.0, SHARE, 1.0)}
    for index in tqdm(range(0, len(dataset), 4), "shifts"):
        picture, target = dataset.read(index)
        away = cv2.distanceTransform((~boundary_pixels(target)).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        near = torch.from_numpy((away <= BAND) & (target != 255))
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        for share, counts in same.items():
            network.focus(share)
            still = network(image).labels()[0]
            for shift in SHIFTS:
                moved = network(image[..., shift:, shift:]).labels()[0]
                inside = near[shift:, shift:]
                agree = moved == still[shift:, shift:]
                counts += (float((agree & inside).sum()), float(inside.sum()))
    return {f"K = {share:g}": round(float(agree / total), 5) for share, (agree, total) in same.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--root", required=True)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    loaded = load(arguments.checkpoint)
    network: Any = loaded.model
    network.execution = "dense"
    loaded.recipe.data.root = arguments.root
    dataset = open_dataset(loaded.recipe.data, "val", classes=loaded.classes)
    results = {
        "k": SHARE,
        "seams": seams(network, dataset, loaded.classes),
        "consistency": consistency(network, dataset),
    }
    print(results)
    note = f"one trained network; CamVid val, seams of all 101 pictures, shifts of every fourth. {arguments.note}"
    record("fornet_artefacts", results, seeds=[0], note=note.strip())


if __name__ == "__main__":
    main()
