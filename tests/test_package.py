"""The package's face: public names, what importing it costs, its version."""

import os
import subprocess
import sys

import pytest

import segfocus


def modules_after(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nsys.stderr.write(' '.join(sys.modules))"
    environment = {**os.environ, "SEGFOCUS_TYPE_HOOK": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import segfocus",
        "from segfocus.recipe import load_recipe; load_recipe('fornet-camvid')",
        "import segfocus.data.classes, segfocus.data.pictures",
        "import segfocus.metrics.confusion, segfocus.metrics.boundary, segfocus.metrics.scores",
        "import segfocus.viz, segfocus.report.builder",
    ],
)
def test_light_parts_do_not_import_torch(statement):
    assert not modules_after(statement) & {"torch", "lightning", "timm", "torchvision"}


def test_every_public_name_can_be_imported():
    for name in segfocus.__all__:
        assert getattr(segfocus, name) is not None
    assert set(segfocus.__all__) <= set(dir(segfocus))
    with pytest.raises(AttributeError, match="its public names"):
        _ = segfocus.no_such_name
