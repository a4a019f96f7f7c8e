"""Start-up: `segfocus --help` without torch, and what `import segfocus` adds to `import torch`.

python benchmarks/startup.py        -> results/startup.json
Each statement runs in processes of its own, interleaved; medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from record import record

REPEATS = 9
CLI = "import sys; sys.argv = ['segfocus', {}]; from segfocus.cli import main; main()"
STATEMENTS = {
    "python": "pass",
    "segfocus --help": CLI.format("'--help'"),
    "segfocus train --help": CLI.format("'train', '--help'"),
    "import torch": "import torch",
    "import torch, segfocus": "import torch, segfocus",
    "import segfocus and its public names": "import segfocus; [getattr(segfocus, name) for name in segfocus.__all__]",
    "import torch, torchvision": "import torch, torchvision",
}


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for repeat in range(REPEATS + 1):
        for name, statement in STATEMENTS.items():
            value = seconds(statement)
            if repeat:  # the first round fills the file cache
                times[name].append(value)
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    ratio = round(medians["import torch, segfocus"] / medians["import torch"], 3)
    results = {"seconds_median": medians, "repeats": REPEATS, "import_ratio": ratio}
    print(record("startup", results, seeds=[], note="wall seconds of a fresh process, warm file cache"), medians, ratio)


if __name__ == "__main__":
    main()
