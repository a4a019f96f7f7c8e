"""Output: binary and multi-class decisions, and its passage through torch's trees."""

import pytest
import torch
from torch.utils import _pytree

from segfocus.output import Output, logit_channels


def test_binary_probabilities_are_two_classes_cut_at_one_half():
    logits = torch.tensor([-3.0, -1e-6, 0.0, 1e-6, 3.0]).view(1, 1, 1, 5)
    output = Output(logits)
    probabilities = output.probabilities()
    torch.testing.assert_close(probabilities[:, 1:], logits.sigmoid())
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 1, 5))
    assert output.labels().flatten().tolist() == [0, 0, 0, 1, 1]


def test_multi_class_probabilities_are_softmax_in_float32():
    logits = torch.randn(2, 5, 3, 4).to(torch.bfloat16)
    output = Output(logits)
    assert output.probabilities().dtype == torch.float32
    torch.testing.assert_close(output.probabilities(), logits.float().softmax(1))
    assert torch.equal(output.labels(), logits.argmax(1))


def test_channels_of_a_task():
    assert [logit_channels(n) for n in (2, 3, 19)] == [1, 3, 19]
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        logit_channels(1)


def test_is_frozen_and_survives_flattening():
    output = Output(
        torch.rand(1, 3, 4, 4), importance=torch.rand(1, 1, 2, 2), aux_logits={"base": torch.rand(1, 3, 2, 2)}
    )
    with pytest.raises(AttributeError):
        output.logits = torch.rand(1)
    leaves, tree = _pytree.tree_flatten(output)
    assert len(leaves) == 3
    again = _pytree.tree_unflatten(leaves, tree)
    assert again.selected is None
    assert torch.equal(again.aux_logits["base"], output.aux_logits["base"])
    doubled = _pytree.tree_map(lambda leaf: leaf * 2, output)
    torch.testing.assert_close(doubled.logits, output.logits * 2)


def test_regions_and_representatives_lie_on_one_grid_and_survive_flattening():
    regions, mask = torch.arange(12).view(1, 3, 4), torch.rand(1, 3, 4) > 0.5
    output = Output(torch.rand(1, 3, 24, 32), regions=regions, representatives=mask)
    again = _pytree.tree_unflatten(*_pytree.tree_flatten(output))
    assert torch.equal(again.representatives, mask)
    assert torch.equal(again.regions, regions)
    with pytest.raises(Exception, match="representatives"):
        Output(torch.rand(1, 3, 24, 32), regions=regions, representatives=mask[:, 1:])
