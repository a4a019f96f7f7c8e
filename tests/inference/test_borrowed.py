"""What the predictor tells of methods that borrow predictions, or look at regions."""

import numpy as np
import pytest
import torch

from segfocus.data.classes import Classes
from segfocus.inference.predictor import Predictor, initial_probabilities
from segfocus.ops.resample import enlarge
from segfocus.output import Output
from tests.inference.stubs import Borrower, ByBrightness, Regional, by_brightness

CLASSES = Classes.of(["dark", "middle", "bright"])
SIZES = [(23, 31), (24, 32), (97, 161), (1, 1), (3, 5)]


def picture_of(size):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (-(-size[0] // 5), -(-size[1] // 5), 3))
    return np.kron(blocks, np.ones((5, 5, 1), int)).astype(np.uint8)[: size[0], : size[1]]


def initial_of(picture, num_classes=3):
    """Labels of the stub's initial logits, enlarged by its stride."""
    image = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        logits = Borrower(num_classes)(image).aux_logits["initial"]
        large = enlarge(logits, 4, 1, picture.shape[:2])
    return (large[0, 0] > 0).numpy() if num_classes == 2 else large[0].argmax(0).numpy()


def predictor(model=None, **options):
    return Predictor(model or Borrower(), CLASSES, device="cpu", **{"initial": True, **options})


@pytest.mark.parametrize("size", SIZES)
def test_offsets_confidence_and_initial_labels(size):
    picture = picture_of(size)
    found = predictor()(picture)
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    assert found.offsets.shape == (2, *grid)
    assert (found.offsets[0] == 4).all()
    assert (found.offsets[1] == 0).all()
    np.testing.assert_array_equal(found.confidence, np.full(grid, 0.75, np.float32))
    np.testing.assert_array_equal(found.initial_labels, initial_of(picture))
    assert found.initial_labels.dtype == np.uint8
    np.testing.assert_array_equal(found.labels, predictor(initial=False)(picture).labels)


def test_initial_labels_only_where_asked_for_and_there():
    picture = picture_of((23, 31))
    assert predictor(initial=False)(picture).initial_labels is None
    plain = predictor(ByBrightness())(picture)
    assert plain.initial_labels is None
    assert plain.offsets is None
    assert plain.confidence is None


def test_two_classes():
    picture = picture_of((23, 31))
    found = Predictor(Borrower(2), Classes.of(["off", "on"]), device="cpu", initial=True, flip=False)(picture)
    assert found.probabilities.shape == (2, 23, 31)
    np.testing.assert_array_equal(found.initial_labels, initial_of(picture, 2))


def test_initial_and_final_prediction_are_averaged_alike():
    class Unmoved(Borrower):
        """Borrows from itself: the final prediction is the initial one."""

        def forward(self, image):
            output = super().forward(image)
            logits = enlarge(output.aux_logits["initial"], 4, 1, tuple(image.shape[-2:]))
            return Output(
                logits, offsets=0 * output.offsets, confidence=output.confidence, aux_logits=output.aux_logits
            )

    picture = picture_of((41, 53))
    for options in (
        {"window": (17, 21)},
        {"scales": (0.5, 1.0, 1.7), "flip": True},
        {"window": (16, 16), "flip": True},
    ):
        found = predictor(Unmoved(), **options)(picture)
        np.testing.assert_array_equal(found.initial_labels, found.labels)
        np.testing.assert_array_equal(found.labels, predictor(Unmoved(), initial=False, **options)(picture).labels)
        assert (found.offsets is None) == ("window" in options)
    both = predictor(scales=(0.5, 1.0), flip=True)(picture)
    np.testing.assert_array_equal(both.offsets, predictor()(picture).offsets)  # of the plain pass, not mirrored
    assert predictor(scales=(0.5,))(picture).offsets is None


def test_initial_logits_of_a_padded_picture_lie_where_the_offsets_do():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 8, 12, generator=rng)  # stride 4 over 32 x 48, of a picture of 21 x 46
    output = Output(torch.zeros(1, 3, 21, 46), offsets=torch.zeros(1, 2, 6, 12), aux_logits={"initial": logits.clone()})
    expected = enlarge(logits, 4, 1, (21, 46)).softmax(1)
    torch.testing.assert_close(initial_probabilities(output), expected, rtol=0, atol=1e-6)


def test_cells_of_any_side():
    """Vision transformers with patches of 14 px."""
    logits = torch.randn(1, 3, 7, 12, generator=torch.Generator().manual_seed(0))
    output = Output(torch.zeros(1, 3, 97, 161), aux_logits={"initial": logits}, offsets=torch.zeros(1, 2, 7, 12))
    expected = enlarge(logits, 14, 1, (97, 161)).softmax(1)
    torch.testing.assert_close(initial_probabilities(output), expected)


def test_a_grid_that_no_square_cells_explain_is_refused():
    output = Output(torch.zeros(1, 3, 21, 46), aux_logits={"initial": torch.zeros(1, 3, 5, 5)})
    with pytest.raises(ValueError, match="expected a grid of square cells over 21x46 px, got 5x5 cells"):
        initial_probabilities(output)


@pytest.mark.parametrize("size", SIZES)
def test_regions_representatives_boundary_and_coarse_labels(size):
    picture = picture_of(size)
    found = predictor(Regional())(picture)
    red = picture[::8, ::8, 0]
    expected = by_brightness(red)
    np.testing.assert_array_equal(found.regions, expected)
    assert found.regions.dtype == np.int32
    firsts = {int(np.flatnonzero(expected == number)[0]) for number in np.unique(expected)}
    assert set(np.flatnonzero(found.representatives)) == firsts
    np.testing.assert_allclose(found.boundary, 1 / (1 + np.exp(4 - picture[::8, ::8, 1] / 255 * 8)), atol=1e-6)
    assert found.boundary.dtype == np.float32
    assert found.initial_kind == "coarse"
    with torch.inference_mode():
        output = Regional()(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
        coarse = enlarge(output.aux_logits["coarse"], 8, 1, size).softmax(1)
    torch.testing.assert_close(initial_probabilities(output), coarse)
    np.testing.assert_array_equal(found.initial_labels, coarse[0].argmax(0).numpy())
    np.testing.assert_array_equal(found.labels, by_brightness(picture[..., 0]))


def test_attention_is_asked_for_later():
    picture = picture_of((23, 31))
    asked = predictor(Regional())
    found = asked(picture)
    passes = len(asked.model.seen)
    attention = found.look_from(22, 30)
    expected = picture[::8, ::8, 0] / np.float32(255)
    expected[2, 3] *= 2
    np.testing.assert_allclose(attention, expected, rtol=1e-6)
    assert attention.dtype == np.float32
    assert len(asked.model.seen) == passes > 0, "the stub's attention needs no pass of its own"


def test_what_a_method_has_not_is_none():
    picture = picture_of((23, 31))
    plain = predictor(ByBrightness())(picture)
    names = ("regions", "representatives", "boundary", "look_from", "initial_kind", "initial_labels")
    assert all(getattr(plain, name) is None for name in names)
    assert ByBrightness().attention(torch.rand(1, 3, 5, 6), 0, 0) is None
    assert predictor()(picture).initial_kind == "initial"
    assert predictor(initial=False)(picture).initial_kind is None


@pytest.mark.parametrize("options", [{"window": (16, 16)}, {"scales": (0.5, 2.0)}])
def test_nothing_of_regions_where_no_pass_saw_the_picture_whole(options):
    found = predictor(Regional(), **options)(picture_of((23, 31)))
    assert all(getattr(found, name) is None for name in ("regions", "representatives", "boundary", "look_from"))
    assert found.initial_kind == "coarse"
    assert found.initial_labels.shape == (23, 31)


def test_the_first_first_prediction_counts():
    maps = {name: torch.randn(1, 3, 4, 5) for name in ("coarse", "initial")}
    output = Output(torch.zeros(1, 3, 4, 5), aux_logits=maps)
    torch.testing.assert_close(initial_probabilities(output), maps["initial"].softmax(1))
    assert initial_probabilities(Output(torch.zeros(1, 3, 4, 5), aux_logits={"global": maps["coarse"]})) is None


def test_coarse_logits_of_a_padded_picture_lie_where_the_regions_do():
    logits = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))  # stride 8 over 64 x 64
    output = Output(
        torch.zeros(1, 3, 21, 46), regions=torch.zeros(1, 3, 6, dtype=torch.long), aux_logits={"coarse": logits}
    )
    torch.testing.assert_close(initial_probabilities(output), enlarge(logits, 8, 1, (21, 46)).softmax(1))
