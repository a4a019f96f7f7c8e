"""Command-line options made from the Recipe's fields, and the words of their errors.

One thin jsonargparse parser a verb: types come from the dataclasses, help from the docstrings below their fields.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from jsonargparse import SUPPRESS, ArgumentParser, DefaultHelpFormatter, Namespace

from segfocus.errors import SegfocusError, nearest
from segfocus.recipe import Recipe

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}
_METAVARS = {str: "TEXT", int: "N", float: "X", bool: "true|false", dict: "YAML"}


class _Help(DefaultHelpFormatter):
    """Help texts as they are written: no types or defaults appended."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _expand_help(self, action: argparse.Action) -> str:
        return str(action.help or "")


def verb_parser(verb: str, usage: str, description: str) -> ArgumentParser:
    """Parser of one verb; `usage` is what follows 'segfocus VERB'."""
    return ArgumentParser(
        prog=f"segfocus {verb}",
        usage=f"segfocus {verb} {usage}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )


def add_recipe_options(parser: ArgumentParser, sections: Iterable[str]) -> None:
    """Add `--section.field` for every field of the named recipe sections; only given ones appear in the result."""
    classes = get_type_hints(Recipe)
    for section in sections:
        config = classes[section]
        described = docstring_parser.parse_from_object(config)
        help_texts = {item.arg_name: item.description or "" for item in described.params}
        group = parser.add_argument_group(f"{section}: {described.short_description}")
        hints = get_type_hints(config)
        for item in dataclasses.fields(config):
            key = f"{section}.{item.name}"
            default = item.default_factory() if callable(item.default_factory) else item.default
            text = f"{help_texts[item.name]} [{_show(default)}]"
            group.add_argument(f"--{key}", help=text, default=SUPPRESS, **_argument(hints[item.name]))


def _show(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return str(value) if value not in ("", {}) else "none"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _argument(hint: Any) -> dict[str, Any]:
    """How an annotation of the recipe becomes an argparse argument."""
    options = [item for item in _alternatives(hint) if item is not type(None)]
    nullable = len(options) < len(_alternatives(hint))
    lists = [item for item in options if get_origin(item) is list]
    if lists:  # list[int] -> int, as many as given; 'none' among them is sorted out in overrides()
        (element,) = get_args(lists[0])
        others = [item for item in options if item not in lists]
        kind = Union[(element, *others, *([type(None)] if nullable else []))]
        return {"type": kind, "nargs": "+", "metavar": _METAVARS[element]}
    if options == [bool]:
        return {"type": bool, "nargs": "?", "const": True, "metavar": "true|false"}
    if get_origin(options[0]) is Literal:
        return {"type": hint, "metavar": "|".join(map(str, get_args(options[0])))}
    if get_origin(options[0]) is dict:
        return {"type": dict, "metavar": "YAML"}
    return {"type": hint, "metavar": _METAVARS[options[0]]}


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse a verb's arguments.

    Raises:
        SegfocusError: unknown option (nearest ones named), missing or wrong value: one line.
    """
    verb = parser.prog.removeprefix("segfocus ")
    options = {text: action for action in parser._actions for text in action.option_strings}
    prefixes = tuple(f"{text}." for text, action in options.items() if action.metavar == "YAML")
    arguments = list(_spelled_out(arguments, options))
    for argument in arguments:
        name = argument.split("=")[0]
        if argument == "--":
            break
        if name.startswith("--") and name not in options and not name.startswith(prefixes or "\0"):
            raise SegfocusError(f"{verb}: unknown option {name}; {_nearest_option(name, options)}")
    try:
        return parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise SegfocusError(f"{verb}: {_words_of(str(error), options)}; segfocus {verb} --help tells more") from None


def _nearest_option(name: str, options: Iterable[str]) -> str:
    """Nearest options; the last part alone counts too, so that --root finds --data.root."""
    names = sorted(set(options))
    same_ending = [text for text in names if text.split(".")[-1] == name.removeprefix("--").split(".")[-1]]
    if same_ending:
        return f"did you mean {', '.join(same_ending[:3])}?"
    found = nearest(name, names)
    return found if found.startswith("did") else "see --help for the options"


def _spelled_out(arguments: list[str], options: dict[str, argparse.Action]) -> Iterable[str]:
    """Write 'none' as YAML's null, and 360x480 or 0.75,1,1.25 after an option that takes a list as single values."""
    current = ""
    for index, argument in enumerate(arguments):
        if argument == "--":
            yield from arguments[index:]
            return
        if argument.startswith("--"):
            current = argument
            yield argument
            continue
        action = options.get(current)
        if action is not None and action.nargs == "+" and re.fullmatch(r"[\d.]+([x,][\d.]+)+", argument):
            yield from re.split("[x,]", argument)
        elif action is not None and argument == "none" and type(None) in get_args(getattr(action, "_typehint", None)):
            yield "null"
        else:
            yield argument


def _words_of(message: str, options: dict[str, argparse.Action]) -> str:
    """jsonargparse's message in one line: which option, expected, got."""
    found = re.search(r'Parser key "([^"]+)"', message)
    action = options.get(f"--{found[1]}") if found else None
    if action is None:
        message = message.replace("unrecognized arguments:", "expected no further arguments, got")
        return " ".join(message.replace("the following arguments are required:", "expected also").split())
    given = re.findall(r"(?:Given value|Got value): ?(.*)", message)
    expected = _type_words(getattr(action, "_typehint", action.type))
    several = " (one or more)" if action.nargs == "+" else ""
    got = f", got {given[-1]!r}" if given else ""
    return f"{action.option_strings[0]}: expected {expected}{several}{got}"


def _type_words(hint: Any) -> str:
    words = []
    for item in _alternatives(hint):
        if get_origin(item) is Literal:
            words += [f"one of {', '.join(map(str, get_args(item)))}"]
        else:
            words += ["none" if item is type(None) else _WORDS.get(item, str(item))]
    return " or ".join(words)


def overrides(values: Namespace, sections: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The given recipe options as a nested dictionary {section: {field: value}}."""
    found: dict[str, dict[str, Any]] = {}
    for section in sections:
        for name, value in vars(values.get(section, Namespace())).items():
            if isinstance(value, list) and (value == [None] or (len(value) == 1 and isinstance(value[0], str))):
                value = value[0]
            elif isinstance(value, dict):
                value = {
                    key: _from_yaml(item, f"--{section}.{name}.{key}") if isinstance(item, str) else item
                    for key, item in value.items()
                }
            found.setdefault(section, {})[name] = value
    return found


def _from_yaml(text: str, option: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "no YAML"
        raise SegfocusError(f"{option}: expected a YAML value, got {text!r} ({problem}); try '[1, 2]'") from error


def changed(recipe: Recipe, changes: dict[str, dict[str, Any]]) -> Recipe:
    """A recipe with fields replaced; mappings (model.options, ...) are merged, everything else is overwritten."""
    merged = recipe.to_dict()
    for section, fields in changes.items():
        for name, value in fields.items():
            old = merged[section][name]
            merged[section][name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return Recipe.from_dict(merged)
