"""What an offset head costs on HRNet-W18 at 512x1024: latency, parameters, peak memory; and a few steps of training.

python benchmarks/ovenet_speed.py [--quick]        -> results/ovenet_speed.json
    latency: networks interleaved in one process, medians; resampling and fusion by themselves at 19 x 128 x 256
    memory: the highest resident memory of a process of its own for each network
    smoke: the network trained on generated scenes with all weights free
--quick rehearses at 128x256 and writes nothing
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from record import record
from timing import medians

from segfocus.allocator import tune_allocator

VARIANT, CLASSES, STRIDE = "hrnet_w18", 19, 4
BASE = "HRNet-W18 alone"
HEADS: dict[str, dict[str, Any]] = {
    "head on the shared features": {"trunk": "features"},
    "head with two 3x3 convolutions": {"trunk": "convs", "hidden": 64},
    "head on its own stage 4 (the paper's)": {"trunk": "stage4"},
}
SHARED = next(iter(HEADS))


def build(name: str) -> Any:
    """The network in eval mode, random weights, offsets of several cells (a head at its start would not move)."""
    import torch

    from segfocus.methods.hrnet import HRNet
    from segfocus.methods.ovenet import OVeNet
    from segfocus.methods.plain import PlainSegmenter

    torch.manual_seed(0)
    base = HRNet(VARIANT, CLASSES, pretrained=False)
    network: Any = PlainSegmenter(base, CLASSES) if name == BASE else OVeNet(base, CLASSES, **HEADS[name])
    if name != BASE:
        last = [module for module in network.head.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        torch.nn.init.normal_(last.weight, std=0.02)
    return network.eval().to(memory_format=torch.channels_last)


def picture(size: tuple[int, int]) -> Any:
    import torch

    return torch.rand(1, 3, *size).contiguous(memory_format=torch.channels_last)


def latency(size: tuple[int, int], repeats: int) -> dict[str, Any]:
    import torch

    image, found = picture(size), {}
    networks = {name: build(name) for name in (BASE, *HEADS)}
    with torch.inference_mode():
        calls = {name: lambda network=network: network(image) for name, network in networks.items()}
        found = medians(calls, repeats)
        longest = {
            name: network(image).offsets.abs().max().item() for name, network in networks.items() if name != BASE
        }
    return {
        name: {
            "milliseconds": round(value, 1),
            "ratio": round(value / found[BASE], 3),
            "parameters": sum(parameter.numel() for parameter in networks[name].parameters()),
            **({} if name == BASE else {"longest_offset_px": round(longest[name], 1)}),
        }
        for name, value in found.items()
    }


def resampling(size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Milliseconds of sampling and fusion alone, offsets of up to 16 cells; logits in both memory formats."""
    import torch

    from segfocus.ops.offsets import sample_at

    found: dict[str, Callable[[], Any]] = {}
    offsets = 32 * torch.rand(1, 2, size[0] // STRIDE, size[1] // STRIDE) - 16
    confidence = torch.rand(1, 1, *offsets.shape[-2:])
    for name, layout in (("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        logits = torch.randn(1, CLASSES, *offsets.shape[-2:]).contiguous(memory_format=layout)
        found[name] = lambda logits=logits: torch.lerp(logits, sample_at(logits, offsets), confidence)
    with torch.inference_mode():
        return {name: round(value, 2) for name, value in medians(found, max(20, repeats)).items()}


def memory(name: str, size: tuple[int, int]) -> dict[str, float]:
    """MB: highest resident memory with everything imported, and after three pictures."""
    import torch

    network, image = build(name), picture(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        for _ in range(3):
            network(image)
    return {"built": before / 1024, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def smoke(steps: int) -> dict[str, Any]:
    """OVeNet on HRNet-W18 with its own stage 4, all weights free, from random weights on generated scenes."""
    import torch

    from segfocus.data import open_dataset
    from segfocus.methods.hrnet import HRNet
    from segfocus.methods.ovenet import OVeNet
    from segfocus.recipe import DataConfig

    scenes = open_dataset(DataConfig(name="synthetic", synthetic_pictures=8, synthetic_size=[96, 128]), "train")
    torch.manual_seed(0)
    classes = scenes.classes.num_classes
    network = OVeNet(HRNet(VARIANT, classes, pretrained=False), classes, trunk="stage4").train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    sums = []
    for step in range(steps):
        batch = [scenes[(4 * step + index) % len(scenes)] for index in range(4)]
        target = torch.stack([sample["target"] for sample in batch])
        terms = network.loss(network(torch.stack([sample["image"] for sample in batch])), target)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums.append(round(loss.item(), 4))
    return {"steps": steps, "first_loss": sums[0], "last_loss": sums[-1], "terms": list(terms)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size, repeats, steps = ((128, 256), 3, 3) if arguments.quick else ((512, 1024), 9, 40)
    works: dict[str, Callable[[], Any]] = {
        "latency": lambda: latency(size, repeats),
        "resampling": lambda: resampling(size, repeats),
        "smoke": lambda: smoke(steps),
        **{name: lambda name=name: memory(name, size) for name in (BASE, *HEADS)},
    }
    if arguments.worker:
        tune_allocator()
        print(json.dumps(works[arguments.worker]()))
        return
    found = {}
    for name in works:
        command = [sys.executable, __file__, "--worker", name, *(["--quick"] if arguments.quick else [])]
        found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(name, found[name], flush=True)
    alone = found[BASE]
    results = {
        "size": list(size),
        "latency": found["latency"],
        "resampling_and_fusion_milliseconds": found["resampling"],
        "peak_memory": {
            name: {
                "resident_mb": round(found[name]["peak"]),
                "ratio": round(found[name]["peak"] / alone["peak"], 3),
                "added_by_the_pictures_mb": round(found[name]["peak"] - found[name]["built"]),
            }
            for name in (BASE, *HEADS)
        },
        "smoke": found["smoke"],
        "goals": {
            "latency_ratio_at_most_1.15": found["latency"][SHARED]["ratio"] <= 1.15,
            "resampling_and_fusion_at_most_5_ms": found["resampling"]["channels_last"] <= 5,
            "peak_memory_ratio_at_most_1.25": found[SHARED]["peak"] / alone["peak"] <= 1.25,
        },
    }
    note = "HRNet-W18, 19 classes, random weights, batch 1, float32, channels_last, tuned allocator; medians"
    if not arguments.quick:
        print(record("ovenet_speed", results, seeds=[0], note=note))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
