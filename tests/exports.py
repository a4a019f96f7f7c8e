"""What a network compiled or exported must do.  Run by `tests.unchecked`: no shape checks here."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def built(builder: str, classes: int) -> Any:
    """The network of the function "module:function" of the number of classes, for evaluation."""
    module, _, name = builder.partition(":")
    torch.manual_seed(0)
    return getattr(importlib.import_module(module), name)(classes).eval()


def assert_compiles_and_exports(builder: str, classes: int) -> None:
    """A segmenter compiled as one graph, and exported for other sizes, gives the same logits and labels."""
    network = built(builder, classes)
    small, large = torch.rand(1, 3, 96, 160), torch.rand(2, 3, 120, 136)
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(small).logits, network(small).logits, rtol=1e-4, atol=1e-4)
        eight = torch.export.Dim("rows", min=12, max=200), torch.export.Dim("columns", min=12, max=200)
        sizes = {0: torch.export.Dim("batch", min=1, max=8), 2: 8 * eight[0], 3: 8 * eight[1]}
        program = torch.export.export(network, (torch.rand(2, 3, 96, 160),), dynamic_shapes=(sizes,))
        for image in (small, large, torch.full((1, 3, 96, 160), 0.5)):  # of a flat picture scores may be equal
            got, expected = program.module()(image), network(image)
            torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-4)
            assert torch.equal(got.labels(), expected.labels())


class _WithOffsets(nn.Module):
    """An OVeNet whose offsets are results as well."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.network(image)
        return output.logits, output.offsets, output.confidence


def assert_onnx_gives_the_same_offsets(builder: str, path: str) -> None:
    """The ONNX file of an OVeNet of four classes, at two sizes."""
    import onnxruntime

    from tests.methods.ovenets import awake

    network = _WithOffsets(awake(built(builder, 4)).eval())
    rows, columns = torch.export.Dim("rows", min=3, max=60), torch.export.Dim("columns", min=3, max=60)
    shapes = ({0: torch.export.Dim("batch", min=1, max=8), 2: 32 * rows, 3: 32 * columns},)
    image = torch.rand(2, 3, 96, 160)
    torch.onnx.export(network, (image,), path, dynamo=True, dynamic_shapes=shapes, opset_version=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in ((2, 3, 96, 160), (1, 3, 192, 128)):
        image = torch.rand(*size)
        logits, offsets, confidence = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.no_grad():
            expected = network(image)
        assert expected[1].abs().max() > 1
        for got, value in zip((logits, offsets, confidence), expected, strict=True):
            np.testing.assert_allclose(got, value.numpy(), rtol=1e-3, atol=1e-3)
        assert (logits.argmax(1) == expected[0].argmax(1).numpy()).all()


def assert_context_blocks_export() -> None:
    """Blocks of context at other sizes than the traced one, up to beyond PSA's reach."""
    from segfocus.methods.baselines import build_block

    for name in ("aspp", "non_local", "asymmetric_non_local", "criss_cross", "psa"):
        torch.manual_seed(0)
        block = build_block(name, 16, map_size=9).eval()
        for parameter in block.parameters():
            parameter.data.add_(0.05)
        batch, *sides = torch.export.Dim("batch"), *(torch.export.Dim(name, min=7) for name in ("rows", "columns"))
        sizes = {0: batch, 2: sides[0], 3: sides[1]}
        program = torch.export.export(block, (torch.randn(2, 16, 8, 7),), dynamic_shapes=(sizes,))
        for size in ((8, 7), (11, 13), (7, 20)):
            x = torch.randn(3, 16, *size)
            torch.testing.assert_close(program.module()(x), block(x), rtol=1e-4, atol=1e-5)
