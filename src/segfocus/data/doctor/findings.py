"""What an examination finds, as plain values that go into JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
MOST_PLACES = 1000
"""files that one problem lists; `count` says how many there are"""


@dataclass(frozen=True)
class Place:
    """A file, and what is wrong with it where that differs from file to file."""

    file: str
    why: str = ""


@dataclass(frozen=True)
class Problem:
    """Something to know before training."""

    level: Level
    """error: training refuses it or goes wrong in silence; warning: scores or learning suffer; note: good to know"""
    code: str
    """short name that stays the same, for scripts"""
    text: str
    """what is wrong and what to try"""
    places: tuple[Place, ...] = ()
    """the files, at most 1000"""
    count: int = 0
    """how many files there are"""


@dataclass(frozen=True)
class ClassRow:
    """One class (or the ignored values) over all masks that could be read."""

    name: str
    raw: tuple[Any, ...]
    """mask values; a colour is (red, green, blue)"""
    pixels: int
    share: float | None
    """of the labelled pixels, 0 to 1 (of all pixels for the ignored ones); None where there is none"""
    edge_share: float | None
    """of the labelled pixels within 3 px of another label, 0 to 1"""
    thinness: float | None
    """share of its own pixels that lie within 3 px of another label, 0 to 1"""
    files: dict[str, int]
    """split -> masks that hold it"""
    weights: dict[str, float] = field(default_factory=dict)
    """name of the way -> class weight; see `advice.class_weights`"""


@dataclass(frozen=True)
class Suggestions:
    """What to type next.  Empty values where there is nothing to suggest."""

    classes: dict[str, Any] | None = None
    """a classes file, as `Classes.from_dict` reads it, where none was given and one could be made"""
    ignore: tuple[Any, ...] = ()
    """mask values to ignore"""
    settings: dict[str, Any] = field(default_factory=dict)
    """recipe key ('data.crop') -> value, where it should differ from the recipe fornet-folder"""
    reasons: dict[str, str] = field(default_factory=dict)
    """recipe key (or 'ignore', 'classes') -> why"""
    command: str = ""
    """the command line that trains with all this; empty while there are errors"""


@dataclass(frozen=True)
class Findings:
    """The result of `doctor.examine`."""

    splits: dict[str, int]
    """split -> pairs"""
    split_by: str
    """how the splits were told apart, in words"""
    pictures: dict[str, Any]
    """'sizes' [[height, width, pictures], ...] most frequent first, 'kinds' {'RGB JPEG': pictures, ...}"""
    masks: dict[str, Any]
    """'kinds' {'8-bit PNG': masks, ...} and 'values': [[value, pixels, masks], ...] (at most 1000)"""
    classes: tuple[ClassRow, ...]
    ignored: ClassRow | None
    problems: tuple[Problem, ...]
    """errors first"""
    suggestions: Suggestions

    def count(self, level: Level) -> int:
        """Number of problems of a level."""
        return sum(problem.level == level for problem in self.problems)

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return self.count("error") == 0

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON values: the fields, and how many errors, warnings and notes there are."""
        counts = {f"{level}s": self.count(level) for level in ("error", "warning", "note")}
        return {"passed": self.passed, **counts, **dataclasses.asdict(self)}
