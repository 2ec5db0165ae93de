"""What --set and studies change in a recipe, while it is still nested dictionaries."""

import tomllib
from itertools import pairwise
from typing import Any

from src.terminal.errors import UserError


def apply(tree: dict[str, Any], override: str) -> None:
    """Set `key.path=value` in place; a path through a list means every element of it, or with an
    index, as in phase.0, that one.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(
            f"--set {override}: write it as key.path=value, for example --set member.phase.epochs=1"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--set {override}: {error}: give it a value that the recipe can hold"
        ) from None
    *path, last = key.split(".")
    nodes = [tree]
    for step, following in pairwise([*path, last]):
        if not step.isdecimal():  # an index has been followed with the list's name
            nodes = [
                child for node in nodes for child in _children(node, step, following, override)
            ]
    for node in nodes:
        node[last] = value


def _children(
    node: dict[str, Any], step: str, following: str, override: str
) -> list[dict[str, Any]]:
    """The sections under a name: all of a list, or the one that the following step of the path
    counts out.
    """
    child = node.setdefault(step, {})
    children = child if isinstance(child, list) else [child]
    if isinstance(child, list) and following.isdecimal():
        if len(following) > 9 or int(following) >= len(child):
            raise UserError(
                f"--set {override}: '{step}' has only {len(child)} sections, counted from 0"
            )
        children = [child[int(following)]]
    if not all(isinstance(item, dict) for item in children):
        raise UserError(f"--set {override}: '{step}' holds a value, not a section")
    return children
