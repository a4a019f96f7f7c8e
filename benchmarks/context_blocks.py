"""RANet's Table 3 redone: what each context block costs on features [1 x 512 x 97 x 97], forward and training.

python benchmarks/context_blocks.py            -> results/context_blocks.json
python benchmarks/context_blocks.py --quick    33 x 33, fewer repeats; prints, writes nothing

Rows: every block of `segfocus.methods.baselines` with its published fusion convolution, RANet's block (score
convolutions, regions, equations 6 to 8, fusion convolution; 19 classes), and that block with N x N tables
(`dense_regions.py`).  RANet's regions come from a generated scene: its score convolutions run, start at zero, and the
scene's logits are added to what they give, so that gradients pass through everything.

Parameters and operations: FlopCounterMode, a multiply-add is two operations.  Regions are no tensor operations; theirs
are added by formula (`region_arithmetic`).  Memory: each row and mode in a process of its own, high-water mark of the
resident set during one pass above what was resident before (weights, features, a pass on 9 x 9 for the libraries'
sake); training includes the gradients of weights and features.  Times: medians of interleaved passes in one process;
the row with tables in a further one, beside RANet's again.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from segfocus.allocator import tune_allocator
from segfocus.methods.baselines import BLOCKS, build_block
from segfocus.methods.region_context import RegionContext, RegionExchange
from segfocus.ops.regions import RegionRules, choose_backend

CHANNELS, CLASSES, REPRESENTATIVES, SEED = 512, 19, 8, 0
FULL, QUICK, WARM = 97, 33, 9
PEERS = [name for name in BLOCKS if name != "none"]
OURS, TABLES = "ranet", "ranet_tables"
ROWS = [*PEERS, OURS]
MODES = ("forward", "training")
PAPER = {
    "asymmetric_non_local": {"gflops": 163, "parameters_m": 13, "memory_mb": 634},
    "criss_cross": {"gflops": 198, "parameters_m": 18, "memory_mb": 730},
    "dual": {"gflops": 264, "parameters_m": 23, "memory_mb": 2611},
    "psa": {"gflops": 372, "parameters_m": 50, "memory_mb": 3124},
    "ranet": {"gflops": 212, "parameters_m": 21, "memory_mb": 1893},
}
"""Table 3 of Shen et al. 2020, which does not say which convolutions it counts"""


def scene(side: int) -> tuple[Tensor, Tensor]:
    """Semantic [1, 19, side, side] and boundary [1, 1, side, side] logits of a generated scene of 20 objects."""
    from tests.ops.regions.scenes import voronoi

    made = voronoi(side, side, seed=SEED, objects=20, classes=CLASSES, finer=8)
    return made.semantic.log()[None], made.boundary.logit()[None, None]


class SceneScores(nn.Module):
    """A block's score convolutions, starting at zero, plus the logits of a scene."""

    def __init__(self, scores: nn.Module, side: int):
        super().__init__()
        self.scores = scores
        for parameter in scores.parameters():
            nn.init.zeros_(parameter)
        self.scenes = {size: scene(size) for size in (side, WARM)}

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        semantic, boundary = self.scores(features)
        scene_semantic, scene_boundary = self.scenes[features.shape[-1]]
        return semantic + scene_semantic, boundary + scene_boundary


def build(name: str, side: int) -> nn.Module:
    torch.manual_seed(SEED)
    if name in PEERS:
        return build_block(name, CHANNELS, side)
    if name == OURS:
        exchange = RegionExchange(REPRESENTATIVES, 1.0, CHANNELS, intra=True, inter=True)
        block = RegionContext(CHANNELS, CLASSES, exchange, RegionRules(), dropout=0.0)
    else:
        from dense_regions import DenseExchange, DenseRegionContext

        block = DenseRegionContext(CHANNELS, CLASSES, DenseExchange(REPRESENTATIVES), RegionRules(), dropout=0.0)
    block.scores = SceneScores(block.scores, side)
    return block


def features(side: int) -> Tensor:
    """Non-negative, as after a ReLU; small, or else every softmax takes one value alone."""
    generator = torch.Generator().manual_seed(SEED)
    return 0.2 * torch.randn(1, CHANNELS, side, side, generator=generator).relu()


def result(block: nn.Module, maps: Tensor) -> Tensor:
    found = block(maps)
    return found if isinstance(found, Tensor) else found.fused


class Pass:
    """One forward or training pass of a block; what it needs is allocated before."""

    def __init__(self, block: nn.Module, mode: str, maps: Tensor):
        self.block, self.mode, self.maps = block, mode, maps.clone()
        channels = getattr(block, "out_channels", CHANNELS)
        self.gradient = torch.full((1, channels, *maps.shape[-2:]), 1e-3) if mode == "training" else None

    def __call__(self) -> None:
        if self.gradient is None:
            self.block.eval()
            with torch.no_grad():
                result(self.block, self.maps)
            return
        self.block.train()
        self.block.zero_grad(set_to_none=True)
        self.maps.requires_grad_().grad = None
        result(self.block, self.maps).backward(self.gradient)


def resident(key: str) -> float:
    """VmRSS (now) or VmHWM (highest) of this process, MB of 1e6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / 1e6


def memory(name: str, mode: str, side: int) -> float:
    """Peak extra resident memory of one pass, MB."""
    block = build(name, side)
    Pass(block, mode, features(WARM))()
    block.zero_grad(set_to_none=True)
    run = Pass(block, mode, features(side))
    ctypes.CDLL(None).malloc_trim(0)  # what the warm pass left behind would hide as much of the pass
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident
    before = resident("VmRSS")
    run()
    return round(resident("VmHWM") - before, 1)


def interleaved(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, dict[str, Any]]:
    """Median, fastest and slowest wall-clock seconds of each, one pass of each in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {
        name: {
            "seconds": float(f"{statistics.median(found):.4g}"),
            "range_s": [float(f"{value:.4g}") for value in (min(found), max(found))],
            "repeats": repeats,
        }
        for name, found in times.items()
    }


def times(side: int, repeats: int) -> dict[str, Any]:
    found = {}
    for mode in MODES:
        runs: dict[str, Callable[[], None]] = {name: Pass(build(name, side), mode, features(side)) for name in ROWS}
        for run in runs.values():
            run()
        found[mode] = interleaved(runs, repeats)
    return found


def tables(side: int, repeats: int, table_repeats: int) -> dict[str, Any]:
    """RANet's block and the one with tables: times, and how far results and gradients lie apart."""
    found: dict[str, Any] = {}
    for mode in MODES:
        blocks = {name: build(name, side) for name in (OURS, TABLES)}
        blocks[TABLES].load_state_dict(blocks[OURS].state_dict())
        runs = {name: Pass(block, mode, features(side)) for name, block in blocks.items()}
        for name, block in blocks.items():
            Pass(block, mode, features(WARM))()
            block.zero_grad(set_to_none=True)
            if name == OURS:
                runs[name]()
        found[mode] = interleaved({OURS: runs[OURS]}, repeats)
        found[mode] |= interleaved({TABLES: runs[TABLES]}, table_repeats)
        if mode == "training":
            pairs = {"features": [run.maps.grad for run in runs.values()]}
            for name in ("boundary", "semantic"):
                pairs[name] = [getattr(block.scores.scores, name).weight.grad for block in blocks.values()]
            # by norms: where rounding turns a ReLU over, single values differ
            found["gradient_differences"] = {
                name: float(f"{((first - second).norm() / first.norm()).item():.2g}")
                for name, (first, second) in pairs.items()
            }
            continue
        with torch.no_grad():
            first, second = (block.eval()(features(side)) for block in blocks.values())
        assert torch.equal(first.regions, second.regions)
        found["regions"] = int(first.regions.max()) + 1
        found["score_difference"] = float(f"{(first.scores - second.scores).abs().max().item():.2g}")
        found["result_difference"] = float(f"{(first.fused - second.fused).abs().max().item():.2g}")
    return found


def operations(name: str, side: int) -> dict[str, float]:
    """Parameters (millions) and 1e9 operations of a forward pass."""
    block = build(name, side).eval()
    maps = features(side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        found = block(maps)
    gflops = counter.get_total_flops() / 1e9
    row: dict[str, Any] = {
        "parameters_m": round(sum(parameter.numel() for parameter in block.parameters()) / 1e6, 3),
        "gflops": round(gflops, 1),
        "gmac": round(gflops / 2, 1),
    }
    if name != OURS:
        return row
    from dense_regions import region_arithmetic

    from segfocus.ops.regions.backends import load_backend

    semantic, boundary = scene(side)
    with torch.no_grad():
        leaders = load_backend(choose_backend("auto", maps.device)).group(
            boundary[0, 0].sigmoid(), semantic[0].softmax(0), RegionRules()
        )
    by_formula = region_arithmetic(found.regions[0], leaders, CLASSES)
    row["region_gflops_by_formula"] = by_formula
    row["gflops"] = round(gflops + by_formula["grouping_at_most"] + by_formula["scores"], 1)
    row["gmac"] = round(row["gflops"] / 2, 1)
    return row


def child(part: str, *arguments: object) -> Any:
    """A part in a process of its own."""
    command = [sys.executable, __file__, "--part", part, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_part(part: str, arguments: list[str]) -> Any:
    tune_allocator()
    torch.set_num_threads(2)
    if part == "memory":
        return memory(arguments[0], arguments[1], int(arguments[2]))
    if part == "operations":
        return operations(arguments[0], int(arguments[1]))
    return {"times": times, "tables": tables}[part](*map(int, arguments))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} x {QUICK}, 3 repeats; prints, writes nothing")
    parser.add_argument("--part", nargs="+", help="one part, in this process; prints JSON")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(run_part(given.part[0], given.part[1:])))
        return
    side, repeats, table_repeats = (QUICK, 3, 1) if given.quick else (FULL, 5, 1)
    rows: dict[str, dict[str, Any]] = {name: child("operations", name, side) for name in ROWS}
    rows[TABLES] = {}
    for name in rows:
        for mode in MODES:
            rows[name][f"{mode}_extra_mb"] = child("memory", name, mode, side)
    timed = child("times", side, repeats)
    against = child("tables", side, repeats, table_repeats)
    for mode in MODES:
        for name in ROWS:
            rows[name][mode] = timed[mode][name]
        rows[TABLES][mode] = against[mode][TABLES]
    ratios = {
        mode: {
            "memory": round(rows[OURS][f"{mode}_extra_mb"] / rows[TABLES][f"{mode}_extra_mb"], 3),
            "time": round(against[mode][OURS]["seconds"] / against[mode][TABLES]["seconds"], 3),
        }
        for mode in MODES
    }
    results = {"map": [1, CHANNELS, side, side], "rows": rows, "ranet_over_tables": ratios}
    results |= {"ranet_beside_tables": against, "paper_table_3": PAPER}
    if not given.quick:
        from record import record

        note = "Table 3 of RANet redone; backend of the regions: " + choose_backend("auto", torch.device("cpu"))
        record("context_blocks", results, seeds=[SEED], note=f"{note}; see benchmarks/context_blocks.py")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
