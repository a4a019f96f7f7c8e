"""Pairs of map and truth, and what every refiner without training must do."""

import numpy as np
import pytest
import torch
from torch import Tensor

from segfocus import checkpoint
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.methods import METHODS, build, method_class
from segfocus.methods.base_logits import LEAST
from segfocus.recipe import ModelConfig, Recipe


def scene(classes: int = 2, height: int = 24, width: int = 31, seed: int = 0, noise: float = 2.0, bias=None):
    """(probabilities, truth with a void strip, picture): stripes, a map that leans to them, colours that show them.

    Args:
        bias: added to the logits of all classes before they become probabilities: something to find.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.ogrid[:height, :width]
    truth = ((columns + rows // 3 + seed) // 5 % classes).astype(np.uint8)
    logits = 2.0 * np.eye(classes)[truth].transpose(2, 0, 1) + noise * random.standard_normal((classes, height, width))
    if bias is not None:
        logits += np.reshape(bias, (-1, 1, 1))
    probabilities = torch.from_numpy(logits).softmax(0).float().numpy()
    colors = random.integers(0, 256, (classes, 3))
    picture = (colors[truth] * 0.8 + random.integers(0, 40, (height, width, 3))).astype(np.uint8)
    truth[:, -2:] = 255
    return probabilities, truth, picture


def batch_of(*scenes) -> tuple[Tensor, Tensor]:
    """Probabilities and pictures of several scenes as `forward` takes them."""
    maps = torch.from_numpy(np.stack([one[0] for one in scenes]))
    pictures = torch.from_numpy(np.stack([one[2] for one in scenes])).permute(0, 3, 1, 2) / 255
    return maps, pictures


def named(classes: int) -> Classes:
    return Classes.from_dict({"classes": {number: f"class {number}" for number in range(classes)}})


class CountedContract:
    """What every refiner without training must do; `method` is its name in METHODS."""

    method: str
    classes = (2, 3)

    def build(self, classes: int = 2, **options):
        return build(ModelConfig(method=self.method, options=options), classes)

    def fitted(self, classes: int = 2):
        refiner = self.build(classes)
        if refiner.fitting == "counted":
            bias = np.linspace(0, 1.5, classes)
            refiner.fit(scene(classes, seed=seed, bias=bias) for seed in range(3))
        return refiner

    def test_is_named_among_the_methods_and_says_what_it_needs(self):
        cls = method_class(self.method)
        assert METHODS[self.method].endswith(f":{cls.__name__}")
        assert cls.takes == "maps"
        assert cls.fitting in ("counted", "none")
        assert not list(self.build().parameters())

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (33, 20)])
    def test_any_size_gives_finite_logits_of_that_size(self, size):
        for classes in self.classes:
            refiner = self.build(classes)
            maps, pictures = batch_of(scene(classes, *size), scene(classes, *size, seed=1))
            output = refiner(maps, pictures)
            assert output.logits.shape == (2, 1 if classes == 2 else classes, *size)
            assert output.logits.dtype == torch.float32
            assert output.logits.isfinite().all()

    def test_sure_maps_stay_finite(self):
        for classes in self.classes:
            _, truth, picture = scene(classes)
            sure = np.eye(classes, dtype=np.float32)[np.minimum(truth, classes - 1)].transpose(2, 0, 1)
            maps, pictures = batch_of((sure, truth, picture))
            assert self.build(classes)(maps, pictures).logits.isfinite().all()

    def test_pictures_of_a_batch_do_not_meet(self):
        maps, pictures = batch_of(scene(seed=0), scene(seed=1))
        refiner = self.fitted()
        both = refiner(maps, pictures).logits
        for number in range(2):
            one = refiner(maps[number : number + 1], pictures[number : number + 1]).logits
            torch.testing.assert_close(both[number : number + 1], one, rtol=1e-5, atol=1e-5)

    def test_the_initial_prediction_is_the_base(self):
        for classes in self.classes:
            maps, pictures = batch_of(scene(classes))
            initial = self.fitted(classes)(maps, pictures).aux_logits["initial"]
            expected = maps[:, 1:].clamp(LEAST, 1 - LEAST).logit() if classes == 2 else maps.clamp(min=LEAST).log()
            assert torch.equal(initial, expected)

    def test_autocast_changes_nothing(self):
        maps, pictures = batch_of(scene())
        refiner = self.fitted()
        with torch.autocast("cpu", torch.bfloat16):
            narrow = refiner(maps, pictures).logits
        assert torch.equal(narrow, refiner(maps, pictures).logits)

    def test_a_checkpoint_keeps_what_was_found(self, tmp_path):
        for classes in self.classes:
            refiner = self.fitted(classes)
            recipe = Recipe(description="a test", model=ModelConfig(method=self.method))
            checkpoint.save(tmp_path / "found.safetensors", refiner, recipe, named(classes))
            loaded = checkpoint.load(tmp_path / "found.safetensors").model
            maps, pictures = batch_of(scene(classes, seed=7))
            assert torch.equal(loaded(maps, pictures).logits, refiner(maps, pictures).logits)

    def test_wrong_input_is_refused_in_one_line(self):
        refiner = self.build()
        maps, pictures = batch_of(scene())
        for wrong in (maps[:, :1], maps.repeat(1, 2, 1, 1)):
            with pytest.raises(SegfocusError, match=r"expected 2 channels, one a class, got \d; try .*") as error:
                refiner(wrong, pictures)
            assert "\n" not in str(error.value)
        if refiner.reads_picture:
            with pytest.raises(SegfocusError, match="expected the picture beside its probabilities, got none; try"):
                refiner(maps)
            with pytest.raises(SegfocusError, match=r"3 channels, 24 x 31 as .*, got 3 channels, 24 x 30; try"):
                refiner(maps, pictures[..., :-1])
            with pytest.raises(SegfocusError, match=r"3 channels, 24 x 31 as .*, got 1 channels, 24 x 31; try"):
                refiner(maps, pictures[:, :1])
        else:
            assert torch.equal(refiner(maps).logits, refiner(maps, pictures).logits)

    def test_there_is_no_loss_and_the_error_says_what_to_do(self):
        refiner = self.build()
        maps, pictures = batch_of(scene())
        with pytest.raises(SegfocusError, match="not trained; try"):
            refiner.loss(refiner(maps, pictures), torch.zeros(1, 24, 31, dtype=torch.long))

    def test_pairs_that_do_not_fit_are_named(self):
        refiner = self.build()
        good = scene()
        maps, truth, picture = good
        if refiner.fitting == "none":
            with pytest.raises(SegfocusError, match="has none; leave fit out"):
                refiner.fit([good])
            return
        outside, unknown = maps.copy(), truth.copy()
        outside[0, 3, 4], unknown[5, 6] = np.nan, 2
        cases = [
            ((scene(3)[0], truth, picture), "pair 1: expected probabilities of 2 classes, got 3; try"),
            ((maps, truth[:-1], picture), "pair 1: expected a truth of 24 x 31 as its probabilities, got 23 x 31; try"),
            ((outside, truth, picture), r"pair 1: expected probabilities in \[0, 1\], got nan to nan; try --logits"),
            ((maps, unknown, picture), r"pair 1: expected train ids below 2 or 255 \(ignored\), got 2; try"),
        ]
        if refiner.reads_picture:
            cases.append(((maps, truth, None), "pair 1: expected a picture of 24 x 31 as its truth, got none; try"))
            cases.append(((maps, truth, picture[:, 1:]), "pair 1: expected a picture of 24 x 31 .* got 24 x 30; try"))
        for wrong, words in cases:
            with pytest.raises(SegfocusError, match=words):
                refiner.fit(iter([good, wrong]))
        void = maps, np.full_like(truth, 255), picture
        for nothing in ([], [void]):
            with pytest.raises(SegfocusError, match="expected at least one labelled pixel, got none; try"):
                refiner.fit(iter(nothing))

    def test_void_pixels_are_not_counted(self):
        refiner, other = self.build(), self.build()
        if refiner.fitting == "none":
            assert not list(refiner.buffers())
            return
        _, truth, _ = first = scene(bias=[0, 1.0], width=25)
        beside = [np.where(truth == 255, np.float32(value), p) for value, p in zip((0.1, 0.9), first[0], strict=True)]
        refiner.fit([first])
        if refiner.reads_picture:  # neighbours of void pixels see them
            return
        other.fit([(np.stack(beside), truth, first[2])])
        for name, value in refiner.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name
