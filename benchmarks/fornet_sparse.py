"""What leaving regions out saves: time of FoR-Net's branches and of the whole network against the share K refined.

python benchmarks/fornet_sparse.py   -> results/fornet_sparse.json

All in one process, fp32, eager, batch 1, 2 threads, the package's allocator settings; the ways take turns of sixteen
calls each, whose second half is timed.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from record import record
from timing import medians

SIZES = ((360, 480), (512, 1024))
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
BLOCKS = (4, 8)
GOALS = {"branches": {0.1: 0.20, 0.25: 0.38, 0.5: 0.70}, "network": {0.25: 0.80}}
"""share K -> largest time, as a share of all regions' """


def fit(shares: list[float], times: list[float]) -> dict[str, float]:
    """The line through the times, and how much of their variance it explains."""
    slope, offset = statistics.linear_regression(shares, times)
    mean = statistics.mean(times)
    left = sum((time - offset - slope * share) ** 2 for share, time in zip(shares, times, strict=True))
    return {"offset": offset, "slope": slope, "r2": 1 - left / sum((time - mean) ** 2 for time in times)}


def measure(size: tuple[int, int], block: int, repeats: int) -> dict[str, Any]:
    import torch

    from segfocus.backbone import LiteBackbone
    from segfocus.inference.fold import fold_batch_norm
    from segfocus.methods.fornet import CELL, FoRNet
    from segfocus.methods.fornet_blocks import dense_branches, sparse_branches

    torch.manual_seed(0)
    network = fold_batch_norm(FoRNet(LiteBackbone(), 11, block=block)).to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, *size).contiguous(memory_format=torch.channels_last)
    cells = (size[0] // CELL, size[1] // CELL)
    importance = torch.rand(1, 1, *cells)
    features = torch.rand(1, 64, *cells).contiguous(memory_format=torch.channels_last)
    calls: dict[str, Any] = {}
    with torch.inference_mode():
        context = network.context(features)

        def branch(share: float | None) -> Any:
            network.focus(1.0 if share is None else share)
            pairs: Any = list(zip(network.branches, network.select(importance, cells), strict=True))
            way = dense_branches if share is None else sparse_branches
            return lambda: way(features, context, pairs)

        def whole(share: float, execution: str) -> Any:
            def call() -> None:
                network.focus(share)
                network.execution = execution  # pyright: ignore[reportAttributeAccessIssue]
                network(image)

            return call

        # the whole network without focus first: what every K pays anyway
        calls = {"network dense": whole(1.0, "dense"), "branches dense": branch(None)}
        for share in SHARES:
            calls[f"network {share:g}"] = whole(share, "sparse")
            calls[f"network auto {share:g}"] = whole(share, "auto")
            if share:
                calls[f"branches {share:g}"] = branch(share)
        times = medians(calls, repeats, in_a_row=16)
        even = next(iter(network.break_even.shares.values()), None)
    found: dict[str, Any] = {"break_even": even}
    for part in ("branches", "network"):
        shares = [share for share in SHARES if share or part == "network"]
        sparse = [times[f"{part} {share:g}"] for share in shares]
        dense = times[f"{part} dense"]
        row: dict[str, Any] = {
            "dense_ms": round(dense, 3),
            "sparse_ms": {f"{share:g}": round(value, 3) for share, value in zip(shares, sparse, strict=True)},
            "of_dense": {f"{share:g}": round(value / dense, 3) for share, value in zip(shares, sparse, strict=True)},
            # without K = 0, where nothing is gathered at all
            "line": {key: round(value, 4) for key, value in fit(shares[-6:], sparse[-6:]).items()},
            "goals": {f"{share:g}": goal for share, goal in GOALS[part].items()},
            "met": {f"{share:g}": times[f"{part} {share:g}"] / dense <= goal for share, goal in GOALS[part].items()},
        }
        if part == "network":
            row["auto_ms"] = {f"{share:g}": round(times[f"network auto {share:g}"], 3) for share in SHARES}
            row["of_itself_at_100"] = round(times["network auto 0.25"] / times["network auto 1"], 3)
        found[part] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    from segfocus.allocator import tune_allocator

    tune_allocator()
    import torch

    torch.set_num_threads(2)
    found = {}
    for size in SIZES:
        for block in BLOCKS:
            key = f"{size[0]}x{size[1]}, blocks of {block}x{block} cells"
            found[key] = measure(size, block, arguments.repeats)
            print(key, found[key], flush=True)
    note = (
        "branches: gather, four convolutions with LayerNorm, add back, against the same four computed everywhere; "
        "network: the whole forward of lite FoR-Net, logits at the picture's size, BatchNorm folded as the Predictor "
        "does; K = 1 of 'sparse' still gathers and adds back, 'auto' takes the dense way there. "
        f"{arguments.note}"
    )
    record("fornet_sparse", {"sizes": found}, seeds=[0], note=note.strip())


if __name__ == "__main__":
    main()
