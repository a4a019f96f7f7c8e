"""Triton kernels without a GPU: run by Triton's interpreter in a process of its own, and compiled ahead of time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segfocus.ops.regions import definition
from segfocus.ops.regions.rules import RegionRules
from tests.ops.regions.scenes import Scene, clear, flat, noise, voronoi

triton = pytest.importorskip(
    "triton", reason="Triton is missing: it comes with PyTorch for CUDA, or pip install triton"
)

CLASSES = 5


@dataclass
class Case:
    """One picture, and how it is cut into tiles (None: as on a GPU)."""

    rules: RegionRules
    scene: Scene
    tile: tuple[int, int] | None = (16, 64)
    gradient_scale: float = 1.0

    def regions(self) -> Tensor:
        """The true objects and the last pixel alone, few and large: the interpreter takes its time for each.

        In noise every pixel is an object; there seven regions are scattered all over the picture.
        """
        objects = self.scene.objects.flatten() % 7
        objects[-1] = -1
        return objects.unique(return_inverse=True)[1]

    def gradient(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        boundary = self.scene.boundary
        return torch.randn(boundary.numel(), generator=generator, dtype=boundary.dtype) * self.gradient_scale


def case(make, height: int, width: int, tile: tuple[int, int] | None = (16, 64), dtype=torch.float32, **rules) -> Case:
    chosen = RegionRules(**rules)
    return Case(chosen, clear(make, height, width, rules=chosen, classes=CLASSES, dtype=dtype), tile)


def faint(scale: float) -> Case:
    made = case(voronoi, 5, 6)
    return Case(made.rules, made.scene, made.tile, gradient_scale=scale)


def even() -> Case:
    made = case(noise, 5, 6)
    return Case(made.rules, made.scene._replace(boundary=torch.full((5, 6), 0.1)), made.tile)


CASES = {
    "the rules of the paper, in the tiles of a GPU": lambda: case(voronoi, 9, 13, tile=None),
    "double precision": lambda: case(voronoi, 7, 6, dtype=torch.float64),
    "upright": lambda: case(voronoi, 13, 7),
    "without end points": lambda: case(voronoi, 9, 13, end_points=False),
    "one region": lambda: case(flat, 7, 9),
    "hardly any region": lambda: case(noise, 7, 8, tile=(32, 64)),
    "components": lambda: case(noise, 9, 13, grouping="components"),
    "components of classes": lambda: case(noise, 6, 7, grouping="components", evidence="semantic", threshold=0.95),
    "released divergence": lambda: case(voronoi, 9, 13, divergence="bernoulli"),
    "released divergence, soft classes": lambda: case(noise, 6, 9, divergence="bernoulli", end_points=False),
    "released divergence alone": lambda: case(noise, 6, 9, divergence="bernoulli", evidence="semantic"),
    "boundary alone": lambda: case(voronoi, 9, 13, evidence="boundary"),
    "classes alone": lambda: case(voronoi, 9, 13, evidence="semantic"),
    "high threshold": lambda: case(voronoi, 7, 9, threshold=0.95),
    "one row": lambda: case(voronoi, 1, 9),
    "one column": lambda: case(noise, 9, 1, end_points=False),
    "one pixel": lambda: case(voronoi, 1, 1),
    "a boundary that is the same everywhere": even,
    "tiny gradients": lambda: faint(1e-25),
    "huge gradients": lambda: faint(1e25),
    "no gradients": lambda: faint(0.0),
}

INTERPRETED = """
import sys, torch
from segfocus.ops.regions import triton_gpu
from segfocus.ops.regions.rules import RegionRules

found, tile_size = {}, triton_gpu._tile_size
for name, (rules, tile, boundary, semantic, regions, gradient) in torch.load(sys.argv[1], weights_only=True).items():
    rules = RegionRules(**rules)
    triton_gpu._tile_size = (lambda _, tile=tile: tile) if tile else tile_size
    found[name] = (
        triton_gpu.group(boundary, semantic, rules),
        triton_gpu.scores_forward(boundary, semantic, regions, rules),
        *triton_gpu.scores_backward(gradient, boundary, semantic, regions, rules),
    )
torch.save(found, sys.argv[2])
"""


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: make() for name, make in CASES.items()}


@pytest.fixture(scope="module")
def interpreted(cases, tmp_path_factory) -> dict[str, tuple[Tensor, ...]]:
    """Leaders, scores and the two gradients of every case, from one process: Triton decides at import how it runs."""
    folder: Path = tmp_path_factory.mktemp("interpreted")
    torch.save(
        {
            name: (asdict(c.rules), c.tile, c.scene.boundary, c.scene.semantic, c.regions(), c.gradient())
            for name, c in cases.items()
        },
        folder / "given",
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "SEGFOCUS_TYPE_HOOK": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, str(folder / "given"), str(folder / "found")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "found", weights_only=True)


def assert_equals_the_definition(found: tuple[Tensor, ...], expected: Case):
    """Leaders exactly, values to rounding: against float64, so that the definition's own rounding does not count."""
    boundary, semantic = expected.scene.boundary.double(), expected.scene.semantic.double()
    leaders, scores, *gradients = (values.cpu() for values in found)
    assert torch.equal(leaders, definition.group(boundary, semantic, expected.rules))
    regions = expected.regions()
    torch.testing.assert_close(
        scores.double(), definition.scores_forward(boundary, semantic, regions, expected.rules), rtol=0, atol=2e-6
    )
    assert scores.dtype == expected.scene.boundary.dtype
    true = definition.scores_backward(expected.gradient().double(), boundary, semantic, regions, expected.rules)
    for gradient, value in zip(gradients, true, strict=True):
        assert gradient.dtype == expected.scene.boundary.dtype
        slack = 5e-6 * expected.gradient_scale
        torch.testing.assert_close(gradient.double(), value, rtol=1e-5, atol=slack)


@pytest.mark.parametrize("name", CASES)
def test_the_interpreter_finds_what_the_definition_says(name, cases, interpreted):
    assert_equals_the_definition(interpreted[name], cases[name])


def test_the_cases_are_not_trivial(cases):
    """Else equality would say little: components that first neighbours miss, leaders of many and of none."""
    components = cases["components"]
    first = followed(definition.group(components.scene.boundary, components.scene.semantic, RegionRules()))
    assert len(leaders_of(components).unique()) < len(first.unique())
    sizes = leaders_of(cases["the rules of the paper, in the tiles of a GPU"]).bincount()
    assert sizes.max() > 8
    assert 1 in sizes
    assert len(leaders_of(cases["one region"]).unique()) == 1


def leaders_of(made: Case) -> Tensor:
    return followed(definition.group(made.scene.boundary, made.scene.semantic, made.rules))


def followed(leaders: Tensor) -> Tensor:
    for _ in leaders:
        leaders = leaders[leaders]
    return leaders


FLOAT, INTEGER, WIDE = "*fp32", "*i32", "*i64"
TYPES = {
    **dict.fromkeys(("boundary", "semantic", "entropy", "scores", "weight", "semantic_gradient"), FLOAT),
    **dict.fromkeys(("top", "labels", "smallest", "order", "tile_start", "tile_region", "region_start"), INTEGER),
    **dict.fromkeys(("pixels", "width", "classes"), "i32"),
    **dict.fromkeys(("threshold", "variation_bound"), "fp32"),
    "boundary_gradient": WIDE,
}


@pytest.mark.parametrize(
    ("capability", "tile", "bernoulli"), [(80, (8, 32), False), (90, (16, 32), False), (90, (16, 32), True)]
)
@pytest.mark.parametrize("kernel", ["smallest_label_kernel", "scores_kernel", "gradients_kernel"])
def test_kernels_compile_without_a_gpu(kernel, bernoulli, capability, tile, tmp_path, monkeypatch):
    """The interpreter accepts what the compiler refuses, such as a variable whose shape changes in a loop."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from segfocus.ops.regions import triton_gpu, triton_kernels

    function = getattr(triton_kernels, kernel)
    if not isinstance(function, triton.JITFunction):
        pytest.skip("TRITON_INTERPRET is set: nothing to compile")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert tile in (triton_gpu._tile_size(torch.empty(33, 33)), triton_gpu._tile_size(torch.empty(97, 97)))
    constants = {
        "END_POINTS": True,
        "BOUNDARY": True,
        "SEMANTIC": True,
        "BERNOULLI": bernoulli,
        "ROWS": tile[0],
        "COLUMNS": tile[1],
        "FIRST": True,
        "FIXED_POINT": 2.0**60,
    }
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    signature = {name: TYPES.get(name, "constexpr") for name in function.arg_names}
    compiled = triton.compile(
        ASTSource(fn=function, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", capability, 32),
        options={"enable_fp_fusion": True},
    )
    assert len(compiled.asm["cubin"]) > 1000


def test_maps_elsewhere_are_refused():
    from segfocus.ops.regions import triton_gpu

    made = case(voronoi, 3, 4)
    with pytest.raises(ValueError, match=r"expected maps on a CUDA device, got cpu and cpu; try backend"):
        triton_gpu.group(made.scene.boundary, made.scene.semantic, made.rules)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_finds_what_the_definition_says(name, cases):
    assert_equals_the_definition(on_the_gpu(cases[name]), cases[name])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("grouping", ["first", "components"])
def test_a_gpu_finds_what_the_definition_says_on_larger_maps_every_time(grouping):
    rules = RegionRules(grouping=grouping)
    scene = clear(voronoi, 33, 45, rules=rules, needed=1e-9, classes=CLASSES, dtype=torch.float64)
    made = Case(rules, scene)
    found = on_the_gpu(made)
    assert_equals_the_definition(found, made)
    for values, again in zip(found, on_the_gpu(made), strict=True):
        assert torch.equal(values, again)


def on_the_gpu(made: Case) -> tuple[Tensor, ...]:
    from segfocus.ops.regions import triton_gpu

    maps = made.scene.boundary.cuda(), made.scene.semantic.cuda()
    regions = made.regions().cuda()
    return (
        triton_gpu.group(*maps, made.rules),
        triton_gpu.scores_forward(*maps, regions, made.rules),
        *triton_gpu.scores_backward(made.gradient().cuda(), *maps, regions, made.rules),
    )
