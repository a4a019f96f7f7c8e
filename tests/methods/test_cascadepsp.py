"""CascadePSP's adapter, with a stand-in for the package, which fetches its weights from the network."""

import textwrap

import numpy as np
import pytest
import torch

from segfocus.errors import SegfocusError
from segfocus.methods import build, cascadepsp
from segfocus.methods.cascadepsp import CascadePSP, installed
from segfocus.recipe import ModelConfig
from tests.methods.counted_contract import CountedContract, batch_of, scene

STAND_IN = '''
import numpy as np

calls = []


class Refiner:
    """Like the package's: uint8 RGB height x width x 3 and mask height x width, 0 ... 255 -> uint8 mask."""

    def __init__(self, device="cpu", model_folder=None, download_and_check_model=True):
        self.device = device
        calls.append(device)

    def refine(self, image, mask, fast=False, L=900):
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == (*mask.shape, 3)
        calls.append((fast, L))
        return np.where((mask > 127) & (image[..., 0] > 100), 255, image[..., 2] // 2).astype("uint8")
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The stand-in, importable under the package's name."""
    (tmp_path / "stand_in_for_cascadepsp.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cascadepsp, "_MODULE", "stand_in_for_cascadepsp")
    import stand_in_for_cascadepsp

    stand_in_for_cascadepsp.calls.clear()
    return stand_in_for_cascadepsp


@pytest.mark.usefixtures("package")
class TestCascadePSP(CountedContract):
    method = "cascadepsp"
    classes = (2,)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cascadepsp, "_MODULE", "a_package_that_nobody_has")
    assert not installed()
    with pytest.raises(SegfocusError, match="expected the package segmentation-refinement, got none; try pip install"):
        CascadePSP()


def test_it_hands_over_bytes_and_takes_them_back(package):
    refiner = build(ModelConfig(method="cascadepsp", options={"side": 300, "fast": True}), 2)
    assert installed()
    assert package.calls == []  # weights are fetched when they are needed
    maps, pictures = batch_of(scene(), scene(seed=1))
    maps[0, :, 3] = 0.5
    refined = refiner(maps, pictures)
    assert package.calls == ["cpu", (True, 300), (True, 300)]
    refiner(maps, pictures)
    assert package.calls.count("cpu") == 1
    colors = (pictures * 255).round()
    mask = maps[:, 1] > 0.5
    expected = torch.where(mask & (colors[:, 0] > 100), 1.0, (colors[:, 2] // 2) / 255)
    torch.testing.assert_close(refined.probabilities()[:, 1], expected, rtol=0, atol=2e-6)
    assert torch.equal(refined.labels(), (expected > 0.5).long())
    assert np.any(refined.labels().numpy())


def test_more_than_two_classes_are_refused(package):
    with pytest.raises(SegfocusError, match="cascadepsp: expected two classes, got 3; try"):
        CascadePSP(3)


def test_it_says_why_it_cannot_be_exported(package):
    refiner = CascadePSP()
    assert not refiner.exportable
    assert refiner.export_refusal
