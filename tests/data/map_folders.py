"""Folders of maps, masks and pictures that the tests of refiners begin from."""

import cv2
import numpy as np


def blobs(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A mask of a few thick lines, uint8 0 and 1."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for _ in range(3):
        ends = [tuple(int(value) for value in generator.integers(0, side, 2)) for side in size]
        cv2.line(mask, (ends[1][0], ends[0][0]), (ends[1][1], ends[0][1]), 1, 7)
    return mask


def shifted_map(mask: np.ndarray, seed: int) -> np.ndarray:
    """A foreground probability that is too low on the left, too high on the right, and noisy."""
    generator = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)
    bias = np.linspace(-0.25, 0.25, mask.shape[1], dtype=np.float32)
    noise = generator.normal(0, 0.05, mask.shape).astype(np.float32)
    return np.clip(soft + bias + noise, 0.01, 0.99)


def write_map_folders(root, count: int = 6, size: tuple[int, int] = (96, 128), kind: str = "npy"):
    """root/maps, root/masks (0 and 255) and root/images of `count` pictures; returns the three folders."""
    folders = [root / name for name in ("maps", "masks", "images")]
    for folder in folders:
        folder.mkdir(parents=True)
    for index in range(count):
        mask = blobs(index, size)
        values = shifted_map(mask, index)
        if kind == "npy":
            np.save(folders[0] / f"p{index}.npy", values.astype(np.float32))
        elif kind == "png16":
            cv2.imwrite(str(folders[0] / f"p{index}.png"), (values * 65535).round().astype(np.uint16))
        cv2.imwrite(str(folders[1] / f"p{index}.png"), mask * 255)
        cv2.imwrite(str(folders[2] / f"p{index}.png"), np.repeat((60 + 120 * mask)[:, :, None], 3, 2))
    return folders
