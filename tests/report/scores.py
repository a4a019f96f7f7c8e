"""A scores dictionary with every section of the report, made by hand for three classes."""

from __future__ import annotations

from typing import Any

from segfocus.data.classes import Classes

CLASSES = Classes.from_dict(
    {
        "classes": {
            0: {"name": "ground", "category": "flat"},
            1: {"name": "<b>wall</b>", "category": "built"},
            2: {"name": "pole", "thin": True, "category": "built"},
        }
    }
)
NAMES = list(CLASSES.names)
BINS = {
    "distance": ["1", "2", "3-4", "5-8", "9-16", ">16"],
    "thickness": ["1-2", "3-4", "5-8", "9-16", "17-32", ">32"],
    "component_size": ["1-16", "17-64", "65-256", "257-1024", "1025-9216", ">9216"],
}


def by_name(*values: Any) -> dict[str, Any]:
    return dict(zip(NAMES, values, strict=True))


def partition(bins: list[str]) -> dict[str, Any]:
    return {
        "bins": bins,
        "pixels": [0.06, 0.05, 0.09, 0.15, 0.25, 0.4],
        "error_share": [0.36, 0.2, 0.18, 0.12, 0.09, 0.05],
        "error_rate": [0.35, 0.25, 0.12, 0.06, 0.03, 0.01],
        "miou": [0.42, 0.55, 0.66, 0.74, 0.75, None],
        "iou_per_class": by_name([0.5] * 6, [0.4] * 6, [0.1, 0.2, None, None, None, None]),
        "recall_per_class": by_name([0.6] * 6, [0.5] * 6, [0.14, 0.3, None, None, None, None]),
    }


def full_scores() -> dict[str, Any]:
    """Fresh copy: tests may take keys away."""
    regions = {name: partition(bins) for name, bins in BINS.items()}
    regions["component_size"]["count_per_class"] = by_name([40] * 6, [20] * 6, [9, 9, 0, 0, 0, 0])
    regions["component_size"]["found_per_class"] = by_name([0.5] * 6, [0.25] * 6, [0.1, 0.2] + [None] * 4)
    per_class = by_name(0.9, 0.8, 0.1)
    return {
        "miou": 0.6,
        "per_class": per_class,
        "pixel_accuracy": 0.91,
        "mean_accuracy": 0.7,
        "frequency_weighted_iou": 0.85,
        "boundary_iou": {"1": 0.2, "3": 0.4, "2%": 0.5},
        "boundary_iou_per_class": dict.fromkeys(("1", "3", "2%"), per_class),
        "category_miou": 0.81,
        "per_category": {"flat": 0.9, "built": 0.72},
        "regions": regions,
        "trimap": {"miou": {"1": 0.41, "2": 0.5}, "accuracy": {"1": 0.6, "2": 0.7}},
        "boundary_f": {"1": 0.3, "3": 0.62},
        "boundary_f_per_class": {"3": by_name(0.7, 0.6, 0.5)},
        "mba": 0.63,
        "thin": {"pole": {"cldice": 0.176, "topology_precision": 0.196, "topology_sensitivity": 0.159}},
        "instance": {
            "iiou": 0.33,
            "per_class": by_name(None, 0.4, 0.25),
            "category_iiou": 0.35,
            "per_category": {"built": 0.35},
            "mean_sizes": {"pole": 410.5, "<b>wall</b>": 9000.0},
            "sizes_from": "the truth given",
        },
        "calibration": {
            "ece": 0.031, "brier": 0.1234, "nll": 0.2345, "mean_confidence": 0.964, "accuracy": 0.933,
            "bins": [{"confidence": None, "accuracy": None, "share": 0.0}]
            + [{"confidence": (i + 0.5) / 15, "accuracy": i / 15, "share": 1 / 14} for i in range(1, 15)],
            "per_distance": {
                "bins": BINS["distance"], "ece": [0.2, 0.1, 0.05, 0.03, 0.01, None],
                "accuracy": [0.63, 0.77, 0.87, 0.94, 0.97, None], "confidence": [0.82, 0.87, 0.92, 0.96, 0.99, None],
            },
        },
        "intervals": {
            "level": 0.95, "replicates": 1000, "n_pictures": 5, "miou": [0.58, 0.625], "pixel_accuracy": [0.9, 0.92],
            "per_class": by_name([0.88, 0.92], [0.7, 0.85], None), "boundary_iou": {"3": [0.38, 0.43]},
        },
        "headroom": {
            "distance": 3,
            "base": {"miou": 0.6, "boundary_iou": 0.4, "pixel_accuracy": 0.91},
            "rows": [
                {"idea": idea, "variant": variant, "budget": budget, "miou": 0.6 + gain, "boundary_iou": 0.4 + gain,
                 "pixel_accuracy": 0.92}
                for idea, variant, budget, gain in (
                    ("fornet", "truth", "5 %", 0.1), ("fornet", "truth", "10 %", 0.17),
                    ("fornet", "entropy", "5 %", 0.05), ("fornet", "entropy", "10 %", 0.09),
                    ("ovenet", "truth", "0 px", 0.0), ("ovenet", "truth", "4 px", 0.08),
                    ("ranet", "vote", "true regions", 0.07), ("ranet", "vote where right", "true regions", 0.11),
                    ("threshnet", "class bias", "whole picture", 0.01),
                    ("threshnet", "class bias", "64 px patches", 0.06),
                )
            ],
        },
        "importance": {
            "region": 32, "ratios": [0.1, 0.25, 0.5], "n_pictures": 5, "correlation": 0.625, "correlated": 5,
            "amounts": {
                "boundary": {"total": 4000, "recall": [0.21, 0.45, 0.7], "best": [0.3, 0.6, 0.9],
                             "chance": [0.1, 0.25, 0.5], "gain": [0.55, 0.57, 0.5], "area": 0.65, "best_area": 0.75},
                "error": {"total": 900, "recall": [0.34, 0.55, 0.8], "best": [0.5, 0.75, 0.95],
                          "chance": [0.1, 0.25, 0.5], "gain": [0.6, 0.6, 0.67], "area": 0.7, "best_area": 0.85},
                "thin": {"total": 0, "recall": [None] * 3, "best": [None] * 3, "chance": [None] * 3,
                         "gain": [None] * 3, "area": None, "best_area": None},
            },
        },
        "measured": [
            {"name": "<i>smooth</i>", "miou": 0.612, "boundary_iou": {"3": 0.45}, "pixel_accuracy": 0.9,
             "gain": {"miou": {"value": 0.012, "interval": [0.004, 0.02]}}}
        ],
        "baseline": {
            "title": "<u>old</u>",
            "scores": {"miou": 0.58, "pixel_accuracy": 0.905, "boundary_iou": {"3": 0.36}},
            "difference": {
                "miou": {"value": 0.02, "interval": [0.011, 0.034]},
                "pixel_accuracy": {"value": 0.005, "interval": [-0.002, 0.012]},
                "boundary_iou": {"3": {"value": 0.04, "interval": None}},
                "per_class": by_name(
                    {"value": 0.003, "interval": [-0.01, 0.02]},
                    {"value": -0.02, "interval": [-0.03, -0.01]},
                    {"value": 0.077, "interval": [0.05, 0.1]},
                ),
            },
            "changed": {
                "fixed": 1200, "broken": 300, "still_wrong": 50,
                "per_class": by_name(
                    {"fixed": 1000, "broken": 0, "still_wrong": 5},
                    {"fixed": 100, "broken": 300, "still_wrong": 40},
                    {"fixed": 100, "broken": 0, "still_wrong": 5},
                ),
                "per_region": {
                    name: {"bins": bins, "fixed": [1000, 100, 50, 50, 0, 0], "broken": [0, 100, 200, 0, 0, 0]}
                    for name, bins in BINS.items()
                },
            },
        },
        "failures": ["val/<img src=x>.png: cannot be decoded"],
        "left_out": {"binary": "no two-class task"},
        "classes": NAMES,
        "n_pictures": 5,
        "ignore": 255,
    }  # fmt: skip
