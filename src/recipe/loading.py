"""Recipes read from files and written to them.

An unknown key, a wrong type or an impossible value is a `UserError` that names the file, the key
and the nearest known key.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from src.recipe.overrides import apply
from src.recipe.schema import Recipe
from src.recipe.section import Kind, foreign, tree_of
from src.terminal.errors import UserError, did_you_mean

RECIPES = Path(__file__).parents[2] / "recipes"
# keys that had another name, by their path
RENAMED = {
    "member.watch": "eval_every",
    "member.patience": "early_stopping",
    "member.phase.patience": "plateau_patience",
    "member.augment.copies": "materialised",
    "inference.adapt": "adabn",
    "inference.average_twins": "average_neighbours",
    "postprocess.track": "hmm",
}


def load(name: str, overrides: list[str] | None = None) -> Recipe:
    """The recipe called `name` in recipes/ (or the file at that path), with `key.path=value`
    overrides applied.

    Raises:
        UserError: no such recipe, unreadable TOML, an unknown key, or a value that does not fit.
    """
    path = _find(name)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        # no TOML, no UTF-8, a number of thousands of digits, brackets within brackets
        raise UserError(f"{path}: not readable as TOML: {error}: mend that line") from None
    for override in overrides or []:
        apply(tree, override)
    _check_integers(tree, str(path))
    return parse({"name": path.stem, **tree}, str(path))


def parse(tree: dict[str, Any], where: str) -> Recipe:
    """Validate a recipe given as nested dictionaries; `where` names its source in error
    messages.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from None


def dump(section: BaseModel) -> str:
    """A section as canonical JSON: what digests are made of, and what `parse` reads back.

    What is as usual is left out, so that an option of a later version does not make earlier
    networks look like others.
    """
    return json.dumps(section.model_dump(by_alias=True, exclude_defaults=True), sort_keys=True)


def check_kind(recipe: Recipe, kind: Kind) -> None:
    """Refuse what a recipe sets though the data of its competition, of this kind, does not have it.

    Raises:
        UserError: the first such key.
    """
    path, other = foreign(recipe, kind), "photographs" if kind == "wells" else "wells"
    if path:
        raise UserError(
            f"{path} is for {other}; {recipe.competition} has {kind}: remove it from the recipe"
        )


def to_toml(recipe: Recipe, kind: Kind) -> str:
    """The whole recipe, defaults and overrides included, as a TOML file that `load` reads back
    to an equal recipe; without the keys that this kind of data does not have.
    """
    return tomli_w.dumps(tree_of(recipe, kind))


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = [file.stem for file in RECIPES.glob("*.toml")]
        raise UserError(f"no recipe at {path}: {did_you_mean(Path(name).stem, known)}")
    return path


def _check_integers(tree: dict[str, Any], where: str) -> None:
    """Refuse integers beyond 64 bits, which TOML does not have, though tomllib reads them and
    numpy and JSON stumble over them.
    """
    nodes: list[Any] = [tree]
    while nodes:
        node = nodes.pop()
        nodes += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        if isinstance(node, int) and not -(1 << 63) <= node < 1 << 63:
            raise UserError(
                f"{where}: holds, or is given, an integer of more than 64 bits: no "
                "key of a recipe takes one"
            )


def _explain(error: ValidationError) -> str:
    """The first problem that pydantic found, as one line in the user's terms."""
    problem = error.errors(include_url=False)[0]
    *parents, key = problem["loc"] or ("recipe",)
    place = ".".join(str(step) for step in problem["loc"] if step != "[key]")
    renamed = RENAMED.get(".".join(step for step in problem["loc"] if isinstance(step, str)))
    if problem["type"] == "extra_forbidden" and renamed:
        return f"the key '{place}' is called '{renamed}': write that instead"
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{place}': {did_you_mean(str(key), _known_keys(Recipe, parents))}"
    if problem["type"] == "missing":
        return f"the key '{place}' is missing"
    if key == "role" and problem["input"] == "gate":
        return f'{place}: "gate" is called "classify": write that instead'
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _known_keys(model: type[BaseModel], path: list[str | int]) -> list[str]:
    """The keys that the section at `path` accepts."""
    for step in path:
        if isinstance(step, int):
            continue
        field = next(
            field for name, field in model.model_fields.items() if step in (name, field.alias)
        )
        inner = [field.annotation, *get_args(field.annotation)]
        model = next(
            kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return [field.alias or name for name, field in model.model_fields.items()]
