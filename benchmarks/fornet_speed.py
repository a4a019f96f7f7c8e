"""What the lite FoR-Net costs beside LR-ASPP, DeepLabV3+ and SegFormer-B0, at several shares K of refined regions.

python benchmarks/fornet_speed.py [--repeats N] [--sizes 360x480 512x1024] [--no-onnx] [--quick]
    -> results/fornet_speed.json: parameters, GMAC, milliseconds in eager PyTorch (as built, and with BatchNorm folded)
       and in ONNX Runtime, share of the convolution peak of the same run, ratios to LR-ASPP and SegFormer-B0
--quick rehearses with few repeats at 96x128, and writes nothing
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from network_cost import SIZES, THREADS, costs
from record import record

from segfocus.allocator import allocator_setting, tune_allocator

CLASSES = 11
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
TRAINED = 0.25
ALONE = (0.1, 0.25)
"""shares at which graphs that compute the chosen blocks alone are measured, too; graphs compute everything otherwise"""
LRASPP, DEEPLAB, SEGFORMER = "LR-ASPP MobileNetV3-large", "DeepLabV3+ ResNet-18", "SegFormer-B0"
NOTE = (
    f"{CLASSES} classes, random weights, batch 1, float32, channels_last; medians of interleaved runs in one process. "
    "milliseconds are from the picture in [0, 1] to logits at its size: normalisation, padding and enlarging included, "
    "done alike for all. gmac at K below 1: what is computed in the selected blocks, without gathering them, which is "
    "no multiplication. rates and shares of the peak are those of the folded networks"
)


def at(share: float, execution: str = "auto") -> str:
    return f"FoR-Net lite, K = {share:.0%}{', blocks alone' if execution == 'sparse' else ''}"


def fornet(share: float, execution: Any = "auto") -> Any:
    from segfocus.backbone import LiteBackbone
    from segfocus.methods.fornet import FoRNet

    network = FoRNet(LiteBackbone(), CLASSES)
    network.focus(share)
    network.execution = execution
    return network


def lraspp() -> Any:
    from segfocus.methods.adapters import TorchvisionBase
    from segfocus.methods.plain import PlainSegmenter

    return PlainSegmenter(TorchvisionBase("lraspp_mobilenet_v3_large", CLASSES, pretrained=False), CLASSES)


def deeplab() -> Any:
    from segfocus.methods.adapters import SMPBase
    from segfocus.methods.plain import PlainSegmenter

    return PlainSegmenter(SMPBase("DeepLabV3Plus", "resnet18", CLASSES, pretrained=False), CLASSES)


def segformer() -> Any:
    from segfocus.methods.adapters import SegformerBase
    from segfocus.methods.plain import PlainSegmenter

    return PlainSegmenter(SegformerBase("b0", CLASSES, pretrained=False), CLASSES)


def add_ratios(found: dict[str, Any]) -> None:
    """Beside each time, how it stands to LR-ASPP's and SegFormer-B0's of the same kind."""
    for size in found.values():
        for row in size["networks"].values():
            for kind in ("eager", "folded", "onnx"):
                if f"{kind}_ms" in row:
                    for short, peer in (("lraspp", LRASPP), ("segformer", SEGFORMER)):
                        ratio = row[f"{kind}_ms"] / size["networks"][peer][f"{kind}_ms"]
                        row[f"{kind}_of_{short}"] = round(ratio, 3)


def goals(found: dict[str, Any]) -> dict[str, bool]:
    rows = found["360x480"]["networks"]
    row, dense = rows[at(TRAINED)], rows[at(1.0)]
    return {
        "eager_at_most_0.60_of_lraspp": row["eager_of_lraspp"] <= 0.6,
        "eager_at_most_0.20_of_segformer": row["eager_of_segformer"] <= 0.2,
        "folded_at_most_0.60_of_lraspp": row["folded_of_lraspp"] <= 0.6,
        "folded_at_most_0.20_of_segformer": row["folded_of_segformer"] <= 0.2,
        "share_of_peak_at_least_0.60": row["share_of_peak"] >= 0.6,
        "whole_network_at_25_percent_at_most_0.80_of_dense": row["folded_ms"] <= 0.8 * dense["folded_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", default=[f"{height}x{width}" for height, width in SIZES])
    parser.add_argument("--no-onnx", action="store_true")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    tune_allocator()  # before the first large tensor
    load = os.getloadavg()[0]
    networks = {at(share): lambda share=share: fornet(share) for share in SHARES}
    networks |= {at(share, "sparse"): lambda share=share: fornet(share, "sparse") for share in ALONE}
    networks |= {LRASPP: lraspp, DEEPLAB: deeplab, SEGFORMER: segformer}
    sizes = ["96x128"] if arguments.quick else arguments.sizes
    found = costs(
        networks,
        sizes=[(int(height), int(width)) for height, width in (size.split("x") for size in sizes)],
        repeats=3 if arguments.quick else arguments.repeats,
        onnx=not arguments.no_onnx,
    )
    add_ratios(found)
    results = {
        "allocator": allocator_setting(),
        "load_before": round(load, 2),
        "repeats": 3 if arguments.quick else arguments.repeats,
        "sizes": found,
        **({"goals": goals(found)} if "360x480" in found else {}),
    }
    if not arguments.quick:
        print(record("fornet_speed", results, seeds=[0], note=NOTE, threads=THREADS))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
