"""Which trunk the lite FoR-Net should have: accuracy after an equal, short training against what a picture costs.

python benchmarks/fornet_trunks.py train --root CAMVID --runs FOLDER   -> results/fornet_trunks.json (accuracy)
    every trunk below FoR-Net's head, trained from scratch on the `fit` frames of CamVid, scored on `holdout` and val
python benchmarks/fornet_trunks.py cost                                -> results/fornet_trunks.json (cost)
    parameters, GMAC, and latency of the whole network at 360x480 and 512x1024
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import RESULTS, record

STEPS = 400
SEED = 0


def plain(widths: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, Any]:
    return {"backbone": "lite", "options": {"widths": list(widths), "depths": list(depths)}}


TRUNKS: dict[str, dict[str, Any]] = {
    "first lite": plain((16, 32, 64, 128, 160), (1, 1, 2, 2)),
    "lite: nothing at stride 4": plain((32, 32, 64, 128, 160), (0, 2, 2, 2)),
    "more at stride 8": plain((16, 32, 64, 96, 128), (1, 3, 3, 2)),
    "more at stride 16": plain((16, 32, 64, 128, 128), (1, 2, 3, 1)),
    "wider early": plain((24, 48, 64, 128, 160), (1, 1, 2, 2)),
    "wide and shallow": plain((16, 48, 96, 128, 128), (1, 1, 1, 1)),
    "small": plain((16, 32, 64, 128, 192), (1, 1, 1, 1)),
    "MobileNetV3-small (timm)": {"backbone": "mobilenetv3_small_100", "options": {}},
    "MobileNetV4-conv-small (timm)": {"backbone": "mobilenetv4_conv_small", "options": {}},
}
"""all at most 1.5 M parameters with the head"""

NOTE = (
    f"one seed, {STEPS} steps of batch 8 each ({STEPS * 8 / 305:.0f} epochs of the 305 `fit` frames): a short budget, "
    "which favours small and shallow trunks; compare rows, not with the literature. holdout: the 62 frames of clip "
    "0001TP; val: 101 frames of one clip. void ignored, single scale, averaged weights of the last step. Trained with "
    "the first lite's head (residual of 32 channels); cost: random weights, K = 25 %, as network_cost.py says"
)


def known() -> dict[str, Any]:
    path = RESULTS / "fornet_trunks.json"
    return json.loads(path.read_text())["trunks"] if path.is_file() else {}


def train(root: str, runs: Path) -> None:
    from segfocus.checkpoint import load
    from segfocus.training.run import evaluate

    rows = known()
    for name, trunk in TRUNKS.items():
        folder = runs / f"trunk-{list(TRUNKS).index(name)}"
        options = {
            "data.root": root,
            "data.train_split": "fit",
            "data.val_split": "holdout",
            "training.steps": STEPS,
            "training.seed": SEED,
            "training.validate_every": 1000,
            "training.ema_decay": 0.99,
            "training.precision": "bf16-mixed",
            "model.backbone": trunk["backbone"],
            "model.backbone_options": json.dumps(trunk["options"]),
            "out": folder,
        }
        if not (folder / "scores.json").is_file():
            arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
            command = [sys.executable, "-m", "segfocus", "train", "fornet-camvid", *arguments, "--overwrite"]
            subprocess.run(command, check=True, capture_output=True)
        loaded = load(folder / "last.safetensors")
        loaded.recipe.data.root = root
        row = rows.setdefault(name, trunk | {"accuracy": {}})
        for split in ("holdout", "val"):
            scores = evaluate(loaded, split=split)
            row.setdefault("accuracy", {})[split] = {
                "miou": scores["miou"],
                "boundary_iou_3": scores["boundary_iou"]["3"],
            }
        print(name, row["accuracy"], flush=True)
        record("fornet_trunks", {"steps": STEPS, "trunks": rows}, seeds=[SEED], note=NOTE)


def cost(repeats: int) -> None:
    from segfocus.allocator import tune_allocator

    tune_allocator()  # before the first large tensor
    from network_cost import costs

    from segfocus.backbone import build_backbone
    from segfocus.methods.fornet import FoRNet

    def network(trunk: dict[str, Any]) -> Any:
        return FoRNet(build_backbone(trunk["backbone"], pretrained=False, options=trunk["options"]), 11)

    rows = known()
    builders = {name: lambda trunk=trunk: network(trunk) for name, trunk in TRUNKS.items()}
    for size, found in costs(builders, repeats=repeats).items():
        for name, measured in found["networks"].items():
            rows.setdefault(name, dict(TRUNKS[name])).setdefault("cost", {})[size] = measured
    record("fornet_trunks", {"steps": STEPS, "trunks": rows}, seeds=[SEED], note=NOTE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "cost"])
    parser.add_argument("--root")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.what == "train":
        train(arguments.root, arguments.runs)
    else:
        cost(arguments.repeats)


if __name__ == "__main__":
    main()
