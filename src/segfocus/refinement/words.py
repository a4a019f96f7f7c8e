"""What the words of the leaderboard mean."""

from __future__ import annotations

from segfocus.report.definitions import DEFINITIONS as SCORES
from segfocus.report.definitions import Definition

DEFINITIONS: dict[str, Definition] = {
    "foreground_iou": Definition(
        "Foreground IoU",
        "Intersection over union of the foreground, the pixels of all pictures pooled before dividing.",
    ),
    "miou": SCORES["miou"],
    "interval": SCORES["interval"],
    "difference": SCORES["difference"],
    "boundary_iou": SCORES["boundary_iou"],
    "mae": Definition(
        "MAE", "Mean over all labelled pixels of the distance between the foreground's probability and the truth."
    ),
    "ece": Definition(
        "ECE",
        "Expected calibration error: how far confidence and accuracy lie apart, over 15 bins of the confidence.",
        "Guo et al., ICML 2017",
    ),
    "harm_rate": Definition(
        "Harm rate", "Of the pixels that were right in the base, the share that the refiner makes wrong."
    ),
    "fixed_rate": Definition(
        "Fixed rate", "Of the pixels that were wrong in the base, the share that the refiner makes right."
    ),
    "oracle": Definition(
        "Oracle",
        "Thresholds of patches chosen by the truth of the very pictures that are scored: no method, but the most that "
        "such thresholds can do. Of three and more classes: the bias of each class in each patch, found one class at a "
        "time for most right pixels.",
    ),
    "control": Definition(
        "Without thresholds",
        "The same network, trained as long on the true mask alone. What thresholds add is what ThreshNet has beyond "
        "it; the rest comes from training any network on the maps.",
    ),
    "milliseconds": Definition(
        "ms/Mpx",
        "Time to refine one map in memory, scaled to a million pixels: the median over all pictures after a first one "
        "that does not count. Reading and writing files is left out.",
    ),
    "memory": Definition(
        "Peak memory",
        "What refining the largest map takes beyond the loaded network, at its peak, in a process of its own: resident "
        "memory on a processor, allocated memory on an accelerator.",
    ),
    "parameters": Definition("Parameters", "Numbers that training or counting has found."),
}
"""key -> name and text, in the order of the page"""
