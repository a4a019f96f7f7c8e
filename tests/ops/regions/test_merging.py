"""Chains of leaders, absorption of small regions and the cap on regions against slow twins and known pictures."""

import pytest
import torch

from segfocus.ops.regions import RegionRules, merge
from segfocus.ops.regions.merging import absorb_small, keep_largest, resolve_leaders


def slow_absorb(labels, kept):
    """Grow the kept regions one ring at a time, then number by first pixel."""
    height, width = len(labels), len(labels[0])
    grown = [[label if label in kept else None for label in row] for row in labels]
    while any(label is None for row in grown for label in row):
        before = [row[:] for row in grown]
        for y in range(height):
            for x in range(width):
                around = [
                    before[v][u]
                    for v in range(max(y - 1, 0), min(y + 2, height))
                    for u in range(max(x - 1, 0), min(x + 2, width))
                    if before[v][u] is not None
                ]
                if before[y][x] is None and around:
                    grown[y][x] = min(around)
    order = []
    for row in grown:
        order.extend(label for label in row if label not in order)
        order = list(dict.fromkeys(order))
    return [[order.index(label) for label in row] for row in grown]


def random_labels(seed, height=9, width=14, regions=12):
    """Blocks of labels with scattered single pixels, numbered by first pixel."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(regions, (height // 3 + 1, width // 3 + 1), generator=generator)
    labels = blocks.repeat_interleave(3, 0).repeat_interleave(3, 1)[:height, :width].clone()
    scattered = torch.rand(height, width, generator=generator) < 0.2
    labels[scattered] = regions + torch.arange(int(scattered.sum()))
    flat = labels.flatten().tolist()
    order = {label: number for number, label in enumerate(dict.fromkeys(flat))}
    return torch.tensor([order[label] for label in flat]).view(height, width)


@pytest.mark.parametrize("length", [1, 2, 1500, 5000])
def test_chains_of_any_length_resolve(length):
    leaders = (torch.arange(length) - 1).clamp_min(0)
    assert not resolve_leaders(leaders).any()


def test_regions_are_numbered_by_their_first_pixel():
    assert resolve_leaders(torch.tensor([0, 1, 0, 1, 4, 3, 4])).tolist() == [0, 1, 0, 1, 2, 1, 2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("smallest", [2, 5, 12])
def test_absorption_equals_slow_growth(smallest, seed):
    labels = random_labels(seed)
    sizes = labels.flatten().bincount().tolist()
    kept = {label for label, size in enumerate(sizes) if size >= smallest}
    assert absorb_small(labels, smallest).tolist() == slow_absorb(labels.tolist(), kept)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [1, 3, 8])
def test_the_cap_keeps_the_largest_and_of_equals_the_first(most, seed):
    labels = random_labels(seed)
    sizes = labels.flatten().bincount().tolist()
    kept = set(sorted(range(len(sizes)), key=lambda label: (-sizes[label], label))[:most])
    capped = keep_largest(labels, most)
    assert capped.tolist() == slow_absorb(labels.tolist(), kept)
    assert capped.max() + 1 == most


def test_small_regions_stay_where_no_region_is_large_enough():
    labels = torch.arange(12).view(3, 4)
    assert torch.equal(absorb_small(labels, 8), labels)
    assert torch.equal(merge(labels.flatten(), 3, 4, RegionRules()), labels)
    assert merge(labels.flatten(), 3, 4, RegionRules(max_regions=5)).max() == 4


def test_ties_go_to_the_region_numbered_lowest():
    labels = torch.tensor([[0, 0, 1, 2, 2]])
    assert absorb_small(labels, 2).tolist() == [[0, 0, 0, 1, 1]]


def test_absorption_can_move_the_first_pixel_and_with_it_the_number():
    labels = torch.tensor([[0, 1, 2, 2], [3, 3, 3, 2]])
    assert absorb_small(labels, 3).tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]


def test_leaders_of_another_picture_are_refused():
    with pytest.raises(ValueError, match="expected 3 x 4 pixels, got 5; try"):
        merge(torch.arange(5), 3, 4, RegionRules())
