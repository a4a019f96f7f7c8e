"""The definitions written out class by class, slow and plain."""

import cv2
import numpy as np
from scipy import ndimage


def eroded_band_opencv(mask: np.ndarray, distance: int) -> np.ndarray:
    """Mask minus the mask eroded `distance` times by 3 x 3, zeros outside (as the authors' code does)."""
    height, width = mask.shape
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1 : height + 1, 1 : width + 1]
    return mask & ~eroded.astype(bool)


def eroded_band_scipy(mask: np.ndarray, distance: int) -> np.ndarray:
    """The same from another library."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3), bool), iterations=distance, border_value=0)


def boundary_counts(target, prediction, num_classes, distance, band=eroded_band_scipy):
    """Boundary IoU counts per class on binary masks; void as background of the masks and never counted."""
    void = target == 255
    prediction = np.where(void, 255, prediction)
    intersection, union = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for index in range(num_classes):
        truth = band(target == index, distance) & ~void
        guess = band(prediction == index, distance) & ~void
        intersection[index] = (truth & guess).sum()
        union[index] = (truth | guess).sum()
    return intersection, union


def confusion(target, prediction, num_classes):
    """Pixel by pixel."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for truth, guess in zip(target.ravel(), prediction.ravel(), strict=True):
        if truth != 255:
            matrix[truth, guess] += 1
    return matrix


def scenes(seed: int, num_classes: int = 4):
    """Named label-map pairs of many kinds: blobs, stripes one pixel wide, checkerboards, noise, void, tiny sizes."""
    random = np.random.default_rng(seed)

    def blobs(height, width, cell):
        coarse = random.integers(0, num_classes, (-(-height // cell), -(-width // cell)))
        return np.kron(coarse, np.ones((cell, cell), int))[:height, :width].astype(np.uint8)

    def with_void(labels, share):
        labels = labels.copy()
        labels[random.random(labels.shape) < share] = 255
        return labels

    big = blobs(37, 53, 13)
    thin = np.zeros((30, 41), np.uint8)
    thin[:, ::7], thin[4::9], thin[10:13, 20:24] = 1, 2, 3
    board = np.indices((24, 25)).sum(0).astype(np.uint8) % 2
    patch = big.copy()
    patch[10:20, 5:30] = 255
    frame = big.copy()
    frame[:3], frame[:, -2:] = 255, 255
    yield "blobs", big, np.roll(big, 2, 1)
    yield "equal", big, big.copy()
    yield "thin", thin, np.roll(thin, 1, 0)
    yield "checkerboard", board, 1 - board
    yield "noise", blobs(23, 31, 1), blobs(23, 31, 1)
    yield "noise on blobs", big, np.where(random.random(big.shape) < 0.05, blobs(37, 53, 1), big)
    yield "void patch", patch, big
    yield "void frame", frame, np.roll(big, 3, 0)
    yield "scattered void", with_void(big, 0.1), blobs(37, 53, 9)
    yield "all void", np.full((9, 8), 255, np.uint8), blobs(9, 8, 3)
    yield "one class", np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    yield "one pixel", np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8)
    for height, width in ((1, 4), (4, 1), (1, 17), (17, 1), (2, 2), (3, 3), (4, 4), (2, 9)):
        yield f"{height}x{width}", with_void(blobs(height, width, 2), 0.2), blobs(height, width, 1)
