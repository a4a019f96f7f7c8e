"""The verbs of the command line: plain functions of their arguments, which import what they need inside."""

from collections.abc import Callable
from importlib import import_module

_MODULES = {"train": "training", "demo": "training", "list": "listing", "describe": "listing"}


def function_of(verb: str) -> Callable[[list[str]], int | None]:
    """The function that does a verb; it returns the exit status where that is not 0."""
    module = import_module(f"segfocus.verbs.{_MODULES.get(verb, verb)}")
    return getattr(module, "list_" if verb == "list" else verb)
