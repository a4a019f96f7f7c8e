"""`segfocus list` and `segfocus describe`: what there is, and a recipe or checkpoint in numbers."""

from __future__ import annotations

from segfocus.console import say, table
from segfocus.errors import SegfocusError, nearest
from segfocus.options import add_recipe_options, overrides, parse, verb_parser
from segfocus.prediction_options import (
    check_target,
)
from segfocus.prediction_options import size as size_of
from segfocus.recipe import load_recipe, recipe_names


def list_(arguments: list[str]) -> None:
    """Methods, datasets, recipes."""
    parser = verb_parser("list", "[methods|bases|datasets|recipes]", "Lists what there is.")
    parser.add_argument("what", nargs="?", metavar="methods|bases|datasets|recipes")
    what = parse(parser, arguments).what
    listings = {"methods": _methods, "bases": _bases, "datasets": _datasets, "recipes": _recipes}
    if what is not None and what not in listings:
        raise SegfocusError(f"list: unknown '{what}'; {nearest(what, listings)}")
    for name in listings if what is None else [what]:
        say(name, style="bold")
        say(table(listings[name]()))


def _methods() -> list[tuple[str, str]]:
    from segfocus.methods import METHODS, SUMMARIES

    return [(name, SUMMARIES.get(name, "")) for name in METHODS]


def _bases() -> list[tuple[str, str]]:
    from segfocus.methods import BASES

    return list(BASES.items())


def _datasets() -> list[tuple[str, str]]:
    from segfocus.data import DATASETS

    return [(name, f"{reader.summary}; splits {', '.join(reader.splits)}") for name, reader in DATASETS.items()]


def _recipes() -> list[tuple[str, str]]:
    return [(name, load_recipe(name).description) for name in recipe_names()]


def describe(arguments: list[str]) -> None:
    """A recipe or checkpoint in numbers."""
    parser = verb_parser(
        "describe",
        "RECIPE|CHECKPOINT [--size 512x1024] [--json FILE]",
        "The resolved recipe, parameters, GMAC (multiply-adds of one picture) and output maps. Nothing is fetched "
        "and no memory is used for weights.",
    )
    parser.add_argument(
        "what", metavar="RECIPE|CHECKPOINT", help="recipe name, YAML file, .safetensors file or 'shipped'"
    )
    parser.add_argument("--size", metavar="HxW", help="picture size [the recipe's crop, else 512x1024]")
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="2 or more, for the recipe's own; not with a checkpoint"
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    add_recipe_options(parser, ["data", "model"])
    values = parse(parser, arguments)
    check_target(values.json, "--json")
    from segfocus.describe import describe as describe_network
    from segfocus.describe import described_recipe, text_of

    recipe, classes = described_recipe(values.what, overrides(values, ["data", "model"]), values.num_classes)
    size = None if values.size is None else size_of(values.size, "--size")
    found = describe_network(recipe, classes, size)
    say(text_of(found))
    if values.json is not None:
        from segfocus.files import write_json

        write_json(values.json, found)
