"""FoR-Net as an ONNX file: blocks are chosen there as here, and computed alone or with all others, at any size."""

import numpy as np
import pytest
import torch
from torch import nn

from segfocus.backbone import LiteBackbone
from segfocus.inference.fold import fold_batch_norm
from segfocus.methods.fornet import FoRNet


class _WithRegions(nn.Module):
    """A FoR-Net whose importance and chosen regions are results as well."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image):
        output = self.network(image)
        return output.logits, output.importance, output.selected


def assert_onnx_gives_the_same(path: str, adaptive: str, execution: str) -> None:
    """Run by `tests.unchecked`; `adaptive`: a share, or nothing."""
    import onnxruntime

    torch.manual_seed(0)
    network = FoRNet(LiteBackbone(), 5, ratio=0.25, adaptive=float(adaptive) if adaptive else None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    network.execution = execution
    exported = _WithRegions(fold_batch_norm(network)).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    rows, columns = (torch.export.Dim(name, min=8, max=200) for name in ("rows", "columns"))
    shapes = ({0: batch, 2: 8 * rows, 3: 8 * columns},)
    example = torch.rand(2, 3, 96, 160)
    torch.onnx.export(exported, (example,), path, dynamo=True, dynamic_shapes=shapes, opset_version=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in ((1, 3, 360, 480), (3, 3, 128, 72)):
        image = torch.rand(*size)
        logits, importance, selected = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.no_grad():
            output = network(image)
        np.testing.assert_array_equal(selected, output.selected.numpy())
        assert 0 < selected.sum() < selected.size
        np.testing.assert_allclose(importance, output.importance.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(logits, output.logits.numpy(), rtol=0, atol=1e-4)
        assert (logits.argmax(1) == output.labels().numpy()).mean() > 0.999


@pytest.mark.parametrize(("adaptive", "execution"), [("", "sparse"), ("", "auto"), ("0.5", "auto")])
def test_onnx_gives_the_same_logits_and_regions_at_any_size(adaptive, execution, tmp_path, unchecked):
    function = "tests.methods.test_fornet_export:assert_onnx_gives_the_same"
    failure = unchecked.failure(function, tmp_path / "fornet.onnx", adaptive, execution)
    assert not failure, failure
