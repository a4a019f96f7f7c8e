"""MapRefiner: a map -> a prediction; tiles, resizing, what it refuses."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from segfocus.checkpoint import Checkpoint
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.inference.predictor import Predictor
from segfocus.inference.refiner import MapRefiner, refined
from segfocus.methods.base import Refiner, Segmenter
from segfocus.methods.threshnet import ThreshNet
from segfocus.output import Output
from segfocus.recipe import Recipe
from tests.data.map_folders import blobs, shifted_map


class Shift(Refiner):
    """Adds 1 to the logit, and the picture's red where there is one."""

    reads_picture = False

    def __init__(self, num_classes: int = 2, grid: int = 8):
        super().__init__()
        self.num_classes, self.grid = num_classes, grid
        self.sizes: list[tuple[int, int]] = []

    def forward(self, probabilities, image=None):
        self.sizes.append(tuple(probabilities.shape[-2:]))
        if self.num_classes == 2:
            logits = probabilities[:, 1:].clamp(1e-6, 1 - 1e-6).logit() + 1
        else:
            logits = probabilities.clamp(min=1e-6).log()
        return Output(logits if image is None else logits + image[:, :1])

    def loss(self, output, target):
        return {}


class Spy(Segmenter):
    """A segmenter, in a place for refiners."""

    def forward(self, image):
        return Output(image[:, :1])

    def loss(self, output, target):
        return {}


class Looker(Shift):
    reads_picture = True


@pytest.fixture
def values():
    foreground = shifted_map(blobs(3), 3)
    return np.stack([1 - foreground, foreground])


def expected_shift(values, more=1.0):
    return 1 / (1 + np.exp(-(np.log(values[1] / values[0]) + more)))


def test_a_prediction_holds_what_was_and_what_is(values):
    prediction = MapRefiner(Shift(), device="cpu")(values, name="a/b")
    np.testing.assert_allclose(prediction.probabilities[1], expected_shift(values), atol=1e-5)
    assert np.array_equal(prediction.labels, prediction.probabilities[1] > 0.5)
    assert np.array_equal(prediction.initial_labels, values[1] > 0.5)
    assert (prediction.initial_kind, prediction.patch, prediction.name) == ("base", None, "a/b")
    assert prediction.base_probabilities is values
    assert np.array_equal(prediction.picture[:, :, 0], (values[1] * 255).round())


@pytest.mark.parametrize("options", [{"window": (32, 48)}, {"window": (32, 48), "stride": (16, 8)}, {"shifts": True}])
def test_windows_and_shifts_change_nothing_where_pixels_stand_alone(values, options):
    refiner = MapRefiner(Shift(), device="cpu", **options)
    found = refiner(values)
    np.testing.assert_allclose(found.probabilities[1], expected_shift(values), atol=1e-5)
    if "window" in options:
        assert set(refiner.model.sizes) == {(32, 48)}
    again = refined(Shift(), torch.from_numpy(values)[None], **options)
    np.testing.assert_allclose(again[0].numpy(), found.probabilities, atol=1e-6)


def test_streaming_gives_the_same(values):
    refiner = MapRefiner(Shift(), window=(32, 48), device="cpu")
    rows = []
    refiner.refine_streamed(lambda r, c: (values[:, r, c], None), (96, 128), lambda r, part: rows.append(part))
    assert np.array_equal(np.concatenate(rows, 1), refiner.refine(values))
    with pytest.raises(SegfocusError, match="own size to be refined by tiles"):
        MapRefiner(Shift(), resize=(64, 64), device="cpu").refine_streamed(
            lambda r, c: (values, None), (96, 128), print
        )


def test_resizing_goes_there_and_back(values):
    model = Shift()
    prediction = MapRefiner(model, resize=(48, 64), device="cpu")(values)
    assert model.sizes == [(48, 64)]
    small = np.stack([cv2.resize(channel, (64, 48), interpolation=cv2.INTER_AREA) for channel in values])
    expected = cv2.resize(expected_shift(small).astype(np.float32), (128, 96), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(prediction.probabilities[1], expected, atol=1e-5)
    np.testing.assert_allclose(prediction.probabilities.sum(0), 1, atol=1e-5)
    again = refined(Shift(), torch.from_numpy(values)[None], resize=(48, 64))
    np.testing.assert_allclose(again[0].numpy(), prediction.probabilities, atol=1e-6)
    network = ThreshNet(width=2, patch=16)
    assert MapRefiner(network, device="cpu")(values).patch == 16
    assert MapRefiner(network, resize=(48, 64), device="cpu")(values).patch is None
    with pytest.raises(SegfocusError, match="window: expected none where maps are resized to 48x64, got 32x32"):
        MapRefiner(Shift(), resize=(48, 64), window=(32, 32), device="cpu")


def test_pictures_reach_refiners_that_read_them(values):
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:, 64:, 0] = 255
    found = MapRefiner(Looker(), window=(32, 64), device="cpu")(values, picture)
    expected = np.where(picture[:, :, 0] > 0, expected_shift(values, 2), expected_shift(values))
    np.testing.assert_allclose(found.probabilities[1], expected, atol=1e-5)
    assert found.picture is picture
    with pytest.raises(SegfocusError, match="Looker: expected the map's picture, got none; try --images"):
        MapRefiner(Looker(), device="cpu")(values)
    with pytest.raises(SegfocusError, match="expected a picture of the map's size 96x128, got 50x50"):
        MapRefiner(Looker(), device="cpu")(values, np.zeros((50, 50, 3), np.uint8))


def test_more_classes_take_the_largest(values):
    three = np.stack([values[0] * 0.5, values[0] * 0.5 - 0.001, values[1]])
    prediction = MapRefiner(Shift(3), device="cpu")(three)
    assert np.array_equal(prediction.labels, three.argmax(0))
    with pytest.raises(SegfocusError, match="expected a map of 3 classes, as the refiner has, got 2 channels"):
        MapRefiner(Shift(3), device="cpu")(values)


@pytest.mark.parametrize("options", [{}, {"window": (32, 32), "stride": (16, 16)}, {"shifts": True}])
def test_what_the_base_is_sure_of_stays_bit_for_bit(values, options):
    torch.manual_seed(0)
    scores = np.random.default_rng(0).normal(size=(4, 96, 128)) * 3
    maps = (np.exp(scores) / np.exp(scores).sum(0)).astype(np.float32)
    network = ThreshNet(4, width=2, patch=16)
    sure = maps.max(0) >= 0.95
    found = MapRefiner(network, device="cpu", **options)(maps)
    assert 0.1 < sure.mean() < 0.9
    assert np.array_equal(found.probabilities[:, sure], maps[:, sure])
    assert not np.allclose(found.probabilities[:, ~sure], maps[:, ~sure], atol=1e-2)
    network.keep_above = None
    assert not np.array_equal(MapRefiner(network, device="cpu", **options)(maps).probabilities[:, sure], maps[:, sure])


def test_what_is_no_refiner_and_windows_off_the_grid_are_refused():
    segmenter = Checkpoint(Spy(), Recipe(), Classes.from_dict({"classes": {0: "a", 1: "b"}}), {})
    with pytest.raises(SegfocusError, match="got Spy, which sees pictures; try segfocus predict"):
        MapRefiner(segmenter, device="cpu")
    with pytest.raises(SegfocusError, match="got Shift, which refines probability maps; try segfocus refine apply"):
        Predictor(dataclasses.replace(segmenter, model=Shift()), device="cpu")
    with pytest.raises(SegfocusError, match=r"window: expected height and width in multiples of 8 px"):
        MapRefiner(Shift(), window=(30, 32), device="cpu")


def test_settings_tell_weights_and_ways_apart():
    torch.manual_seed(0)
    first, second = ThreshNet(width=2, patch=16), ThreshNet(width=2, patch=16)
    settings = [MapRefiner(first, device="cpu").settings(), MapRefiner(second, device="cpu").settings()]
    settings.append(MapRefiner(first, device="cpu", window=(32, 32)).settings())
    settings.append(MapRefiner(first, device="cpu", shifts=True).settings())
    assert settings[0] == MapRefiner(first, device="cpu").settings()
    assert all(settings[a] != settings[b] for a in range(4) for b in range(a))
