"""OVeNet: sizes, ONNX, precision, refusals."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segfocus.backbone import LiteBackbone
from segfocus.methods.bases import FoRNetBase
from segfocus.methods.fornet import FoRNet
from segfocus.methods.ovenet import OffsetHead, OVeNet
from tests.methods.ovenets import (
    Toy,
    count,
    fixed,
)

# --- sizes, export, refusals --------------------------------------------------------------------------------------


def test_the_released_head_has_the_counted_size():
    """522,723 parameters on the 720 channels of HRNetV2-W48 (fact sheet 1.2); nothing else is added."""
    with torch.device("meta"):
        network = OVeNet(Toy(19, channels=720), 19, trunk="stage4")
        assert count(OffsetHead(720, 720)) == count(network.head) == 522_723
        assert count(OVeNet(Toy(19, channels=32), 19)) - count(Toy(19, channels=32)) == 32 * 32 + 32 + 64 + 99


def test_the_head_on_a_lite_network_is_light():
    """Parameters and multiplications that the head adds to a lite FoR-Net at 360x480."""
    sums = []
    for wrap in (False, True):
        with torch.device("meta"):
            base = FoRNetBase(FoRNet(LiteBackbone(), 11)).eval()
            network = OVeNet(base, 11).eval() if wrap else base
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, 360, 480, device="meta"))
        sums.append((count(network), counter.get_total_flops() / 2e9))
    assert sums[1][0] - sums[0][0] == 1219
    assert sums[1][1] - sums[0][1] == pytest.approx((32 * 32 + 32 * 3) * 90 * 120 / 1e9, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["build_light", "build_every_other_choice", "build_hrnet"])
def test_onnx_gives_the_same_labels_at_two_sizes(builder, tmp_path, unchecked):
    failure = unchecked.failure(
        "tests.exports:assert_onnx_gives_the_same_offsets",
        f"tests.methods.ovenets:{builder}",
        tmp_path / "network.onnx",
    )
    assert not failure, failure


def test_bfloat16_autocast_keeps_coordinates_exact_on_a_wide_picture():
    """A cell at column 500 would move by two cells if positions were rounded to bfloat16."""
    network = fixed(OVeNet(Toy(4), 4, max_offset=8), torch.atanh(torch.tensor(0.5)).item(), 0.0, 0.0).eval()
    image = torch.rand(1, 3, 32, 2048)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image)
    assert output.offsets.dtype == output.confidence.dtype == torch.float32
    initial, seed = output.aux_logits["initial"].float(), output.aux_logits["seed"].float()
    torch.testing.assert_close(seed[..., :-1], initial[..., 1:], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trunk": "stage3"}, "expected a stage to branch at"),
        ({"max_offset": 0}, "max_offset: expected positive pixels"),
        ({"max_offset": [1, 2, 3]}, "max_offset: expected positive pixels"),
        ({"tau": -1.0}, "tau: expected a positive share"),
        ({"hidden": 0}, "hidden: expected a whole number, at least 1, got 0"),
        ({"depth": 0}, "depth: expected a whole number, at least 1"),
        ({"iterations": -1}, "iterations: expected a whole number, at least 0"),
        ({"class_weights": [1.0]}, "expected 4 values, got 1"),
        ({"seed_weight": -0.5}, "seed_weight: expected a factor from 0, got -0.5"),
        ({"iterations": True}, "iterations: expected a whole number, at least 0, got True"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        OVeNet(Toy(4), 4, **options)


def test_a_base_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="base: expected 5 classes, got 4"):
        OVeNet(Toy(4), 5)
    base = Toy(4)
    base.feature_channels = 0
    with pytest.raises(ValueError, match="expected features to read offsets from, got none from Toy"):
        OVeNet(base, 4)
    network = OVeNet(Toy(4), 4)
    network.base.feature_channels = 9
    with pytest.raises(ValueError, match="features of 9 channels, as it says, got 8"):
        network(torch.rand(1, 3, 32, 32))
