"""Checks every jaxtyping annotation of the package with beartype while tests run."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: threads of their own would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if os.environ.get("SEGFOCUS_TYPE_HOOK", "1") != "0":
    from jaxtyping import install_import_hook

    import tests.runtime_types  # noqa: F401  (the hook names it, and does not import it itself)

    install_import_hook("segfocus", "tests.runtime_types.check")


@pytest.fixture(scope="session")
def unchecked():
    """A process without those checks, for what torch.compile or an exporter traces: `tests.unchecked`."""
    from tests.unchecked import UncheckedProcess

    process = UncheckedProcess()
    yield process
    process.close()


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real data sets; skips where it is absent."""
    places = [os.environ.get("SEGFOCUS_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    for place in places:
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("real data absent: set SEGFOCUS_DATA to the folder that holds camvid/, deepcrack/, ...")
