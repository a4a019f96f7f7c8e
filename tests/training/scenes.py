"""The tiny run that the tests of training share; as a program, FOLDER [resume] [key=value ...], it trains it."""

import csv
import json
import sys
from pathlib import Path

from segfocus.recipe import DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig, Recipe, TrainingConfig


def tiny_recipe(**training) -> Recipe:
    """FoR-Net lite on 12 scenes of 48x64 pixels, batch 4, ten steps; validated on three scenes every second epoch."""
    options = {"steps": 10, "validate_every": 2.0, "save_every": 3, "precision": "32-true", "ema_decay": 0.9}
    if "epochs" in training or "minutes" in training:
        del options["steps"]
    return Recipe(
        data=DataConfig(
            name="synthetic",
            synthetic_pictures=12,
            synthetic_size=[48, 64],
            crop=[48, 64],
            batch_size=4,
            workers=0,
        ),
        model=ModelConfig(pretrained=False),
        optimizer=OptimizerConfig(warmup_steps=2),
        evaluation=EvaluationConfig(boundary_distances=[1]),
        training=TrainingConfig(**{**options, "accelerator": "cpu", **training}),
    )


def metrics(folder: Path) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, float]]]:
    """(training rows, validation rows) of metrics.csv by step; of a repeated step the later row."""
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    numbers = [{key: float(value) for key, value in row.items() if value} for row in rows]
    train = {int(row["step"]): row for row in numbers if "loss" in row}
    return train, {int(row["step"]): row for row in numbers if "val_miou" in row}


def main() -> int:
    from segfocus.training.run import train

    folder, *rest = sys.argv[1:]
    resume = "resume" in rest
    training = dict(argument.split("=") for argument in rest if "=" in argument)
    recipe = tiny_recipe(**{key: json.loads(value) for key, value in training.items()})
    try:
        train(None if resume else recipe, folder, resume=resume)
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(f"{interrupt}\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
