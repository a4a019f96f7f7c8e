"""Representatives: the best min(K, size) pixels of each region, against a loop."""

import pytest
import torch

from segfocus.ops.regions.representatives import choose_representatives, representative_mask


def chosen_in_loops(scores, regions, count):
    rows = []
    for region in range(max(regions) + 1):
        members = [pixel for pixel in range(len(regions)) if regions[pixel] == region]
        best = sorted(members, key=lambda pixel: (-scores[pixel], pixel))[:count]
        rows.append(best + [-1] * (count - len(best)))
    return rows


@pytest.mark.parametrize("count", [1, 3, 8, 50])
@pytest.mark.parametrize("kind", ["few", "many", "one", "singletons"])
def test_they_equal_a_sort_of_each_region(kind, count):
    generator = torch.Generator().manual_seed(count)
    most = {"few": 4, "many": 15, "one": 1, "singletons": 1}[kind]
    regions = torch.randint(most, (40,), generator=generator)
    if kind == "singletons":
        regions = torch.randperm(40, generator=generator)
    scores = torch.randint(5, (40,), generator=generator) / 4  # few values: many ties
    expected = chosen_in_loops(scores.tolist(), regions.tolist(), count)
    assert choose_representatives(scores, regions, count).tolist() == expected


def test_ties_go_to_the_lowest_pixel_and_small_regions_stay_short():
    scores = torch.tensor([0.5, 0.5, 0.9, 0.5, 0.1, 0.5])
    regions = torch.tensor([0, 0, 1, 0, 2, 2])
    assert choose_representatives(scores, regions, 2).tolist() == [[0, 1], [2, -1], [5, 4]]


def test_an_id_without_pixels_has_none():
    chosen = choose_representatives(torch.ones(3), torch.tensor([2, 0, 2]), 2)
    assert chosen.tolist() == [[1, -1], [-1, -1], [0, 2]]


def test_no_pixels_no_rows_and_no_gradient():
    assert choose_representatives(torch.zeros(0), torch.zeros(0, dtype=torch.long), 4).shape == (0, 4)
    scores = torch.rand(5, requires_grad=True)
    assert not choose_representatives(scores, torch.zeros(5, dtype=torch.int32), 4).requires_grad


def test_the_mask_marks_them_in_every_picture():
    generator = torch.Generator().manual_seed(0)
    scores, regions = torch.rand(2, 4, 5, generator=generator), torch.randint(3, (2, 4, 5), generator=generator)
    mask = representative_mask(scores, regions, 2)
    for picture in range(2):
        rows = chosen_in_loops(scores[picture].flatten().tolist(), regions[picture].flatten().tolist(), 2)
        expected = sorted(pixel for row in rows for pixel in row if pixel >= 0)
        assert mask[picture].flatten().nonzero()[:, 0].tolist() == expected
    assert representative_mask(torch.rand(0, 3, 3), torch.zeros(0, 3, 3, dtype=torch.long), 2).shape == (0, 3, 3)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="representatives: expected at least 1 a region, got 0; try 8"):
        choose_representatives(torch.rand(3), torch.zeros(3, dtype=torch.long), 0)
    with pytest.raises(ValueError, match="regions: expected ids from 0, got -1; try"):
        choose_representatives(torch.rand(3), torch.tensor([0, -1, 1]), 2)
