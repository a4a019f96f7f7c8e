"""Small ThreshNets and noisy maps that the tests of ThreshNet share."""

import torch
from torch import nn
from torch.nn import functional

from segfocus.methods.threshnet import ThreshNet


def build(classes: int = 2, **options) -> ThreshNet:
    torch.manual_seed(0)
    return ThreshNet(classes, **{"width": 4, "patch": 16, **options})


def noisy_map(height: int = 37, width: int = 51, classes: int = 2, batch: int = 1, seed: int = 0):
    """Probabilities [batch, classes, h, w] that lean to a target with stripes, and that target with a void strip."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    target = ((columns + rows // 2) // 7 % classes).expand(batch, height, width).clone()
    truth = functional.one_hot(target, classes).permute(0, 3, 1, 2)
    noise = torch.rand(batch, classes, height, width, generator=generator)
    probabilities = (2.0 * truth + 3 * noise).softmax(1)
    target[:, -2:] = 255
    return probabilities, target


def settle(network: nn.Module) -> nn.Module:
    """Running statistics of a few passes, so that evaluation is not that of a fresh network."""
    classes = network.num_classes
    with torch.no_grad():
        for seed in range(3):
            network.train()(noisy_map(classes=classes, batch=2, seed=seed)[0])
    return network.eval()
