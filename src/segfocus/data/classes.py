"""Classes: the one place where the raw values of masks meet train ids.

The YAML structure, read by `Classes.load` and `Classes.from_dict` and written by `Classes.to_dict`::

    classes:
      0: sky                                                  # short form: raw value 0
      1: {name: building, raw: [1, 17], color: [128, 0, 0]}   # several raw values merged
      2: {name: pole, raw: [[192, 192, 128]], thin: true}     # RGB masks; optional keys: thin, category, instances
    ignore: [11, 255]                                         # any other value is an error that names the file
"""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Integer, UInt8

from segfocus.errors import SegfocusError, nearest

IGNORE = 255
"""train id of pixels that are never counted"""
_UNMAPPED = 254
_MOST = 254
_KEYS = ("name", "raw", "color", "thin", "category", "instances")

Raw = int | tuple[int, int, int]
"""a value of a mask as stored: an integer, or the red, green and blue of a colour mask"""


@dataclass(frozen=True)
class Classes:
    """Names, colours and raw mask values of the classes; position in each tuple = train id.

    Raises:
        SegfocusError: fewer than two classes, more than 254, a name twice, a raw value in two places, lengths differ.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    """red, green, blue, 0 to 255"""
    raw: tuple[tuple[Raw, ...], ...]
    """raw mask values of each class"""
    thin: tuple[bool, ...]
    """classes of thin things (poles, cracks), which reports score on their own"""
    category: tuple[str | None, ...]
    """group of classes, or None"""
    instances: tuple[bool, ...]
    """classes whose objects can be counted"""
    ignore: tuple[Raw, ...] = ()
    """raw mask values that become 255"""

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise SegfocusError(
                f"classes: expected at least two, got {len(self.names)} ({', '.join(self.names) or 'none'}); "
                "try to name the background as a class of its own"
            )
        if len(self.names) > _MOST:
            raise SegfocusError(f"classes: expected at most {_MOST}, got {len(self.names)}; try to merge raw values")
        for field in (self.colors, self.raw, self.thin, self.category, self.instances):
            if len(field) != len(self.names):
                raise SegfocusError(f"classes: expected {len(self.names)} entries in every field, got {len(field)}")
        if len(set(self.names)) < len(self.names):
            raise SegfocusError(f"classes: expected different names, got '{_twice(self.names)}' more than once")
        values = [_color_of(value) for raw in (*self.raw, self.ignore) for value in raw]
        if len(set(values)) < len(values):
            double = _twice(values)
            raise SegfocusError(
                f"classes: expected each raw value in one place, got {double[0] if len(set(double)) == 1 else double} "
                "more than once; try to leave it in one class or in ignore"
            )

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def reads_colors(self) -> bool:
        """Whether a raw value is a colour: palette masks are then read as their colours, not as their indices."""
        return any(isinstance(value, tuple) for raw in (*self.raw, self.ignore) for value in raw)

    @classmethod
    def of(cls, names: Iterable[str], *, ignore: Iterable[int] = (IGNORE,), thin: Iterable[str] = ()) -> Classes:
        """Classes whose raw values are 0, 1, 2, ..., with default colours."""
        thin = set(thin)
        table = {train_id: {"name": name, "thin": name in thin} for train_id, name in enumerate(names)}
        return cls.from_dict({"classes": table, "ignore": list(ignore)})

    @classmethod
    def from_dict(cls, values: Any, source: str = "classes") -> Classes:
        """Build from the YAML structure (see the top of this file); keys may be integers or their text.

        Raises:
            SegfocusError: any other structure, with `source` (the file's name) at the front.
        """
        if not isinstance(values, dict) or not isinstance(values.get("classes"), dict):
            raise SegfocusError(f"{source}: expected a mapping 'classes: {{0: name, ...}}', got {_short(values)}")
        for key in values:
            if key not in ("classes", "ignore"):
                raise SegfocusError(f"{source}: unknown key '{key}'; {nearest(str(key), ['classes', 'ignore'])}")
        table = {_train_id(key, source): entry for key, entry in values["classes"].items()}
        if sorted(table) != list(range(len(table))) or len(table) != len(values["classes"]):
            raise SegfocusError(
                f"{source}: expected the train ids 0 to {len(values['classes']) - 1}, got {sorted(table)}; "
                "try to count without gaps and to give the masks' own values as raw"
            )
        entries = [_entry(train_id, table[train_id], source) for train_id in range(len(table))]
        ignore = _raw_values(values.get("ignore", []), f"{source}: ignore")
        try:
            return cls(
                names=tuple(entry["name"] for entry in entries),
                colors=tuple(entry["color"] for entry in entries),
                raw=tuple(entry["raw"] for entry in entries),
                thin=tuple(entry["thin"] for entry in entries),
                category=tuple(entry["category"] for entry in entries),
                instances=tuple(entry["instances"] for entry in entries),
                ignore=ignore,
            )
        except SegfocusError as error:
            raise error if source == "classes" else SegfocusError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The YAML structure, every key written; `from_dict` gives the same classes back, also by way of JSON."""
        table = {}
        for train_id, name in enumerate(self.names):
            table[train_id] = {
                "name": name,
                "raw": [_plain(value) for value in self.raw[train_id]],
                "color": list(self.colors[train_id]),
                "thin": self.thin[train_id],
                "category": self.category[train_id],
                "instances": self.instances[train_id],
            }
        return {"classes": table, "ignore": [_plain(value) for value in self.ignore]}

    @classmethod
    def load(cls, path: str | Path) -> Classes:
        """Read a classes file.

        Raises:
            SegfocusError: no such file, not readable, not YAML, or not the structure.
        """
        path = Path(path)
        if not path.is_file():
            raise SegfocusError(f"classes file: expected a YAML file, got {path}, which does not exist")
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise SegfocusError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
        return cls.from_dict(values, source=str(path))

    def encode(
        self, mask: Integer[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"], name: str = "mask"
    ) -> UInt8[np.ndarray, "height width"]:
        """Raw mask values -> train ids, 255 = ignore.

        An integer raw value v and the colour (v, v, v) are the same value in a colour mask.

        Raises:
            SegfocusError: a value that is neither a class nor ignored; names the file and the values.
        """
        colors = mask.ndim == 3
        if colors:
            wide = mask.astype(np.int32)
            mask = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        if mask.dtype == np.uint8:
            encoded = self._bytes_table[mask]
        else:
            values, train_ids = self._colors_table if colors else self._integers_table
            place = np.searchsorted(values, mask).clip(max=len(values) - 1)
            encoded = np.where(values[place] == mask, train_ids[place], np.uint8(_UNMAPPED))
        if (wrong := encoded == _UNMAPPED).any():
            found = [int(value) for value in np.unique(mask[wrong])]
            raise self._unmapped([_channels(code) for code in found] if colors else found, name)
        return encoded

    def decode(self, labels: UInt8[np.ndarray, "height width"]) -> Integer[np.ndarray, "height width *channels"]:
        """Train ids -> the first raw value of each class; 255 -> the first ignored value (255 where there is none).

        Integers give "height width" (8-bit where they fit, else 16-bit or more), colours "height width 3".

        Raises:
            SegfocusError: a train id without a class, or a class without a raw value.
        """
        if empty := [self.names[index] for index, raw in enumerate(self.raw) if not raw]:
            raise SegfocusError(f"classes: expected a raw value to write for every class, got none for {empty[0]}")
        if (wrong := labels[(labels >= self.num_classes) & (labels != IGNORE)]).size:
            raise SegfocusError(f"labels: expected train ids below {self.num_classes} or 255, got {wrong[0]}")
        firsts: list[Raw] = [raw[0] for raw in self.raw]
        void: Raw = self.ignore[0] if self.ignore else IGNORE
        if self.reads_colors:
            table = np.zeros((256, 3), np.uint8)
            for train_id, value in [*enumerate(firsts), (IGNORE, void)]:
                table[train_id] = value
            return table[labels]
        largest = max(int(value) for value in (*firsts, void) if not isinstance(value, tuple))
        table = np.zeros(256, np.min_scalar_type(largest))
        table[: len(firsts)] = firsts
        table[IGNORE] = void
        return table[labels]

    @functools.cached_property
    def _pairs(self) -> list[tuple[Raw, int]]:
        listed = [(value, train_id) for train_id, raw in enumerate(self.raw) for value in raw]
        return listed + [(value, IGNORE) for value in self.ignore]

    @functools.cached_property
    def _bytes_table(self) -> np.ndarray:
        table = np.full(256, _UNMAPPED, np.uint8)
        for value, train_id in zip(*self._integers_table, strict=True):
            if value < 256:
                table[value] = train_id
        return table

    @functools.cached_property
    def _integers_table(self) -> tuple[np.ndarray, np.ndarray]:
        triples = [(_color_of(value), train_id) for value, train_id in self._pairs]
        return _sorted_table({color[0]: train_id for color, train_id in triples if len(set(color)) == 1})

    @functools.cached_property
    def _colors_table(self) -> tuple[np.ndarray, np.ndarray]:
        small = [(value, train_id) for value, train_id in self._pairs if isinstance(value, tuple) or value < 256]
        triples = [(_color_of(value), train_id) for value, train_id in small]
        return _sorted_table({red << 16 | green << 8 | blue: train_id for (red, green, blue), train_id in triples})

    def _unmapped(self, values: list[int] | list[tuple[int, int, int]], name: str) -> SegfocusError:
        shown = ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
        many = "values" if len(values) > 1 else "value"
        if len(values) > 50:
            advice = "masks as PNG: lossy (JPEG) or smoothed ones have such values"
        elif values == [IGNORE] and self.num_classes == 2:
            advice = "raw: [255] for the class that 255 stands for, or ignore: [255], in the classes file"
        else:
            advice = "to add it to a class's raw values or to ignore in the classes file"
        return SegfocusError(f"{name}: expected only mask values of the classes, got the {many} {shown}; try {advice}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, which YAML readers otherwise drop in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # pyright: ignore
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, f"the key {_twice(keys)} twice", node.start_mark)
        return super().construct_mapping(node, deep)


def default_color(train_id: int, name: str = "") -> tuple[int, int, int]:
    """A colour (red, green, blue; 0 to 255) far from those of the neighbouring train ids; background is black."""
    if name.lower() == "background":
        return (0, 0, 0)
    hue = (0.58 + train_id * 0.6180339887) % 1  # the golden ratio spreads any number of hues
    saturation, value = ((0.75, 0.9), (0.55, 0.7), (0.9, 0.6), (0.4, 0.95))[train_id % 4]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return (round(red * 255), round(green * 255), round(blue * 255))


def _color_of(value: Raw) -> tuple[int, int, int]:
    """An integer v stands for the colour (v, v, v)."""
    return value if isinstance(value, tuple) else (value, value, value)


def _channels(code: int) -> tuple[int, int, int]:
    return (code >> 16, code >> 8 & 255, code & 255)


def _sorted_table(table: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(sorted(table) or [-1], np.int64)
    return values, np.array([table.get(int(value), _UNMAPPED) for value in values], np.uint8)


def _entry(train_id: int, entry: Any, source: str) -> dict[str, Any]:
    where = f"{source}: class {train_id}"
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise SegfocusError(f"{where}: expected a name or {{name: ..., raw: [...]}}, got {_short(entry)}; quote it?")
    for key in entry:
        if key not in _KEYS:
            raise SegfocusError(f"{where}: unknown key '{key}'; {nearest(str(key), _KEYS)}")
    color = entry.get("color", default_color(train_id, entry["name"]))
    category = entry.get("category")
    if category is not None and not isinstance(category, str):
        raise SegfocusError(f"{where}: expected category to be text, got {_short(category)}")
    for key in ("thin", "instances"):
        if not isinstance(entry.get(key, False), bool):
            raise SegfocusError(f"{where}: expected {key} to be true or false, got {_short(entry[key])}")
    return {
        "name": entry["name"].strip(),
        "raw": _raw_values(entry.get("raw", [train_id]), where),
        "color": _color(color, f"{where}: color"),
        "thin": entry.get("thin", False),
        "category": category,
        "instances": entry.get("instances", False),
    }


def _train_id(key: Any, source: str) -> int:
    if _is_integer(key) or (isinstance(key, str) and key.isdecimal()):
        return int(key)
    raise SegfocusError(f"{source}: expected train ids 0, 1, 2, ... as keys, got {_short(key)}")


def _raw_values(values: Any, where: str) -> tuple[Raw, ...]:
    values = [values] if _is_integer(values) else values
    if not isinstance(values, list | tuple):
        raise SegfocusError(f"{where}: expected a list of raw mask values, got {_short(values)}")
    found: list[Raw] = []
    for value in values:
        if _is_integer(value) and value >= 0:
            found.append(value)
        elif isinstance(value, list | tuple):
            found.append(_color(value, where))
        else:
            raise SegfocusError(f"{where}: expected integers from 0 or colours [red, green, blue], got {_short(value)}")
    return tuple(found)


def _color(value: Any, where: str) -> tuple[int, int, int]:
    if (
        not isinstance(value, list | tuple)
        or len(value) != 3
        or not all(_is_integer(c) and 0 <= c < 256 for c in value)
    ):
        raise SegfocusError(f"{where}: expected [red, green, blue] of 0 to 255, got {_short(value)}")
    return (value[0], value[1], value[2])


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _twice(values: Iterable[Any]) -> Any:
    seen = set()
    return next(value for value in values if value in seen or seen.add(value))


def _plain(value: Raw) -> int | list[int]:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
