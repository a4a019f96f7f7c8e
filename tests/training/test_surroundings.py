"""What a run changes around it."""

import os
import subprocess
import sys

SCRIPT = """
import logging
from segfocus.recipe import Recipe
from segfocus.training.surroundings import surroundings
logger = logging.getLogger("lightning.pytorch")
with surroundings(Recipe()):
    import lightning.pytorch
    inside = logger.getEffectiveLevel()
print(inside, logger.getEffectiveLevel())
"""


def test_lightning_is_quiet_from_its_first_import_on():
    environment = {**os.environ, "SEGFOCUS_TYPE_HOOK": "0"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    inside, after = map(int, done.stdout.split())
    assert inside == 30  # logging.WARNING
    assert after == 20  # as Lightning sets it itself
