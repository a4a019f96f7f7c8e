"""ThreshNet as an ONNX file that takes maps of any size."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.methods.threshnets import build, noisy_map, settle

SIZES = ((2, 40, 56), (1, 9, 70), (3, 64, 16))
"""batch, height, width: no whole patches, less than one patch, whole patches"""


class _Logits(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        return self.network(probabilities).logits


def assert_onnx_gives_the_same_logits(path: str) -> None:
    """Exported once at 40 x 56, run on each of `SIZES`.  Three classes: a map a class, as of two, and joined."""
    import onnxruntime

    network = settle(build(3, keep_above=0.7))
    for decoder in (network.global_decoder, network.local_decoder):
        decoder.head.bias.data.add_(1)  # some pixels are wanted by a class, some by none
    exported = _Logits(network).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    rows, columns = (torch.export.Dim(name, min=8, max=2048) for name in ("rows", "columns"))
    example, shapes = noisy_map(40, 56, 3, 2)[0], ({0: batch, 2: rows, 3: columns},)
    torch.onnx.export(exported, (example,), path, dynamo=True, dynamic_shapes=shapes, opset_version=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count, height, width in SIZES:
        probabilities = noisy_map(height, width, 3, count, seed=count)[0]
        (found,) = session.run(None, {session.get_inputs()[0].name: probabilities.numpy()})
        with torch.no_grad():
            expected = exported(probabilities)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
        base = probabilities.clamp(min=1e-6).log()
        share = (expected != base).any(1).float().mean().item()
        assert 0.1 < share < 0.95, f"{share:.2f} of the pixels refined: expected refined ones and others"


@pytest.mark.slow
def test_onnx_gives_the_same_logits_at_any_size(tmp_path: Path, unchecked):
    failure = unchecked.failure(
        "tests.methods.test_threshnet_export:assert_onnx_gives_the_same_logits", tmp_path / "threshnet.onnx"
    )
    assert not failure, failure
