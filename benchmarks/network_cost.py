"""What a network costs on a CPU: parameters, GMAC, and milliseconds in PyTorch, with BatchNorm folded, in ONNX Runtime.

All networks that are compared go through one call of `costs`: one process, one allocator, interleaved runs.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from timing import medians

THREADS = 2
SIZES = ((360, 480), (512, 1024))
_PEAK_SHAPES = ((128, 64, 128), (256, 64, 128), (512, 32, 64))
"""channels, rows and columns of the plain 3x3 convolutions whose best rate counts as the machine's peak"""


def parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gmac(network: Any, size: tuple[int, int]) -> float:
    """Billions of multiplications with an addition for one picture, by PyTorch's counter (convolutions, products)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.rand(1, 3, *size))
    return counter.get_total_flops() / 2e9


def session(network: Any, size: tuple[int, int]) -> Callable[[], Any]:
    """A call of the network's logits for one picture of `size` in ONNX Runtime, by its default optimisations."""
    import onnxruntime
    import torch

    image = torch.rand(1, 3, *size)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about operators that are not used here
        path = str(Path(folder) / "network.onnx")
        torch.onnx.export(_logits_alone(network), (image,), path, dynamo=True, opset_version=18, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.log_severity_level = 3
        running = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        expected = network(image).logits
    values = {running.get_inputs()[0].name: image.numpy()}
    # by the median: rounding may exchange two equally important blocks of an untrained FoR-Net
    difference = np.median(np.abs(np.asarray(running.run(None, values)[0]) - expected.numpy()))
    largest = expected.abs().max().item()
    if difference > 1e-3 * max(largest, 1.0):
        raise RuntimeError(f"ONNX: expected the network's logits (up to {largest:.3g}), got others by {difference:.3g}")
    return lambda: running.run(None, values)


def _logits_alone(network: Any) -> Any:
    from torch import nn

    class LogitsAlone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Any) -> Any:
            return self.network(image).logits

    return LogitsAlone().eval()


def peak_calls() -> dict[str, tuple[float, Callable[[], Any]]]:
    """Plain 3x3 convolutions: (GFLOP, call) by name."""
    import torch

    found: dict[str, tuple[float, Callable[[], Any]]] = {}
    for channels, rows, columns in _PEAK_SHAPES:
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        maps = torch.rand(1, channels, rows, columns).contiguous(memory_format=torch.channels_last)
        work = 2e-9 * 9 * channels**2 * rows * columns
        found[f"{channels} channels"] = (work, lambda layer=layer, maps=maps: layer(maps))
    return found


def costs(
    networks: dict[str, Callable[[], Any]],
    *,
    sizes: Iterable[tuple[int, int]] = SIZES,
    repeats: int = 9,
    onnx: bool = True,
) -> dict[str, Any]:
    """Cost of every network for one picture of each size, float32, channels_last, random weights of seed 0.

    Args:
        networks: name -> builder of a Segmenter.
        sizes: height and width in px.
        repeats: of which the median is taken, after two that do not count.
        onnx: also export to ONNX and time it there (an export takes up to a minute).

    Returns:
        {"HEIGHTxWIDTH": {"peak_gflop_per_second": plain 3x3 convolutions at their best in the same run,
        "networks": {name: {"parameters", "gmac", "eager_ms", "folded_ms", "onnx_ms", "gflop_per_second" and
        "share_of_peak" (of the folded network)}}}}
    """
    import torch

    from segfocus.inference.fold import fold_batch_norm

    torch.set_num_threads(THREADS)
    plain: dict[str, Any] = {}
    for name, build in networks.items():
        torch.manual_seed(0)
        plain[name] = build().eval()
    counts = {name: parameters(network) for name, network in plain.items()}
    folded = {name: fold_batch_norm(network) for name, network in plain.items()}
    found: dict[str, Any] = {}
    for size in sizes:
        work = {name: gmac(network, size) for name, network in plain.items()}
        image = torch.rand(1, 3, *size).contiguous(memory_format=torch.channels_last)
        calls: dict[str, Callable[[], Any]] = {}
        for kind, group in (("eager", plain), ("folded", folded)):
            for name, network in group.items():
                network.to(memory_format=torch.channels_last)
                calls[f"{kind} {name}"] = lambda network=network, image=image: network(image)
        peaks = peak_calls()
        calls |= {f"peak {name}": call for name, (_, call) in peaks.items()}
        with torch.inference_mode():
            times = medians(calls, repeats, in_a_row=8)
        peak = max(flops / times[f"peak {name}"] * 1000 for name, (flops, _) in peaks.items())
        rows: dict[str, Any] = {}
        for name in networks:
            rate = 2 * work[name] / times[f"folded {name}"] * 1000
            rows[name] = {
                "parameters": counts[name],
                "gmac": round(work[name], 3),
                "eager_ms": round(times[f"eager {name}"], 2),
                "folded_ms": round(times[f"folded {name}"], 2),
                "gflop_per_second": round(rate, 1),
                "share_of_peak": round(rate / peak, 3),
            }
        if onnx:  # afterwards: its threads wait by spinning, and would take the cores from PyTorch's
            exported = {name: session(network, size) for name, network in folded.items()}
            # in a row: the threads of the session before wait by spinning for a while, too
            for name, value in medians(exported, repeats, in_a_row=8).items():
                rows[name]["onnx_ms"] = round(value, 2)
        found[f"{size[0]}x{size[1]}"] = {"peak_gflop_per_second": round(peak, 1), "networks": rows}
    return found
