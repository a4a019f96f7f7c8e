import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from segfocus.backbone import LiteBackbone
from segfocus.checkpoint import Checkpoint
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.inference.predictor import Predictor, choose_device, weights_digest
from segfocus.methods.fornet import FoRNet
from segfocus.recipe import Recipe
from tests.inference.stubs import ByBrightness, by_brightness

CLASSES = Classes.from_dict({"classes": {0: "dark", 1: "middle", 2: "bright"}})


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((5, 5, 1), int)).astype(np.uint8)[:23, :31]


def predictor(model=None, **options):
    return Predictor(model or ByBrightness(), CLASSES, device="cpu", **options)


def test_whole_picture(picture):
    found = predictor(ByBrightness(hints=True))(picture, "a/b")
    np.testing.assert_array_equal(found.labels, by_brightness(picture[:, :, 0]))
    assert found.labels.dtype == np.uint8
    assert found.probabilities.shape == (3, 23, 31)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-6)
    np.testing.assert_array_equal(found.probabilities.argmax(0), found.labels)
    np.testing.assert_array_equal(found.picture, picture)
    assert found.name == "a/b"
    np.testing.assert_allclose(found.importance, picture[::4, ::4, 0] / 255, atol=1e-6)
    np.testing.assert_array_equal(found.selected, found.importance > 0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"window": (8, 9)},
        {"window": (8, 9), "stride": (3, 9), "flip": True},
        {"window": (100, 100)},
        {"flip": True},
        {"scales": (1.0, 1.0), "flip": True},
        {"channels_last": False},
    ],
)
def test_windows_and_views_change_nothing_for_a_pixelwise_network(picture, options):
    plain, found = predictor()(picture), predictor(**options)(picture)
    np.testing.assert_array_equal(found.labels, plain.labels)
    np.testing.assert_allclose(found.probabilities, plain.probabilities, atol=1e-6)


def test_scales_are_seen_and_brought_back(picture):
    scaled = predictor(scales=(0.5, 1.5))
    found = scaled(picture)
    assert scaled.model.seen == [(12, 16), (34, 46)]
    assert found.labels.shape == (23, 31)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)


def test_importance_comes_from_the_plain_pass_only(picture):
    plain = predictor(ByBrightness(hints=True))(picture)
    both = predictor(ByBrightness(hints=True), scales=(0.5, 1.0), flip=True)(picture)
    np.testing.assert_array_equal(both.importance, plain.importance)
    np.testing.assert_array_equal(both.selected, plain.selected)
    for options in ({"window": (8, 8)}, {"scales": (0.5,)}):
        found = predictor(ByBrightness(hints=True), **options)(picture)
        assert found.importance is None
        assert found.selected is None
    assert predictor()(picture).importance is None


def test_two_classes_give_two_probabilities(picture):
    classes = Classes.from_dict({"classes": {0: "background", 1: "thing"}})
    found = Predictor(ByBrightness(2), classes, device="cpu", window=(8, 8))(picture)
    assert found.probabilities.shape == (2, 23, 31)
    np.testing.assert_array_equal(found.labels, picture[:, :, 0] > 127)


def test_pictures_in_any_form(tmp_path, picture):
    expected = predictor()(picture)
    Image.fromarray(picture).save(tmp_path / "rgb.png")
    alpha = np.dstack([picture, np.full(picture.shape[:2], 9, np.uint8)])
    for form in (tmp_path / "rgb.png", str(tmp_path / "rgb.png"), Image.fromarray(picture), alpha, picture[:, ::-1]):
        found = predictor()(form)
        flipped = isinstance(form, np.ndarray) and form.shape == picture.shape
        np.testing.assert_array_equal(found.labels, expected.labels[:, ::-1] if flipped else expected.labels)
    assert predictor()(tmp_path / "rgb.png").name == "rgb"
    gray = predictor()(picture[:, :, 0])
    np.testing.assert_array_equal(gray.labels, expected.labels)
    assert gray.picture.shape == picture.shape
    assert predictor()(np.zeros((1, 1, 3), np.uint8)).labels.shape == (1, 1)
    turned = Image.fromarray(picture)
    turned.getexif()[0x0112] = 6
    assert predictor()(turned).labels.shape == (31, 23)


def test_from_a_checkpoint(tmp_path, picture):
    checkpoint = Checkpoint(ByBrightness(), Recipe(), CLASSES, {})
    found = Predictor(checkpoint, device="cpu")
    assert found.classes is CLASSES
    np.testing.assert_array_equal(found(picture).labels, by_brightness(picture[:, :, 0]))
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for file in ("foreign.safetensors", "missing.safetensors"):
        with pytest.raises(SegfocusError, match=file):
            Predictor(tmp_path / file)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_copy_of_the_network_is_used_in_eval_mode_without_gradients(fold, wrapped):
    model = ByBrightness().train().double()
    found = Predictor(Checkpoint(model, Recipe(), CLASSES, {}) if wrapped else model, device="cpu", fold=fold)
    assert not found.model.training
    assert found.model.sharpness.dtype == torch.float32
    image = torch.rand(1, 3, 4, 4)
    before, _ = found.predict(image)
    assert not before.requires_grad
    assert model.training
    assert model.sharpness.dtype == torch.float64
    assert model.seen == []
    with torch.no_grad():
        model.sharpness.mul_(3)  # training goes on
    assert torch.equal(found.predict(image)[0], before)
    assert found.settings() != predictor(model).settings()


def test_batch_norms_are_folded_and_the_settings_still_tell_the_stored_weights():
    torch.manual_seed(0)
    model = FoRNet(LiteBackbone(widths=(8, 8, 16, 16, 16), depths=(0, 1, 0, 0)), 3, channels=16).eval()
    found, plain = Predictor(model, device="cpu"), Predictor(model, device="cpu", fold=False)
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in each.model.modules()) for each in (found, plain)]
    assert norms[0] < norms[1]
    image = torch.rand(1, 3, 65, 80)
    with torch.no_grad():
        expected = model(image).probabilities()
    for each in (found, plain):
        torch.testing.assert_close(each.predict(image)[0], expected, rtol=0, atol=1e-5)
    assert found.settings()["weights"] == plain.settings()["weights"] == weights_digest(model)


def test_settings_tell_weights_and_ways_apart():
    first = predictor().settings()
    assert predictor().settings() == first
    changed = ByBrightness()
    changed.sharpness.data += 1
    for other in (predictor(changed), predictor(flip=True), predictor(scales=(2.0,)), predictor(window=(9, 9))):
        assert other.settings() != first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": (8, 8), "stride": (9, 8)}, "stride: expected two steps"),
        ({"stride": (8, 8)}, "stride: expected a window with it"),
        ({"scales": ()}, "scales: expected numbers above 0"),
        ({"device": "tpu9"}, "device: expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, "device: expected one this machine has, got 'cuda:99'"),
    ],
)
def test_refuses_options(options, words):
    with pytest.raises(SegfocusError, match=words):
        Predictor(ByBrightness(), CLASSES, **options)


def test_refuses_other_classes():
    with pytest.raises(SegfocusError, match="expected 5 classes as the network has, got 3"):
        predictor(ByBrightness(5))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3))])
def test_refuses_arrays(wrong):
    with pytest.raises(SegfocusError, match="expected a uint8 picture"):
        predictor()(wrong)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(SegfocusError, match=r"empty.png"):
        predictor()(tmp_path / "empty.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    with pytest.raises(SegfocusError, match=r"large.png: .* 600"):
        predictor(max_pixels=599)(tmp_path / "large.png")


def test_out_of_memory_names_the_window(picture):
    class Hungry(ByBrightness):
        def forward(self, image):
            raise torch.OutOfMemoryError("no")

    with pytest.raises(SegfocusError, match=r"huge: a picture of 31x23 px did not fit .*try --window"):
        predictor(Hungry())(picture, "huge")


def test_auto_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device().type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device().type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", [{}, {"window": (8, 9), "flip": True, "scales": (0.5, 1.0)}])
def test_cuda_equals_cpu(picture, options):
    plain, found = (Predictor(ByBrightness(), CLASSES, device=device, **options)(picture) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(found.probabilities, plain.probabilities, atol=1e-5)


class Failing(ByBrightness):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, image):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_one_line_on_every_device(picture, error):
    with pytest.raises(SegfocusError, match=r"^large: a picture of 31x23 px did not fit .* cpu; try --window 512x512$"):
        predictor(Failing(error))(picture, "large")


def test_other_errors_of_a_network_pass(picture):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        predictor(Failing(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))(picture)
