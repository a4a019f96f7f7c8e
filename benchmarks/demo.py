"""The demo's time, memory and scores, against a linear classifier on pixel values.

python benchmarks/demo.py        -> results/demo.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import record

sys.path.insert(0, str(Path(__file__).parents[1]))


def proportional_memory(process: int) -> int:
    """Bytes held by a process and its children, shared pages divided among those that share them (Linux)."""
    total, waiting = 0, [process]
    while waiting:
        number = waiting.pop()
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
            for task in Path(f"/proc/{number}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ProcessLookupError):
            continue  # it has just ended
    return total


def main() -> None:
    from segfocus.data import open_dataset
    from segfocus.recipe import load_recipe
    from tests.data.linear_baseline import linear_pixel_miou

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        start, peak = time.perf_counter(), 0
        demo = subprocess.Popen(
            [sys.executable, "-m", "segfocus", "demo", "--out", str(out)], stdout=subprocess.DEVNULL
        )
        while demo.poll() is None:
            peak = max(peak, proportional_memory(demo.pid))
            time.sleep(0.5)
        seconds = time.perf_counter() - start
        if demo.returncode:
            raise SystemExit(demo.returncode)
        scores = json.loads((out / "scores.json").read_text())
        report_bytes = (out / "report.html").stat().st_size
    config = load_recipe("fornet-synthetic").data
    linear = linear_pixel_miou(open_dataset(config, "train"), open_dataset(config, "val"))
    results = {
        "seconds": round(seconds, 1),
        "peak_gigabytes": round(peak / 2**30, 2),
        "report_megabytes": round(report_bytes / 1e6, 2),
        "miou": scores["miou"],
        "per_class": scores["per_class"],
        "boundary_iou": scores["boundary_iou"],
        "linear_pixel_classifier_miou": round(linear, 4),
    }
    print(record("demo", results, seeds=[0], note="segfocus demo as a user runs it; memory: proportional set size"))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
