"""What every segmenter must do.  A method's test file subclasses `SegmenterContract` and names its builder.

Pictures are small but odd; `build` must be cheap (a small backbone without weights from anywhere).
"""

from __future__ import annotations

from abc import abstractmethod

import pytest
import torch

from segfocus.methods.base import Segmenter
from segfocus.output import Output


def scene(height: int = 97, width: int = 161, classes: int = 4, batch: int = 1, seed: int = 0):
    """Noisy picture whose colour follows the label, with an ignored strip."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(batch, height, width, dtype=torch.long)
    for label in range(1, classes):
        top, left = (label * height) // (classes + 1), (label * width) // (classes + 2)
        target[:, top : top + height // 3, left : left + width // 3] = label
    target[:, -max(1, height // 20) :] = 255
    colours = torch.rand(classes, 3, generator=generator)
    image = colours[target.clamp(max=classes - 1)].permute(0, 3, 1, 2)
    return (image + 0.05 * torch.randn(image.shape, generator=generator)).clamp(0, 1), target


class SegmenterContract:
    """Inherit, give `builder` (an import path 'module:function' of a function of num_classes), run."""

    classes = 4
    unused_without_gradient: tuple[str, ...] = ()
    """parameters that are allowed to stay without a gradient, with the reason in the subclass"""

    @property
    @abstractmethod
    def builder(self) -> str: ...

    def build(self, classes: int | None = None) -> Segmenter:
        torch.manual_seed(0)
        module, _, name = self.builder.partition(":")
        function = getattr(__import__(module, fromlist=[name]), name)
        return function(classes or self.classes)

    @pytest.mark.parametrize("size", [(97, 161), (1, 1), (7, 300), (64, 64)])
    def test_any_size_gives_logits_at_the_input_resolution(self, size):
        network = self.build().eval()
        with torch.no_grad():
            output = network(torch.rand(1, 3, *size))
        assert isinstance(output, Output)
        assert output.logits.shape == (1, self.classes, *size)
        assert output.logits.isfinite().all()
        probabilities = output.probabilities()
        torch.testing.assert_close(probabilities.sum(1), torch.ones(1, *size))
        assert torch.equal(output.labels(), probabilities.argmax(1))
        if output.importance is not None:
            assert 0 <= output.importance.min() <= output.importance.max() <= 1
            assert output.selected is not None
            assert output.selected.shape == output.importance.shape

    @pytest.mark.parametrize("size", [(1, 1), (8, 8)])
    def test_trains_on_one_picture_of_one_cell(self, size):
        network = self.build().train()
        terms = network.loss(network(torch.rand(1, 3, *size)), torch.ones(1, *size, dtype=torch.long))
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        assert total.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())

    def test_two_classes_are_one_logit(self):
        network = self.build(2)
        image, target = scene(classes=2)
        output = network(image)
        assert output.logits.shape[1] == 1
        assert output.probabilities().shape[1] == 2
        assert torch.equal(output.labels(), (output.logits[:, 0].sigmoid() > 0.5).long())
        sum(network.loss(output, target).values()).backward()

    def test_batch_of_one_trains_and_every_parameter_gets_a_gradient(self):
        network = self.build().train()
        image, target = scene()
        losses = network.loss(network(image), target)
        assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
        without = [
            name
            for name, parameter in network.named_parameters()
            if parameter.grad is None and not name.startswith(self.unused_without_gradient or ("\0",))
        ]
        assert not without
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)

    def test_a_batch_without_labels_gives_a_finite_zero_with_gradient(self):
        network = self.build().train()
        image, target = scene(33, 40)
        losses = network.loss(network(image), torch.full_like(target, 255))
        assert all(value == 0 for value in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)

    def test_same_seed_same_result(self):
        image, target = scene(48, 56)
        results = []
        for _ in range(2):
            network = self.build().train()
            torch.manual_seed(1)
            output = network(image)
            losses = network.loss(output, target)
            sum(losses.values()).backward()
            results.append((output.logits, [p.grad for p in network.parameters() if p.grad is not None]))
        assert torch.equal(results[0][0], results[1][0])
        for one, other in zip(results[0][1], results[1][1], strict=True):
            assert torch.equal(one, other)

    def test_autocast(self):
        network = self.build().train()
        image, target = scene(64, 80)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(image)
            losses = network.loss(output, target)
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
        sum(losses.values()).backward()
        exact = network.loss(network(image), target)
        for name, value in losses.items():
            assert value.item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.05)

    @pytest.mark.slow
    def test_overfits_one_scene(self):
        network = self.build().train()
        image, target = scene(64, 96)
        optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
        labelled = target != 255
        losses, right = [], 0.0
        for _ in range(80):
            output = network(image)
            right = (output.labels() == target)[labelled].float().mean()
            total = sum(network.loss(output, target).values())
            losses.append(total.item())
            if right > 0.95 and losses[-1] < 0.5 * losses[0]:
                break
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        assert losses[-1] < 0.5 * losses[0]
        assert right > 0.95

    def test_save_and_load_give_the_same_function(self, tmp_path):
        from safetensors.torch import load_file, save_file

        network = self.build().eval()
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        torch.manual_seed(5)
        other = self.build().eval()
        for parameter in other.parameters():
            parameter.data.add_(0.1)
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        image, _ = scene(40, 50)
        with torch.no_grad():
            assert torch.equal(network(image).logits, other(image).logits)

    @pytest.mark.slow
    def test_compiles_and_exports_to_the_same_function_or_says_why_not(self, unchecked):
        network = self.build()
        if not network.exportable:
            assert network.export_refusal
            return
        failure = unchecked.failure("tests.exports:assert_compiles_and_exports", self.builder, self.classes)
        assert not failure, failure
