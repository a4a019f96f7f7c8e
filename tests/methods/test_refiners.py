"""Every trained refiner keeps the contract of refiners."""

from segfocus.methods.patch_bias import PatchBias
from segfocus.methods.picture_refiners import FocusRefiner, OffsetRefiner
from segfocus.methods.threshnet import ThreshNet
from tests.methods.refiner_contract import RefinerContract


def threshnet(classes: int) -> ThreshNet:
    return ThreshNet(classes, width=4, patch=16, boundary_weight=0.05)  # as published, edges slow the first steps


def patch_bias(classes: int) -> PatchBias:
    return PatchBias(classes, width=8, patch=16, region_weight=0.5, threshold_weight=0.5)


def offset_refiner(classes: int) -> OffsetRefiner:
    return OffsetRefiner(classes, width=16, fine=8)


def focus_refiner(classes: int) -> FocusRefiner:
    return FocusRefiner(classes, width=24, fine=8, ratio=0.5)


class TestThreshNet(RefinerContract):
    builder = "tests.methods.test_refiners:threshnet"
    starts_as_base = False
    test_compiles_and_exports_to_the_same_function_or_says_why_not = None  # `test_threshnet_export` does


class TestPatchBias(RefinerContract):
    builder = "tests.methods.test_refiners:patch_bias"
    exported_classes = 3


class TestOffsetRefiner(RefinerContract):
    builder = "tests.methods.test_refiners:offset_refiner"


class TestFocusRefiner(RefinerContract):
    builder = "tests.methods.test_refiners:focus_refiner"
