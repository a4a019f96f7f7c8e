"""How much memory and time refining a large map takes by tiles: 10,000 px wide, 1,000 and 10,000 px high.

The refiner does next to nothing, so that what is measured is reading, blending and writing.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from segfocus.console import say

WIDTH, HEIGHTS, WINDOW = 10_000, (1_000, 10_000), 512
SUFFIXES = ("npy", "tif")


def make_map(path: Path, height: int) -> None:
    """A smooth 8-bit map of the foreground, written in pieces."""
    wave = (np.sin(np.arange(WIDTH) / 90) + 1) / 4
    values = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.uint8, (height, WIDTH))
    for row in range(height):
        values[row] = (wave + (np.sin(row / 70) + 1) / 4) * 255
    if path.suffix == ".tif":
        import tifffile

        tifffile.imwrite(path, values, compression="zlib", rowsperstrip=64)
        del values
        path.with_suffix(".npy").unlink()


def measured(maps: Path, out: Path) -> dict[str, float]:
    """Peak of the resident set while a folder is refined, above what it was before, and the time."""
    import torch
    from torch import nn

    from segfocus.inference.refine import refine_folder
    from segfocus.inference.refiner import MapRefiner
    from segfocus.methods.base import Refiner
    from segfocus.output import Output

    class Shift(Refiner):
        num_classes, grid = 2, 64

        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(0.5))

        def forward(self, probabilities: torch.Tensor, image: torch.Tensor | None = None) -> Output:
            return Output(probabilities[:, 1:].clamp(1e-6, 1 - 1e-6).logit() + self.shift)

        def loss(self, output: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"zero": output.logits.sum() * 0}

    torch.set_num_threads(1)
    refiner = MapRefiner(Shift(), window=(WINDOW, WINDOW), device="cpu")
    with tempfile.TemporaryDirectory(dir=maps.parent) as small:
        for folder in ("maps", "out"):
            (Path(small) / folder).mkdir()
        np.save(Path(small) / "maps/a.npy", np.full((600, 600), 100, np.uint8))
        refine_folder(refiner, Path(small) / "maps", Path(small) / "out")
    # what is resident now, not the peak so far: importing has one that would hide a part of the growth
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    begun, used = time.perf_counter(), time.process_time()
    refine_folder(refiner, maps, out)
    return {
        "before_mib": before / 1024,
        "growth_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - used,
    }


def main() -> None:
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(measured(Path(sys.argv[1]), Path(sys.argv[2]))))
        return
    from record import record

    found: dict[str, Any] = {}
    for suffix in SUFFIXES:
        for height in HEIGHTS:
            with tempfile.TemporaryDirectory() as folder:
                maps = Path(folder) / "maps"
                maps.mkdir()
                make_map(maps / f"a.{suffix}", height)
                answer = subprocess.run(
                    [sys.executable, __file__, str(maps), str(Path(folder) / "out")],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
            row = json.loads(answer.stdout)
            row["megapixels_per_second"] = height * WIDTH / 1e6 / row["seconds"]
            found[f"{suffix}_{height}x{WIDTH}"] = row
            say(f"{suffix} {height}x{WIDTH}: {row}")
    note = (
        f"8-bit maps of the foreground; tiles of {WINDOW} px, steps of 384 px; labels and probabilities written; "
        "growth: peak resident set above that before, own process; other work shared the machine"
    )
    say(str(record("refine_large", found, seeds=[], note=note, threads=1)))


if __name__ == "__main__":
    main()
