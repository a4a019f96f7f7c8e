"""`segfocus report`: where predictions of any model are wrong, from files on disk."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfocus.console import say
from segfocus.errors import SegfocusError
from segfocus.options import parse, verb_parser
from segfocus.prediction_options import add_metrics_option, check_target, chosen_metrics, numbers
from segfocus.verbs.scores_text import show_scores

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from segfocus.data.classes import Classes
    from segfocus.data.predictions import PredictionReader
    from segfocus.report.sources import Folders

_SHOWN_FAILURES = 20


def report(arguments: list[str]) -> int:
    """Score predictions from files and write the page; 1 where some pictures could not be measured."""
    parser = _parser()
    values = parse(parser, arguments)
    for option in ("predictions", "labels", "classes"):
        if values[option] is None:
            raise SegfocusError(f"report: expected --{option}, got none; segfocus report --help tells more")
    if values.worst < 0 or (values.max_pixels is not None and values.max_pixels < 1):
        raise SegfocusError("report: expected --worst from 0 and --max-pixels from 1, got less")
    check_target(values.json, "--json")
    check_target(values.out, "--out", folder=Path(values.out).suffix.lower() not in {".html", ".htm"})
    from segfocus.data.known import load_classes
    from segfocus.files import write_json
    from segfocus.metrics.suite import DISTANCES
    from segfocus.report.builder import write_report
    from segfocus.report.from_files import measure_folders

    classes = load_classes(values.classes)
    given = values.boundary_distances
    scores, pictures, failures = measure_folders(
        _folders(values),
        classes,
        _reader(values, classes),
        groups=chosen_metrics(values.metrics) or "all",
        distances=DISTANCES if given is None else numbers(given, "--boundary-distances", int),
        worst=values.worst,
        allow_missing=values.allow_missing,
    )
    scores["how"] = _how(values, arguments, len(scores["missing"]))
    if values.json is not None:
        write_json(values.json, scores)
    title = values.title or f"{Path(*Path(values.predictions).parts[-2:])}: where it is wrong"
    page = write_report(values.out, title, scores, pictures, scores["how"])
    show_scores(scores)
    _show_changes(scores)
    if values.json is not None:
        say(f"scores  {values.json}")
    say(f"report  {page}", style="bold")
    return _tell(failures)


def _parser() -> ArgumentParser:
    parser = verb_parser(
        "report",
        "--predictions DIR --labels DIR --classes classes.yaml [--images DIR] [--out report]",
        "Says where predictions are wrong: scores with intervals, errors by distance to the boundary, thickness and "
        "size, the worst pictures, and what each method could gain at most. Predictions are label maps (PNG, ...) or "
        "probabilities (npz, npy, TIFF; 16-bit PNG of a two-class task). Files pair by relative path without "
        "extension. Exit status 1 when some pictures could not be measured.",
    )
    files = parser.add_argument_group("files")
    for name, text in (
        ("predictions", "predicted labels or probabilities"),
        ("labels", "truth"),
        ("baseline", "other predictions: tells what has changed since"),
        ("images", "pictures, to be shown on the page"),
        ("instances", "maps of single objects, for iIoU: Cityscapes' kind, or every value but 0 an object"),
    ):
        files.add_argument(f"--{name}", metavar="DIR", help=text)
    files.add_argument("--classes", metavar="FILE", help="classes file (YAML), or cityscapes, ade20k, camvid")
    files.add_argument(
        "--measured",
        metavar="NAME=DIR",
        action="append",
        default=[],
        help="what a refiner made of the predictions, shown beside the headroom; may be given several times",
    )
    for name in ("prediction", "label", "image", "instance"):
        text = f"ending of {name} file names that is left out, such as _{name}; files without it are passed over"
        files.add_argument(f"--{name}-suffix", default="", metavar="TEXT", help=text)
    files.add_argument("--allow-missing", action="store_true", help="leave out labels that lack a prediction")
    reading = parser.add_argument_group("how predictions are read")
    reading.add_argument(
        "--prediction-ids", default="train", metavar="train|raw", help="meaning of values and channel numbers [train]"
    )
    reading.add_argument(
        "--prediction-kind", default="auto", metavar="auto|labels|probabilities", help="what the files hold [auto]"
    )
    reading.add_argument(
        "--resize",
        default="none",
        metavar="nearest|bilinear",
        help="how predictions of another size than the label are brought to it [none: they are refused]",
    )
    reading.add_argument("--max-pixels", type=int, metavar="N", help="larger pictures are refused [180 million]")
    results = parser.add_argument_group("results")
    results.add_argument("--out", default="report", metavar="DIR", help="folder, or .html file, of the page [report]")
    results.add_argument("--json", metavar="FILE", help="write the scores there")
    results.add_argument("--title", metavar="TEXT", help="heading of the page")
    results.add_argument("--worst", type=int, default=12, metavar="N", help="pictures on the page [12]")
    add_metrics_option(parser, "all")
    results.add_argument("--boundary-distances", metavar="N,N", help="distances of the Boundary IoU in pixels [1,3,5]")
    return parser


def _folders(values: Namespace) -> Folders:
    from segfocus.report.sources import Folders

    def path(name: str) -> Path | None:
        return None if values[name] is None else Path(values[name])

    return Folders(
        predictions=Path(values.predictions),
        labels=Path(values.labels),
        baseline=path("baseline"),
        images=path("images"),
        instances=path("instances"),
        measured=_measured(values.measured),
        prediction_suffix=values.prediction_suffix,
        label_suffix=values.label_suffix,
        image_suffix=values.image_suffix,
        instance_suffix=values.instance_suffix,
    )


def _reader(values: Namespace, classes: Classes) -> PredictionReader:
    from segfocus.data.pictures import MAX_PIXELS
    from segfocus.data.predictions import PredictionReader

    return PredictionReader(
        classes,
        ids=values.prediction_ids,
        kind=values.prediction_kind,
        resize=None if values.resize == "none" else values.resize,
        max_pixels=MAX_PIXELS if values.max_pixels is None else values.max_pixels,
    )


def _measured(texts: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in found:
            raise SegfocusError(f"--measured: expected NAME=DIR with different names, got '{text}'; try crf=refined/")
        found[name] = Path(folder)
    return found


def _how(values: Namespace, arguments: list[str], missing: int) -> dict[str, Any]:
    """How the scores were made, for the record and the page."""
    folders = {name: values[name] for name in ("predictions", "labels", "classes", "baseline", "images", "instances")}
    reading = {
        "prediction ids": values.prediction_ids if values.prediction_ids != "train" else None,
        "resized": values.resize if values.resize != "none" else None,
        "left out": f"{missing} labels that lack a file in another folder" if missing else None,
    }
    made = {
        **folders,
        **reading,
        "command": shlex.join(["segfocus", "report", *arguments]),
        "scored": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    return {name: value for name, value in made.items() if value is not None}


def _show_changes(scores: dict[str, Any]) -> None:
    """What changed against the baseline, in one line."""
    if (baseline := scores.get("baseline")) is None:
        return
    from segfocus.report.tables import count, points, points_span

    miou, changed = baseline["difference"]["miou"], baseline["changed"]
    interval = points_span(miou.get("interval")) if miou.get("interval") else ""
    words = f"{points(miou['value'])} points" + (f" ({interval})" if interval else "")
    pixels = ", ".join(f"{count(changed[name])} px {name}" for name in ("fixed", "broken"))
    say(f"against {baseline['title']}: mIoU {words}, {pixels}")


def _tell(failures: list[str]) -> int:
    """List what could not be measured; the exit status."""
    if not failures:
        return 0
    pictures = "picture" if len(failures) == 1 else "pictures"
    say(f"{len(failures)} {pictures} could not be measured or shown:", error=True, style="red")
    for failure in failures[:_SHOWN_FAILURES]:
        say(f"  {failure}", error=True)
    if len(failures) > _SHOWN_FAILURES:
        say(f"  and {len(failures) - _SHOWN_FAILURES} more: see the page", error=True)
    return 1
