"""Draws what the FoR-Net page shows from the committed results: benchmarks/results/fornet_*.json -> docs/methods/*.svg.

python benchmarks/fornet_plots.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from record import RESULTS

DOCS = Path(__file__).parents[1] / "docs" / "methods"
COLORS = {
    "own": "#0b6e4f",
    "boundary": "#1f9d73",
    "error": "#c2571a",
    "loss": "#d99a2b",
    "entropy": "#3a5fcd",
    "gradient": "#8d6cab",
    "random": "#888888",
    "truth": "#222222",
}
SHOWN = ("boundary", "error", "loss", "entropy", "gradient", "random", "truth")


def trunks(results: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots(1, 2)
    for panel, split in zip(axes, ("holdout", "val"), strict=True):
        for name, row in results["trunks"].items():
            if "accuracy" not in row or "cost" not in row:
                continue
            time, miou = row["cost"]["360x480"]["eager_ms"], 100 * row["accuracy"][split]["miou"]
            plain = row["backbone"] == "lite"
            panel.plot(time, miou, "o" if plain else "s", color="#0b6e4f" if plain else "#c2571a")
            panel.annotate(name, (time, miou), textcoords="offset points", xytext=(5, 4), fontsize=7)
        label(panel, "ms for 360x480, whole network", f"mIoU on {split}, %")
        panel.margins(0.2)


def selectors(results: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots(1, 3, sharey=True)
    ratios = [100 * ratio for ratio in results["ratios"]]
    for panel, amount in zip(axes, ("boundary", "error", "thin"), strict=True):
        for name in SHOWN:
            recall = results["selectors"][name]["recall"][amount]
            values = recall["recall"] if isinstance(recall, dict) else [item["mean"] for item in recall]
            panel.plot(ratios, [100 * value for value in values], "o-", ms=3, color=COLORS[name], label=name)
        best = results["selectors"]["entropy"]["recall"][amount]["best"]
        panel.plot(ratios, [100 * value for value in best], ":", color="#222222", label="best possible")
        label(panel, "K, % of the regions", f"{amount} pixels found, %" if amount != "error" else "errors found, %")
    axes[0].legend(fontsize=7, frameon=False)


def choice(results: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots(1, 2)
    shares = [f"{share:g}" for share in results["shares"]]
    ends = [(0, results["no_focus"]), (100, results["everything"])]
    for panel, key in zip(axes, ("miou", "boundary_iou_3"), strict=True):
        first, last = (100 * (end["miou"] if key == "miou" else end["boundary_iou"]["3"]) for _, end in ends)
        for name in ("own", "loss", "error", "entropy", "gradient", "random", "truth"):
            values = [results["selectors"][name][key][share] for share in shares]
            middle = [100 * (value["mean"] if isinstance(value, dict) else value) for value in values]
            steps = [0, *(100 * float(share) for share in shares), 100]
            panel.plot(steps, [first, *middle, last], "o-", ms=3, color=COLORS[name], label=name)
        label(panel, "K, % of the regions", {"miou": "mIoU, %", "boundary_iou_3": "Boundary IoU 3 px, %"}[key])
    axes[0].legend(fontsize=7, frameon=False)


def sparse(results: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots(1, 2)
    for panel, part in zip(axes, ("branches", "network"), strict=True):
        for (name, row), style in zip(results["sizes"].items(), ("o-", "o--", "s-", "s--"), strict=True):
            times = row[part]["of_dense"]
            panel.plot([100 * float(share) for share in times], list(times.values()), style, ms=3, label=name)
        goals = next(iter(results["sizes"].values()))[part]["goals"]
        panel.plot([100 * float(share) for share in goals], list(goals.values()), "rx", label="goal")
        panel.axhline(1, color="#bbbbbb", lw=0.8)
        label(panel, "K, % of the regions", f"time of the {part}, of dense")
        panel.set_ylim(bottom=0)
    axes[0].legend(fontsize=7, frameon=False)


def rows(results: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    names = list(results["rows"])
    for panel, key in zip(axes, ("miou", "boundary_iou_3"), strict=True):
        for place, name in enumerate(names):
            row = results["rows"][name]
            mean, spread = 100 * row["mean"][key], 100 * (row["standard_deviation"][key] or 0)
            panel.errorbar(mean, place, xerr=spread, fmt="o", color="#0b6e4f" if place == 0 else "#3a5fcd", capsize=3)
        panel.set_yticks(range(len(names)), names, fontsize=7)
        label(panel, {"miou": "mIoU, %", "boundary_iou_3": "Boundary IoU 3 px, %"}[key], "")
    axes[0].invert_yaxis()  # of both: they share it


def curves(results: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots(1, 2)
    for panel, key in zip(axes, ("val_miou", "val_boundary_iou_3"), strict=True):
        for name, row in results["rows"].items():
            points = row["curve"]
            minutes = [point["step"] / row["steps_per_minute"] for point in points]
            panel.plot(minutes, [100 * point[key] for point in points], label=name, lw=1.4)
        label(panel, "minutes of the budget", {"val_miou": "val mIoU, %"}.get(key, "val Boundary IoU 3 px, %"))
    axes[0].legend(fontsize=7, frameon=False)


def label(panel: Any, across: str, up: str) -> None:
    panel.set_xlabel(across, fontsize=8)
    panel.set_ylabel(up, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(color="#e6e6e6", lw=0.6)
    panel.spines[["top", "right"]].set_visible(False)


DRAWINGS: dict[str, tuple[str, Callable[[dict[str, Any], Figure], None]]] = {
    "fornet_trunks": ("fornet_trunks", trunks),
    "fornet_recall": ("fornet_selectors", selectors),
    "fornet_choice": ("fornet_selectors", choice),
    "fornet_sparse": ("fornet_sparse", sparse),
    "fornet_rows": ("fornet_rows", rows),
    "fornet_peers": ("fornet_peers", curves),
}
"""name of the drawing -> results it shows, and who draws it"""


def main() -> None:
    import matplotlib

    matplotlib.rcParams.update({"svg.hashsalt": "segfocus", "svg.fonttype": "none"})
    for name, (source, draw) in DRAWINGS.items():
        path = RESULTS / f"{source}.json"
        if not path.is_file():
            print(f"{name}: expected {path.name}, which is not there: not drawn")
            continue
        figure = Figure(figsize=(9.6 if name == "fornet_recall" else 8, 3.4), layout="constrained")
        figure.patch.set_facecolor("white")
        draw(json.loads(path.read_text()), figure)
        FigureCanvasSVG(figure).print_svg(DOCS / f"{name}.svg", metadata={"Date": None})
        print(f"{name}.svg")


if __name__ == "__main__":
    main()
