"""What the report says about a public network: ESPNet's outputs on the CamVid validation pictures.

python benchmarks/report_camvid.py DATA        -> results/report_camvid.json

DATA holds camvid/ and camvid_espnet/ (probabilities, 8 bit).  Void is ignored; the validation pictures are one clip.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from record import record

from segfocus.data import camvid


def main() -> None:
    data = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        (out / "classes.yaml").write_text(yaml.safe_dump(camvid.classes().to_dict()))
        folders = {
            "--predictions": data / "camvid_espnet/probabilities/val",
            "--labels": data / "camvid/masks/val",
            "--images": data / "camvid/images/val",
            "--classes": out / "classes.yaml",
            "--out": out / "page",
            "--json": out / "scores.json",
        }
        options = [str(part) for option in folders.items() for part in option]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "segfocus", "report", *options], check=True)
        seconds = time.perf_counter() - start
        scores = json.loads((out / "scores.json").read_text())
        size = (out / "page/report.html").stat().st_size
    kept = ("miou", "per_class", "pixel_accuracy", "boundary_iou", "trimap", "thin", "mba", "calibration", "intervals")
    distance = scores["regions"]["distance"]
    results = {
        **{key: scores[key] for key in (*kept, "headroom", "n_pictures")},
        "regions": {
            kind: {key: part[key] for key in ("bins", "pixels", "error_share", "error_rate")}
            for kind, part in scores["regions"].items()
        },
        "pole_recall_by_thickness": scores["regions"]["thickness"]["recall_per_class"]["pole"],
        "error_share_within_4_px": sum(distance["error_share"][:3]),
        "pixel_share_within_4_px": sum(distance["pixels"][:3]),
        "seconds": round(seconds, 1),
        "page_bytes": size,
    }
    print(record("report_camvid", results, seeds=[0], note="ESPNet (p=2, q=8), public weights; void ignored"))


if __name__ == "__main__":
    main()
