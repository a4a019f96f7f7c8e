"""Generated boundary and class probabilities for tests of region construction, and how clear their decisions are."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from segfocus.ops.regions.definition import affinity
from segfocus.ops.regions.rules import RegionRules


class Scene(NamedTuple):
    """What region construction reads, and the truth it was made from."""

    boundary: Tensor  # [height, width], P(boundary)
    semantic: Tensor  # [classes, height, width], sums to one
    objects: Tensor  # [height, width], id of the true object of each pixel
    classes: Tensor  # [height, width], true class of each pixel


def smooth(maps: Tensor, times: int = 2) -> Tensor:
    """[channels, height, width] averaged over 3 x 3 neighbours, several times."""
    for _ in range(times):
        maps = functional.avg_pool2d(maps[None], 3, 1, 1, count_include_pad=False)[0]
    return maps


def voronoi(
    height: int,
    width: int,
    *,
    seed: int = 0,
    objects: int = 6,
    classes: int = 5,
    finer: int = 4,
    noise: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Scene:
    """Wobbly cells of random class, outlined by a strong boundary, with noisy class scores.

    Drawn `finer` times finer than the map and averaged, as the scores of a network with stride `finer` would look.
    At 97 x 97 take objects=20, classes=19, finer=8.
    """
    generator = torch.Generator().manual_seed(seed)
    size = (height - 1) * finer + 1, (width - 1) * finer + 1
    seeds = torch.rand(objects, 2, generator=generator) * torch.tensor(size)
    reach = torch.rand(objects, generator=generator) * 0.2 * min(size)
    class_of = torch.randint(classes, (objects,), generator=generator)
    wobble = smooth(torch.randn(2, height, width, generator=generator), 4) * 8 * finer
    wobble = functional.interpolate(wobble[None], size, mode="bilinear", align_corners=True)[0]
    y = torch.arange(size[0])[:, None] + wobble[0]
    x = torch.arange(size[1])[None, :] + wobble[1]
    distance = torch.stack([torch.hypot(y - p[0], x - p[1]) - r for p, r in zip(seeds, reach, strict=True)])
    fine = distance.argmin(0)

    def coarse(maps: Tensor) -> Tensor:
        odd = finer + 1 - finer % 2
        return functional.avg_pool2d(maps[None], odd, finer, odd // 2, count_include_pad=False)[0]

    ids = fine.float()[None, None]
    edge = functional.max_pool2d(ids, 5, 1, 2) != -functional.max_pool2d(-ids, 5, 1, 2)
    boundary = 0.01 + 0.93 * (2 * coarse(edge[0].float())[0]).clamp(max=1)
    boundary = boundary + 0.05 * torch.rand(height, width, generator=generator)
    share = coarse(functional.one_hot(class_of[fine], classes).movedim(2, 0).float())
    logits = 8 * share + 2 * noise * smooth(torch.randn(classes, height, width, generator=generator), 1)
    truth = fine[::finer, ::finer]
    return Scene(boundary.to(dtype), logits.to(dtype).softmax(0), truth, class_of[truth])


def flat(height: int, width: int, *, seed: int = 0, classes: int = 5, dtype: torch.dtype = torch.float32) -> Scene:
    """One object, hardly any boundary: one region, the costliest picture there is."""
    generator = torch.Generator().manual_seed(seed)
    boundary = 0.02 + 0.05 * torch.rand(height, width, generator=generator)
    logits = 0.2 * torch.randn(classes, height, width, generator=generator)
    logits[classes // 2] += 8
    truth = torch.zeros(height, width, dtype=torch.long)
    return Scene(boundary.to(dtype), logits.to(dtype).softmax(0), truth, truth + classes // 2)


def noise(height: int, width: int, *, seed: int = 0, classes: int = 5, dtype: torch.dtype = torch.float32) -> Scene:
    """Nothing but noise: nearly every pixel its own region."""
    generator = torch.Generator().manual_seed(seed)
    boundary = 0.6 * torch.rand(height, width, generator=generator)
    semantic = torch.randn(classes, height, width, generator=generator).to(dtype).softmax(0)
    truth = torch.arange(height * width).view(height, width)
    return Scene(boundary.to(dtype), semantic, truth, semantic.argmax(0))


def margin(scene: Scene, rules: RegionRules) -> float:
    """Smallest distance of any pair's mean affinity from the threshold: below 1e-5, rounding decides the regions."""
    table = affinity(scene.boundary.double(), scene.semantic.double(), rules)
    mean = (table + table.T) / 2
    pairs = mean[~torch.eye(len(mean), dtype=torch.bool)]
    return float((pairs - rules.threshold).abs().min()) if pairs.numel() else 1.0


def clear(make: Callable[..., Scene], *size: int, rules: RegionRules, needed: float = 1e-4, **options) -> Scene:
    """The scene of the first seed whose margin is large enough, so that all backends must agree on the regions.

    Up to some 120 pixels 1e-4 can be had; larger scenes need float64 and a margin of 1e-9.
    """
    for seed in range(200):
        scene = make(*size, seed=seed, **options)
        if margin(scene, rules) > needed:
            return scene
    raise AssertionError(f"no seed of {make.__name__} {size} keeps a margin of {needed} around the threshold")
