"""What every refiner that is trained must do.  A test class inherits `RefinerContract` and names its builder.

Maps are small but odd; `build` must be cheap.
"""

from __future__ import annotations

from abc import abstractmethod

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segfocus.errors import SegfocusError
from segfocus.methods.base import Refiner
from segfocus.output import Output, logit_channels
from tests.exports import built


def noisy_map(
    height: int = 41, width: int = 53, classes: int = 2, batch: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """(probabilities, picture, target): a map that leans to stripes, a picture that shows them, a void strip."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    target = ((columns + rows // 2) // 7 % classes).expand(batch, height, width).clone()
    truth = functional.one_hot(target, classes).permute(0, 3, 1, 2)
    noise = torch.rand(batch, classes, height, width, generator=generator)
    picture = torch.rand(classes, 3, generator=generator)[target].permute(0, 3, 1, 2)
    picture = (picture + 0.05 * torch.randn(picture.shape, generator=generator)).clamp(0, 1)
    target[:, -2:] = 255
    return (2.0 * truth + 3 * noise).softmax(1), picture, target


def biased_map(side: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """A disc and a bar; the map is blurred, noisy and shifted by a slow wave, so that 0.5 is nowhere the best cut."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    target = (((rows - 20) ** 2 + (columns - 24) ** 2 < 150) | ((columns - 50).abs() < 4)).long()[None]
    noise = functional.avg_pool2d(torch.randn(1, 1, side + 4, side + 4, generator=generator), 5, 1)
    blurred = functional.avg_pool2d(functional.pad(target[None].float(), (2, 2, 2, 2), mode="replicate"), 5, 1)
    logit = 5 * blurred - 2.5 + 3 * noise - 1.5 * torch.sin(columns / 20) - 1
    picture = (target[:, None].expand(-1, 3, -1, -1) + torch.rand(1, 3, side, side, generator=generator)) / 2
    return torch.cat([-logit / 2, logit / 2], 1).softmax(1), picture, target


def foreground_iou(labels: Tensor, target: Tensor) -> float:
    found, truth = labels == 1, target == 1
    return float((found & truth).sum() / (found | truth).sum())


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def assert_gradients_are_finite(network: Refiner) -> None:
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


class RefinerContract:
    """Inherit, give `builder` (an import path 'module:function' of a function of num_classes), run."""

    starts_as_base = True
    """whether an untrained network gives the base's prediction, bit for bit"""
    learning_rate = 1e-2
    exported_classes = 2

    @property
    @abstractmethod
    def builder(self) -> str: ...

    def build(self, classes: int) -> Refiner:
        torch.manual_seed(0)
        module, _, name = self.builder.partition(":")
        return getattr(__import__(module, fromlist=[name]), name)(classes)

    def stepped(self, classes: int) -> Refiner:
        """After two steps of training: no layer is as it started."""
        network = self.build(classes).train()
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        probabilities, picture, target = noisy_map(classes=classes, batch=2)
        for _ in range(2):
            optimizer.zero_grad()
            total(network.loss(network(probabilities, picture), target)).backward()
            optimizer.step()
        optimizer.zero_grad()
        return network

    @pytest.mark.parametrize(
        ("classes", "size"), [(2, (1, 1)), (3, (97, 161)), (2, (7, 80)), (4, (1, 1)), (2, (64, 64))]
    )
    def test_any_size_gives_logits_at_the_same_resolution(self, classes, size):
        network = self.build(classes).eval()
        probabilities, picture, _ = noisy_map(*size, classes)
        kept = probabilities.clone()
        with torch.no_grad():
            output = network(probabilities, picture)
        assert isinstance(output, Output)
        assert output.logits.shape == (1, logit_channels(classes), *size)
        assert output.logits.dtype == torch.float32
        assert output.logits.isfinite().all()
        assert output.aux_logits["initial"].shape == output.logits.shape
        torch.testing.assert_close(Output(output.aux_logits["initial"]).probabilities(), probabilities)
        assert output.probabilities().shape == probabilities.shape
        assert torch.equal(probabilities, kept)

    @pytest.mark.parametrize("side", [1, 8])
    @pytest.mark.parametrize("classes", [2, 3])
    def test_trains_on_a_map_of_few_pixels(self, classes, side):
        network = self.build(classes).train()
        probabilities, picture, _ = noisy_map(side, side, classes)
        value = total(network.loss(network(probabilities, picture), torch.ones(1, side, side, dtype=torch.long)))
        value.backward()
        assert value.isfinite()
        assert_gradients_are_finite(network)

    @pytest.mark.parametrize("classes", [2, 3])
    def test_the_first_steps_reach_every_parameter(self, classes):
        network = self.stepped(classes)
        probabilities, picture, target = noisy_map(classes=classes)
        terms = network.loss(network(probabilities, picture), target)
        assert all(value.ndim == 0 and value.isfinite() and value > 0 for value in terms.values())
        total(terms).backward()
        assert_gradients_are_finite(network)
        assert not [name for name, p in network.named_parameters() if p.ndim > 1 and not p.grad.any()]

    @pytest.mark.parametrize("classes", [2, 3])
    def test_a_batch_without_labels_gives_a_finite_zero_with_gradient(self, classes):
        network = self.build(classes).train()
        probabilities, picture, target = noisy_map(classes=classes)
        terms = network.loss(network(probabilities, picture), torch.full_like(target, 255))
        total(terms).backward()
        assert all(value == 0 for value in terms.values())
        assert_gradients_are_finite(network)

    def test_same_seed_same_result(self):
        results = []
        for _ in range(2):
            network = self.stepped(2)
            probabilities, picture, target = noisy_map()
            output = network(probabilities, picture)
            total(network.loss(output, target)).backward()
            results.append([output.logits.detach(), *(p.grad for p in network.parameters())])
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

    @pytest.mark.parametrize("classes", [2, 3])
    def test_autocast(self, classes):
        network = self.stepped(classes)
        probabilities, picture, target = noisy_map(classes=classes)
        exact = network.loss(network(probabilities, picture), target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(probabilities, picture)
            terms = network.loss(output, target)
        assert output.logits.dtype == torch.float32
        for name, value in terms.items():
            assert value.dtype == torch.float32
            assert value.item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.05)
        total(terms).backward()
        assert_gradients_are_finite(network)

    def test_what_stands_beside_a_map_in_the_batch_does_not_matter(self):
        network = self.stepped(3).eval()
        probabilities, picture, _ = noisy_map(classes=3, batch=2)
        probabilities = torch.cat([probabilities[:1], probabilities[1:].flip(1)])
        with torch.no_grad():
            together = network(probabilities, picture).logits
            alone = [network(probabilities[i : i + 1], picture[i : i + 1]).logits for i in range(2)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)

    def test_an_untrained_network_gives_the_base_where_it_starts_so(self):
        probabilities, picture, _ = noisy_map()
        with torch.no_grad():
            output = self.build(2).eval()(probabilities, picture)
        assert torch.equal(output.logits, output.aux_logits["initial"]) == self.starts_as_base
        if self.starts_as_base:
            probabilities, picture, _ = noisy_map(classes=3)
            untrained, trained = self.build(3).eval(), self.stepped(3).eval()
            with torch.no_grad():
                output, moved = untrained(probabilities, picture), trained(probabilities, picture)
            assert torch.equal(output.logits, output.aux_logits["initial"])
            assert (moved.logits != moved.aux_logits["initial"]).any()

    def test_the_picture_is_asked_for_only_where_it_is_read(self):
        network = self.stepped(2).eval()
        probabilities, picture, _ = noisy_map()
        with torch.no_grad():
            found = network(probabilities, picture).logits
            if not network.reads_picture:
                assert torch.equal(network(probabilities).logits, found)
                assert torch.equal(network(probabilities, 1 - picture).logits, found)
                return
            assert (network(probabilities, 1 - picture).logits != found).any()
        with pytest.raises(SegfocusError, match="expected pictures beside the maps, got none; try"):
            network(probabilities)

    def test_another_number_of_channels_is_refused_with_the_remedy(self):
        _, picture, _ = noisy_map()
        for classes, channels in ((2, 1), (3, 2)):
            with pytest.raises(ValueError, match=f"expected {classes} channels, one a class, got {channels}; try"):
                self.build(classes)(torch.rand(1, channels, 41, 53), picture)

    def test_it_says_what_it_takes_and_how_it_is_fitted(self):
        network = self.build(2)
        assert network.takes == "maps"
        assert network.fitting == "trained"
        with pytest.raises(SegfocusError, match="is trained; try segfocus refine train"):
            network.fit([])

    def test_save_and_load_give_the_same_function(self, tmp_path):
        from safetensors.torch import load_file, save_file

        network = self.stepped(2).eval()
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        other = self.build(2).eval()
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        probabilities, picture, _ = noisy_map()
        with torch.no_grad():
            assert torch.equal(network(probabilities, picture).logits, other(probabilities, picture).logits)

    def test_overfits_a_map_beyond_the_base(self):
        network = self.build(2).train()
        probabilities, picture, target = biased_map()
        base = foreground_iou(probabilities.argmax(1), target)
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate)
        for step in range(60):
            if step == 45:  # the weights settle, so that running statistics can follow
                optimizer.param_groups[0]["lr"] = self.learning_rate / 10
            optimizer.zero_grad()
            total(network.loss(network(probabilities, picture), target)).backward()
            optimizer.step()
        with torch.no_grad():
            found = foreground_iou(network.eval()(probabilities, picture).labels(), target)
        assert base < 0.5
        assert found > base + 0.2

    @pytest.mark.slow
    def test_compiles_and_exports_to_the_same_function_or_says_why_not(self, unchecked):
        network = self.build(2)
        if not network.exportable:
            assert network.export_refusal
            return
        arguments = self.builder, self.exported_classes
        failure = unchecked.failure("tests.methods.refiner_contract:assert_compiles_and_exports", *arguments)
        assert not failure, failure


def assert_compiles_and_exports(builder: str, classes: int) -> None:
    """The same logits as one compiled graph, and exported once for all maps of 33 pixels and more.

    Run by `tests.unchecked`.
    """
    network = built(builder, classes)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    batch = torch.export.Dim("batch", min=1, max=8)
    rows, columns = (torch.export.Dim(name, min=33, max=1024) for name in ("rows", "columns"))
    sizes = {0: batch, 2: rows, 3: columns}
    maps = noisy_map(70, 41, classes)[:2]
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*maps).logits, network(*maps).logits, rtol=1e-4, atol=1e-4)
        program = torch.export.export(
            network, noisy_map(64, 96, classes, 2)[:2], dynamic_shapes={"probabilities": sizes, "image": sizes}
        ).module()
        for size in ((48, 80, classes, 1), (97, 71, classes, 3)):
            maps = noisy_map(*size)[:2]
            torch.testing.assert_close(program(*maps).logits, network(*maps).logits, rtol=1e-4, atol=1e-4)
