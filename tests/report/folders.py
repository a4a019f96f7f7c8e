"""Small folders of labels and predictions, and scores counted the slow way."""

from pathlib import Path

import numpy as np
from PIL import Image

from segfocus.data.classes import Classes

CLASSES = Classes.from_dict(
    {
        "classes": {
            0: {"name": "road", "raw": [7]},
            1: {"name": "pole", "raw": [17, 4], "thin": True},
            2: {"name": "car", "raw": [26], "instances": True},
        },
        "ignore": [0, 255],
    }
)
"""raw values with gaps"""
RAW = np.asarray([7, 17, 26, 0], np.uint8)
NAMES = ("a", "deep/er/b", "c.d", "deep/e", "f", "g")


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, probabilities=values)
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    return path


def truth_of(index: int, size=(24, 32)) -> np.ndarray:
    """Train ids in blocks, some void."""
    blocks = np.random.default_rng(index).integers(0, 4, (size[0] // 4, size[1] // 4))
    target = np.kron(blocks, np.ones((4, 4), int)).astype(np.uint8)
    target[target == 3] = 255
    return target


def guess_of(index: int, share: float = 0.2) -> np.ndarray:
    """The truth with a share of other train ids; arbitrary where it is void."""
    rng = np.random.default_rng(1000 + index)
    target = truth_of(index)
    other = rng.integers(0, 3, target.shape).astype(np.uint8)
    return np.where((rng.random(target.shape) < share) | (target == 255), other, target)


def probabilities_of(index: int, share: float = 0.2) -> np.ndarray:
    """Probabilities whose largest class is that of `guess_of`, float32 [3, height, width]."""
    values = np.random.default_rng(2000 + index).random((3, *truth_of(index).shape)).astype(np.float32)
    values += 1.5 * (guess_of(index, share) == np.arange(3)[:, None, None])
    return values / values.sum(0)


def make_folders(root: Path, names=NAMES) -> tuple[Path, Path]:
    """Predictions (train ids) and labels (raw values) as 8-bit PNG."""
    for index, name in enumerate(names):
        target = truth_of(index)
        save(root / "labels" / f"{name}.png", RAW[np.minimum(target, 3)])
        save(root / "predictions" / f"{name}.png", guess_of(index))
    return root / "predictions", root / "labels"


def slow_scores(pairs) -> dict[str, list[float] | float]:
    """IoU of each class and pixel accuracy over (truth, guess) pairs."""
    truth, guess = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    truth, guess = truth[truth != 255], guess[truth != 255]
    both = [((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum() for c in range(3)]
    return {"iou": both, "pixel_accuracy": (truth == guess).mean()}
