"""Small FoR-Nets and pictures for tests."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from segfocus.backbone import LiteBackbone
from segfocus.methods.fornet import CELL, FoRNet
from segfocus.ops.resample import ceil_div


def build(classes: int = 4, seed: int = 0, **options) -> FoRNet:
    """For evaluation, with statistics of BatchNorm that matter."""
    torch.manual_seed(seed)
    backbone = LiteBackbone((4, 8, 8, 8, 8), (0, 0, 0, 0))
    network = FoRNet(backbone, classes, **{"channels": 8, "selector_channels": 4, "decoder_channels": 8, **options})
    for name, value in network.named_buffers():
        if name.endswith("running_mean"):
            value.uniform_(-0.5, 0.5)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return network.eval()


def pictures(height: int, width: int, batch: int = 1) -> torch.Tensor:
    """Grey, with noise in another part of every picture, so that selections differ."""
    generator = torch.Generator().manual_seed(height + width)
    noise = torch.rand(batch, 3, height, width, generator=generator)
    for index in range(batch):
        noise[index, :, height // (index + 1) + 1 :] = 0.5
        noise[index, :, :, : index * width // 4] = 0.5
    return noise


def parts(network: FoRNet, image: torch.Tensor):
    """F, the finest map of the backbone, and the selections."""
    with torch.no_grad():
        features, fine = network.features(image)
        cells = (ceil_div(image.shape[-2], CELL), ceil_div(image.shape[-1], CELL))
        return features, fine, network.select(network.selector.logits(features).sigmoid(), cells)


def both(network: FoRNet, image: torch.Tensor):
    """Outputs of the sparse and of the dense way."""
    outputs = []
    for execution in ("sparse", "dense"):
        network.execution = execution
        with torch.no_grad():
            outputs.append(network(image))
    return outputs


def multiply_adds(call, *arguments) -> float:
    """Counted by torch, of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*arguments)
    return counter.get_total_flops() / 2
