"""The backends that this machine offers, for tests that hold for each of them."""

from importlib.util import find_spec

import pytest
import torch

# triton without a GPU is tested in its interpreter, in processes of its own
DEVICES = {"dense": "cpu", "torch": "cpu"}
if find_spec("numba"):
    DEVICES["numba"] = "cpu"
if torch.cuda.is_available() and find_spec("triton"):
    DEVICES["triton"] = "cuda"

every_backend = pytest.mark.parametrize("backend", DEVICES)
fast_backend = pytest.mark.parametrize("backend", [name for name in DEVICES if name != "dense"])
