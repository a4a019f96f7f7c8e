"""The mark a network has to clear on generated scenes: a linear classifier of single pixels."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from segfocus.data.synthetic import SyntheticDataset


def pixels(dataset: SyntheticDataset, each: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels of every scene: RGB scaled to about zero mean and unit variance [n, 3], train ids [n]."""
    colors, labels = [], []
    for index in range(len(dataset)):
        picture, target = dataset.read(index)
        chosen = rng.choice(target.size, each, replace=False)
        colors.append(picture.reshape(-1, 3)[chosen])
        labels.append(target.ravel()[chosen])
    return (np.concatenate(colors) / 255 - 0.4) / 0.25, np.concatenate(labels)


def linear_pixel_miou(train: SyntheticDataset, val: SyntheticDataset, balanced: bool = False) -> float:
    """mIoU on `val` of multinomial logistic regression on the RGB values of `train`."""
    rng = np.random.default_rng(0)
    model = LogisticRegression(max_iter=500, class_weight="balanced" if balanced else None)
    model.fit(*pixels(train, 400, rng))
    colors, target = pixels(val, 2000, rng)
    predicted = model.predict(colors)
    scores = []
    for train_id in range(train.classes.num_classes):
        both = ((target == train_id) & (predicted == train_id)).sum()
        either = ((target == train_id) | (predicted == train_id)).sum()
        scores.append(both / either)
    return float(np.mean(scores))
