"""Parameter groups and the learning rate, against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

from segfocus.errors import SegfocusError
from segfocus.recipe import OptimizerConfig
from segfocus.training.optim import build_optimizer, learning_rate_factor, parameter_groups, set_learning_rate


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.norm = nn.LayerNorm([2, 5])  # a two-dimensional normalisation weight
        self.scale = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_groups_hold_each_trainable_parameter_once_with_its_decay_and_rate():
    model = Small()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, OptimizerConfig(learning_rate=0.1, backbone_factor=0.5, weight_decay=0.3))
    found = {
        frozenset(names[id(parameter)] for parameter in group["params"]): (group["lr"], group["weight_decay"])
        for group in groups
    }
    assert found == {
        frozenset({"backbone.0.weight"}): (0.05, 0.3),
        frozenset({"backbone.0.bias", "backbone.1.weight", "backbone.1.bias"}): (0.05, 0.0),
        frozenset({"head.weight"}): (0.1, 0.3),
        frozenset({"head.bias", "norm.weight", "norm.bias", "scale"}): (0.1, 0.0),
    }


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(SegfocusError, match="expected trainable parameters"):
        parameter_groups(nn.ReLU(), OptimizerConfig())


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_moves_weights_and_follows_the_factor(name, fused):
    model = Small()
    optimizer = build_optimizer(model, OptimizerConfig(name=name, learning_rate=0.1), fused=fused)
    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.025}
    before = model.head.weight.detach().clone()
    model.head(model.backbone(torch.rand(2, 3, 5, 5))).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.head.weight)


def test_warm_up_rises_linearly_and_is_at_most_a_tenth_of_the_run():
    config = OptimizerConfig(warmup_steps=100)
    assert [learning_rate_factor(step, 40, config) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate_factor(0, 5, config) == 1.0
    assert learning_rate_factor(9, 1000, OptimizerConfig(warmup_steps=10)) == 1.0


def test_poly_and_cosine_follow_their_formulas():
    poly = OptimizerConfig(schedule="poly", power=0.9, warmup_steps=0)
    cosine = OptimizerConfig(schedule="cosine", warmup_steps=0)
    for step in (0, 3, 50, 99):
        assert learning_rate_factor(step, 100, poly) == pytest.approx((1 - step / 100) ** 0.9)
        assert learning_rate_factor(step, 100, cosine) == pytest.approx(0.5 + 0.5 * math.cos(math.pi * step / 100))
        assert learning_rate_factor(step, 100, poly) > 0
