"""Scores and report of a checkpoint or of a whole run, in one pass over the pictures."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segfocus.errors import SegfocusError
from segfocus.files import write_json
from segfocus.recipe import EvaluationConfig, Recipe


def evaluate_and_report(
    checkpoint: Path,
    recipe: Recipe,
    split: str,
    report: Path | None = None,
    device: str = "auto",
    worst: int = 12,
    command: str | None = None,
    metrics: str | Sequence[str] = "all",
) -> tuple[dict[str, Any], Path | None]:
    """Score a checkpoint; with `report` (a folder or .html file) also write the page.

    Args:
        checkpoint: a .safetensors file.
        recipe: its data section says which pictures, its evaluation section how they are predicted.
        split: of the data set.
        device: auto, cpu, cuda, cuda:1 or mps.
        worst: pictures in the report.
        command: what the user typed, for the record.
        metrics: "basic", "all", or groups of `segfocus.metrics.suite.GROUPS`.

    Returns:
        The scores JSON, with `how` it was made, and the page's path.
    """
    from segfocus.checkpoint import load
    from segfocus.report.builder import Entry, Pictures, write_report
    from segfocus.training.run import evaluate

    loaded = load(checkpoint)
    pictures = Pictures(loaded.classes, worst)

    def collect(name: str, picture: Any, target: Any, prediction: Any) -> None:
        pictures.add(
            Entry(
                name,
                picture,
                target,
                prediction.labels,
                prediction.importance,
                prediction.selected,
                picture_name="picture" if prediction.base_probabilities is None or recipe.data.images else "map",
                baseline=prediction.initial_labels,
                baseline_name=prediction.initial_kind or "baseline",
                offsets=prediction.offsets,
                confidence=prediction.confidence,
                regions=prediction.regions,
                representatives=prediction.representatives,
                boundary=prediction.boundary,
                look_from=prediction.look_from,
                base_probabilities=prediction.base_probabilities,
                probabilities=None if prediction.base_probabilities is None else prediction.probabilities,
                patch=prediction.patch,
            )
        )

    scores = evaluate(
        loaded,
        recipe.data,
        split,
        recipe.evaluation,
        device=device,
        metrics=metrics,
        on_picture=None if report is None else collect,
    )
    scores["how"] = {
        **scores.get("how", {}),
        "checkpoint": str(checkpoint),
        "recipe": recipe.description,
        "command": command,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    if report is None:
        return scores, None
    title = f"{recipe.model.method} on {recipe.data.name}, {split}: where it is wrong"
    return scores, write_report(report, title, scores, pictures, _made(scores["how"], recipe.evaluation))


def _made(how: Mapping[str, Any], evaluation: EvaluationConfig) -> dict[str, str]:
    """How the scores were made, in the words of the page."""
    way = "whole pictures" if evaluation.window is None else f"windows of {'x'.join(map(str, evaluation.window))}"
    way += f", scales {', '.join(f'{scale:g}' for scale in evaluation.scales)}"
    way += ", averaged with the mirrored picture" if evaluation.flip else ""
    way += "" if evaluation.focus is None else f", {100 * evaluation.focus:g} % of the regions refined"
    if evaluation.adaptive is not None:
        way += f", regions refined that hold {100 * evaluation.adaptive:g} % of importance"
    rows = {
        "checkpoint": how["checkpoint"],
        "recipe": how["recipe"],
        "pictures": f"{how.get('dataset', '')}, split {how.get('split', '')}",
        "predictions": way,
        "command": how["command"],
        "scored": how["date"],
    }
    return {name: value for name, value in rows.items() if value}


def score_and_report(run: Path, command: str | None = None) -> tuple[dict[str, Any], Path]:
    """Score a run's best weights on its validation split; writes scores.json and report.html into the run folder.

    Raises:
        SegfocusError: the folder holds no weights.
    """
    from segfocus.checkpoint import read_metadata

    found = [run / name for name in ("best.safetensors", "last.safetensors") if (run / name).is_file()]
    if not found:
        raise SegfocusError(f"run folder {run}: expected best.safetensors or last.safetensors, got neither")
    recipe = read_metadata(found[0]).recipe
    device = {"gpu": "auto"}.get(recipe.training.accelerator, recipe.training.accelerator)
    scores, report = evaluate_and_report(found[0], recipe, recipe.data.val_split, run, device, command=command)
    write_json(run / "scores.json", scores)
    assert report is not None
    return scores, report
