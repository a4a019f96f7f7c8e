"""`segfocus doctor`: examine pictures and masks before training does."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from segfocus.console import Style, say
from segfocus.errors import SegfocusError
from segfocus.options import parse, verb_parser
from segfocus.prediction_options import check_target

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from segfocus.data.doctor import ClassRow, Findings, Problem

_STYLES: dict[str, Style] = {"error": "red", "warning": "yellow", "note": "dim"}
_PLACES = {"error": 5, "warning": 3, "note": 0}
_ROWS = 40
_VALUES = 8
_SNIPPET = 16
_WEIGHTS = ("masks", "median_frequency", "median_frequency_edges", "enet")
_LEGEND = (
    "pixels, edges: share of the labelled pixels, and of those within 3 px of another label. Then the masks that hold "
    "the class, for each split. Then class weights from the training masks: as model.class_weights 'masks' takes them, "
    "by median frequency of pixels and of edge pixels, and as ENet."
)


def doctor(arguments: list[str]) -> int:
    """Examine pictures and masks.  Exit status 1 when there are errors."""
    parser = verb_parser(
        "doctor",
        "--images DIR --masks DIR [--classes classes.yaml] [--json FILE]",
        "Opens every picture and mask and says what would go wrong in training, how often each class occurs, and what "
        "to type next. Files pair by relative path without extension. Exit status: 0 no errors, 1 errors, 2 could "
        "not begin.",
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="pictures; may hold train/, val/, test/")
    parser.add_argument("--masks", required=True, metavar="DIR", help="masks")
    parser.add_argument("--classes", metavar="FILE", help="classes file [each mask value is a class, 255 ignored]")
    parser.add_argument("--val-images", metavar="DIR", help="validation pictures, where they are elsewhere")
    parser.add_argument("--val-masks", metavar="DIR", help="validation masks")
    parser.add_argument("--image-suffix", default="", metavar="TEXT", help="ending of picture names, not part of them")
    parser.add_argument("--mask-suffix", default="", metavar="TEXT", help="ending of mask names, _gtFine_labelIds")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="larger pictures are errors [180000000]")
    parser.add_argument("--json", metavar="FILE", help="write all findings there")
    parser.add_argument("--write-classes", metavar="FILE", help="write the suggested classes file there")
    values = parse(parser, arguments)
    check_target(values.json, "--json")
    check_target(values.write_classes, "--write-classes")
    findings = _examine(values)
    _show(findings, values)
    _write(findings, values)
    say()
    _show_verdict(findings)
    return 0 if findings.passed else 1


def _examine(values: Namespace) -> Findings:
    from segfocus.data.doctor import examine
    from segfocus.data.known import load_classes
    from segfocus.data.pictures import MAX_PIXELS

    if values.max_pixels is not None and values.max_pixels < 1:
        raise SegfocusError(f"--max-pixels: expected 1 or more, got {values.max_pixels}")
    typed = {"classes": values.classes, "val_images": values.val_images, "val_masks": values.val_masks}
    return examine(
        values.images,
        values.masks,
        None if values.classes is None else load_classes(values.classes),
        val_images=values.val_images,
        val_masks=values.val_masks,
        image_suffix=values.image_suffix,
        mask_suffix=values.mask_suffix,
        max_pixels=values.max_pixels or MAX_PIXELS,
        typed={f"data.{name}": value for name, value in typed.items() if value is not None},
        progress=True,
    )


def _write(findings: Findings, values: Namespace) -> None:
    from segfocus.data.doctor.advice import classes_text
    from segfocus.files import write_json, write_text

    if values.json is not None or values.write_classes is not None:
        say()
    if values.json is not None:
        write_json(values.json, findings.to_dict())
        say(f"findings      {values.json}")
    if values.write_classes is not None:
        if findings.suggestions.classes is None:
            why = "one was given" if values.classes else "these masks give none"
            raise SegfocusError(f"--write-classes: expected masks to make a classes file of, but {why}")
        write_text(values.write_classes, classes_text(findings.suggestions.classes))
        say(f"classes file  {values.write_classes}")


def _show(findings: Findings, values: Namespace) -> None:
    _show_facts(findings)
    if any(row.pixels for row in findings.classes):
        say()
        _show_classes(findings)
    # what matters most comes last, next to the prompt: the errors, or else the command that trains
    if not findings.passed:
        _show_suggestions(findings, values)
    for problem in reversed(findings.problems):
        say()
        _show_problem(problem)
    if findings.passed:
        _show_suggestions(findings, values)


def _show_facts(findings: Findings) -> None:
    splits = ", ".join(f"{name} {count}" for name, count in findings.splits.items())
    say(f"pairs     {sum(findings.splits.values())}: {splits} ({findings.split_by})")
    sizes = findings.pictures["sizes"]
    shown = ", ".join(f"{height}x{width}" + (f" ({count})" if sizes[1:] else "") for height, width, count in sizes[:4])
    more = f" and {len(sizes) - 4} more sizes" if len(sizes) > 4 else ""
    say(f"pictures  {_kinds(findings.pictures['kinds'])}, {shown}{more}")
    say(f"masks     {_kinds(findings.masks['kinds'])}, {_listed([value for value, _, _ in findings.masks['values']])}")


def _listed(values: list[Any]) -> str:
    """'12 values: 0-11' with neighbours drawn together."""
    runs: list[list[Any]] = []
    for value in values:
        if runs and isinstance(value, int) and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs[:_VALUES]]
    rest = ", ..." if len(runs) > _VALUES else ""
    return f"{len(values)} values: {', '.join(shown)}{rest}" if values else "no values that could be classes"


def _kinds(kinds: dict[str, int]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none that can be read"


def _show_classes(findings: Findings) -> None:
    """One line a class; with very many, the rarest that occur."""
    rows, splits = list(findings.classes), list(findings.splits)
    if len(rows) > _ROWS:
        rows = sorted((row for row in rows if row.pixels), key=lambda row: row.pixels)[:_ROWS]
    width = max(12, *(len(row.name) for row in rows))
    raw_width = max(6, *(len(_raw(row)) for row in rows))

    def line(name: str, raw: str, *cells: str) -> str:
        return f"{name:<{width}}  {raw:>{raw_width}}  {'  '.join(f'{cell:>7}' for cell in cells)}".rstrip()

    say(line("class", "raw", "pixels%", "edges%", *splits, "weights", "median", "edges", "ENet"), style="bold")
    for row in rows:
        absent = not all(row.files.get(split) for split in splits)
        weights = [f"{row.weights[name]:.2f}" if row.weights[name] else "–" for name in _WEIGHTS]
        cells = [_percent(row.share), _percent(row.edge_share), *_files(row, splits), *weights]
        say(line(row.name, _raw(row), *cells), style="yellow" if absent else "plain")
    if findings.ignored is not None:
        row = findings.ignored
        say(line(row.name, _raw(row), _percent(row.share), "", *_files(row, splits)), style="dim")
    if len(findings.classes) > _ROWS:
        say(f"the {len(rows)} rarest of {len(findings.classes)} classes; --json FILE lists all", style="dim")
    say(_wrapped(_LEGEND), style="dim")


def _files(row: ClassRow, splits: list[str]) -> list[str]:
    return [str(row.files.get(split, 0)) for split in splits]


def _raw(row: ClassRow) -> str:
    text = ",".join(str(list(value)).replace(" ", "") if isinstance(value, tuple) else str(value) for value in row.raw)
    return text if len(text) <= 18 else text[:15] + "..."


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return "<0.01" if 0 < share < 0.00005 else f"{100 * share:.2f}"


def _show_problem(problem: Problem) -> None:
    say(_wrapped(f"{problem.level}: {problem.text}"), style=_STYLES[problem.level])
    shown = problem.places[: _PLACES[problem.level]]
    for place in shown:
        say(f"    {place.file}{f'  {place.why}' if place.why else ''}")
    if shown and problem.count > len(shown):
        say(f"    and {problem.count - len(shown)} more (--json FILE lists them)", style="dim")


def _show_suggestions(findings: Findings, values: Namespace) -> None:
    from segfocus.data.doctor.advice import classes_text

    found = findings.suggestions
    if found.classes is not None and values.write_classes is None:
        lines = classes_text(found.classes).splitlines()
        say()
        say(f"suggested classes.yaml: {found.reasons['classes']} (--write-classes FILE writes it)", style="bold")
        for line in lines[:_SNIPPET]:
            say(f"  {line}")
        if len(lines) > _SNIPPET:
            say(f"  ... {len(lines) - _SNIPPET} more lines", style="dim")
        if found.ignore:
            say(f"  ({_values(found.ignore)}: {found.reasons['ignore']})", style="dim")
    if found.ignore and found.classes is None:
        say()
        say(_wrapped(f"suggested ignore: {_values(found.ignore)} ({found.reasons['ignore']})"), style="bold")
    if findings.passed and not found.command:
        say()
        say(_wrapped("no training command: training pairs files of equal names; try links or copies without suffixes"))
    if found.command:
        say()
        say("suggested training", style="bold")
        for line in _lines(found.command):
            say(f"  {line}")
        for key in found.settings:
            say(f"    {key}: {found.reasons[key]}", style="dim")


def _values(values: tuple[Any, ...]) -> str:
    return ", ".join(str(list(value)) if isinstance(value, tuple) else str(value) for value in values)


def _lines(command: str) -> list[str]:
    """A command with one option a line, to be pasted as it is."""
    lines: list[list[str]] = [[]]
    for word in shlex.split(command):
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(map(shlex.join, lines)).splitlines()


def _show_verdict(findings: Findings) -> None:
    counts: list[Any] = [(findings.count(level), level) for level in ("error", "warning", "note")]
    text = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for count, level in counts if count)
    if not findings.passed:
        say(f"{text}: mend the errors before training", style="red")
    else:
        say(f"no errors{f'; {text}' if text else ''}", style="yellow" if findings.count("warning") else "green")


def _wrapped(text: str) -> str:
    width = max(60, min(120, shutil.get_terminal_size().columns))
    return "\n  ".join(textwrap.wrap(text, width - 2, break_long_words=False, break_on_hyphens=False))
