"""What ThreshNet costs on a processor: latency beside a Unet, memory, and megapixels a second beside a CRF.

python benchmarks/refine_speed.py [--quick]        -> results/refine_speed.json
    latency: a quarter-width ThreshNet, both decoders, against SMP's Unet with a ResNet-34 on the same map of one
        channel; all networks interleaved in one process, medians, with one and with two threads
    apply: `MapRefiner` on a map and its picture, ThreshNet and `MeanFieldCRF` interleaved in one process
    memory: how far the resident memory of a process of its own grows, the network built before: inference and
        training (batch of 4, with and without checkpointing) of the full width; inference of the Unet
--quick rehearses at 128x128 and writes nothing
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import record
from timing import medians

from segfocus.allocator import tune_allocator

QUARTER, FULL = 8, 32
UNET = "SMP Unet-ResNet34"
REPEATS = 11
GIB = 2**30


def threshnet(width: int = QUARTER, **options: Any) -> Any:
    import torch

    from segfocus.methods.threshnet import ThreshNet

    torch.manual_seed(0)
    return ThreshNet(width=width, **options).eval().to(memory_format=torch.channels_last)


def unet(channels_last: bool = True) -> Any:
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    network = smp.Unet("resnet34", encoder_weights=None, in_channels=1, classes=1).eval()
    return network.to(memory_format=torch.channels_last) if channels_last else network


def maps(size: int, channels: int, batch: int = 1) -> Any:
    """Probabilities of the foreground, or of both classes."""
    import torch

    foreground = torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(0))
    return foreground if channels == 1 else torch.cat([1 - foreground, foreground], 1)


def multiplications(network: Any, value: Any) -> float:
    """Multiply-adds of one forward pass, in thousand millions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(value)
    return round(counter.get_total_flops() / 2e9, 1)


def latency(size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of every network, and how many times faster ThreshNet is than the Unet in its faster layout."""
    import torch

    one, two = maps(size, 1), maps(size, 2)
    one = one.to(memory_format=torch.channels_last)
    networks: dict[str, tuple[Any, Any]] = {
        UNET: (unet(), one),
        f"{UNET}, channels first": (unet(channels_last=False), maps(size, 1)),
        "ThreshNet, quarter width": (threshnet(), two),
        "ThreshNet, quarter width, resnet34": (threshnet(encoder="resnet34"), two),
        "ThreshNet": (threshnet(FULL), two),
    }

    def timed_call(network: Any, value: Any, bfloat16: bool) -> Callable[[], Any]:
        def call() -> None:
            with torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext():
                network(value)

        return call

    found: dict[str, dict[str, Any]] = {name: {} for name in networks}
    with torch.inference_mode():
        for name, (network, value) in networks.items():
            found[name]["parameters"] = sum(parameter.numel() for parameter in network.parameters())
            found[name]["gmac"] = multiplications(network, value)
        calls = {
            (name, precision): timed_call(*pair, precision == "bfloat16")
            for precision in ("float32", "bfloat16")
            for name, pair in networks.items()
        }
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for (name, precision), value in medians(calls, repeats).items():
                found[name].setdefault(f"milliseconds_of_{threads}_threads", {})[precision] = round(value, 1)
    return found


def ratios(found: dict[str, Any], threads: int) -> dict[str, float]:
    """How many times faster the quarter width is than the Unet."""
    key = f"milliseconds_of_{threads}_threads"
    own = found["ThreshNet, quarter width"][key]
    base = {
        precision: min(found[name][key][precision] for name in (UNET, f"{UNET}, channels first"))
        for precision in ("float32", "bfloat16")
    }
    return {
        "float32": round(base["float32"] / own["float32"], 2),
        "bfloat16_to_the_unet_in_float32": round(base["float32"] / own["bfloat16"], 2),
        "bfloat16_to_the_unet_in_bfloat16": round(base["bfloat16"] / own["bfloat16"], 2),
    }


def apply(size: int, repeats: int) -> dict[str, Any]:
    """Megapixels a second of whole maps through `MapRefiner`: arrays in, arrays out."""
    import numpy as np

    from segfocus.inference.refiner import MapRefiner
    from segfocus.methods.crf import MeanFieldCRF
    from segfocus.methods.guided_filter import GuidedFilter

    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
    foreground = generator.random((size, size), dtype=np.float32)
    probabilities = np.stack([1 - foreground, foreground])
    refiners: dict[str, Any] = {
        "ThreshNet, quarter width": MapRefiner(threshnet(), device="cpu"),
        "ThreshNet": MapRefiner(threshnet(FULL), device="cpu"),
        "MeanFieldCRF": MapRefiner(MeanFieldCRF(), device="cpu"),
        "GuidedFilter": MapRefiner(GuidedFilter(), device="cpu"),
    }

    def call(refiner: Any) -> Callable[[], Any]:
        return lambda: refiner.refine(probabilities, picture)

    found = medians({name: call(refiner) for name, refiner in refiners.items()}, repeats)
    return {
        name: {"milliseconds": round(value, 1), "megapixels_a_second": round(size * size / 1000 / value, 2)}
        for name, value in found.items()
    }


def resident(kind: str) -> float:
    """GiB of this process, now ("VmRSS") or at its highest ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith(kind))


def grown(work: Callable[[], Any]) -> dict[str, float]:
    """GiB: highest resident memory, and how far it lies above what was held before."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    peak = resident("VmHWM")
    return {"grown_gib": round(peak - before, 3), "peak_gib": round(peak, 3)}


def inference_memory(network: Any, value: Any) -> dict[str, float]:
    import torch

    def work() -> None:
        with torch.inference_mode():
            for _ in range(3):
                network(value)

    return grown(work)


def training_memory(size: int, checkpointing: bool, batch: int) -> dict[str, float]:
    """One step with Adam; its gradients and moments are part of it."""
    import torch

    network = threshnet(FULL, checkpointing=checkpointing).train()
    optimizer = torch.optim.Adam(network.parameters(), 8e-4)
    probabilities = maps(size, 2, batch)
    target = (probabilities[:, 1] > 0.6).long()

    def work() -> None:
        terms = network.loss(network(probabilities), target)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return grown(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--note", default="", help="a sentence about the machine, kept in the JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size, repeats = (128, 3) if arguments.quick else (512, REPEATS)
    works: dict[str, Callable[[], Any]] = {
        "latency": lambda: latency(size, repeats),
        "apply": lambda: apply(size, repeats),
        "inference of ThreshNet": lambda: inference_memory(threshnet(FULL), maps(size, 2)),
        "inference of ThreshNet, quarter width": lambda: inference_memory(threshnet(), maps(size, 2)),
        f"inference of {UNET}": lambda: inference_memory(unet(), maps(size, 1)),
        "training of ThreshNet, batch 4, checkpointing": lambda: training_memory(size, True, 4),
        "training of ThreshNet, batch 1": lambda: training_memory(size, False, 1),
    }
    if arguments.worker:
        tune_allocator()
        print(json.dumps(works[arguments.worker]()))
        return
    found = {}
    for name in works:
        command = [sys.executable, __file__, "--worker", name, *(["--quick"] if arguments.quick else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found[name] = json.loads(done.stdout)
        print(name, found[name], flush=True)
    times, applied = found.pop("latency"), found.pop("apply")
    faster = {f"{threads}_threads": ratios(times, threads) for threads in (1, 2)}
    results = {
        "size": [size, size],
        "latency": times,
        "times_faster_than_the_unet": faster,
        "apply": applied,
        "apply_times_faster_than_the_crf": round(
            applied["MeanFieldCRF"]["milliseconds"] / applied["ThreshNet, quarter width"]["milliseconds"], 2
        ),
        "memory": found,
        "goals": {
            "quarter_width_at_most_22_gmac": times["ThreshNet, quarter width"]["gmac"] <= 22,
            "float32_at_least_1.3_times_faster": faster["2_threads"]["float32"] >= 1.3,
            "bfloat16_at_least_2.2_times_faster_than_the_unet_in_float32": faster["2_threads"][
                "bfloat16_to_the_unet_in_float32"
            ]
            >= 2.2,
            "inference_at_most_0.6_gib": found["inference of ThreshNet"]["grown_gib"] <= 0.6,
            "training_at_most_8_gib": found["training of ThreshNet, batch 4, checkpointing"]["peak_gib"] <= 8,
        },
    }
    note = (
        "random weights, patch 64, batch 1, channels last, tuned allocator, bfloat16 by autocast; medians; "
        "ratios to the Unet in its faster layout"
    )
    if not arguments.quick:
        note = f"{note}; {arguments.note}" if arguments.note else note
        print(record("refine_speed", results, seeds=[0], note=note))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
