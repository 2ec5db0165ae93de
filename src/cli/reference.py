"""The reference of recipes, docs/reference/recipe.md, from the schema: python -m src.cli.reference.

A key's type, default and meaning stand in the schema alone; a test compares the page with it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from src.recipe import Recipe
from src.terminal import console
from src.terminal.environment import ROOT

PAGE = ROOT / "docs" / "reference" / "recipe.md"
NAME = "^[A-Za-z0-9_-]+$"  # the pattern of what may be part of a file's name
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
PLAIN = {"boolean": "true or false", "integer": "whole number", "number": "number", "null": "none"}
INTRODUCTION = """# Recipe: every key

Written by `python -m src.cli.reference` from the schema in `src/recipe/`: change that, not this
page.

A recipe is a TOML file. `[data]` and the like are sections; `[[member]]`, `[[member.phase]]` and
`[[postprocess.hmm]]` may stand several times. Any value can be set from the command line: `--set
member.phase.epochs=1` ([how](cli.md#the-five-stages)). An unknown key, a wrong type or a key that a
kind of data does not have is refused in one line. "Data" says which kind has the key: wells,
photographs, or both."""

Node = dict[str, Any]  # of a JSON schema


def page() -> str:
    """The whole page as Markdown: a table of keys for each section of a recipe."""
    schema = Recipe.model_json_schema()
    parts = [INTRODUCTION]
    for path, section, kind in sections(schema, schema, "", "both"):
        lines = [f"## {path or 'The whole recipe'}", "", section["description"], ""]
        lines += ["| key | type | default | data | meaning |", "|---|---|---|---|---|"]
        required = section.get("required", [])
        for key, node in section["properties"].items():
            default = "required" if key in required else default_of(node)
            cells = [f"`{_below(path, key)}`", words(node), default, _kinds(node, kind)]
            lines.append("| " + " | ".join([*cells, meaning(schema, node)]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def sections(schema: Node, section: Node, path: str, kind: str) -> Iterator[tuple[str, Node, str]]:
    """The path, the schema and the kind of data of a section and of all below it, in their order in
    the file.
    """
    kind = section.get("kind", kind)
    yield path, section, kind
    for key, node in section["properties"].items():
        inner = _section(schema, node)
        if inner:
            yield from sections(schema, inner, _below(path, key), node.get("kind", kind))


def words(node: Node) -> str:
    """The type of a value in plain words."""
    if "$ref" in node or "allOf" in node:
        return "section"
    if "anyOf" in node:
        inner = [option for option in node["anyOf"] if option.get("type") != "null"]
        return words(inner[0]) if len(inner) == 1 else "any value"
    if "enum" in node or "const" in node:
        return ", ".join(f'`"{value}"`' for value in node.get("enum", [node.get("const")]))
    if node["type"] == "array":
        return _list(node)
    if node["type"] == "object":
        values = words(node["additionalProperties"])
        names = words(node["propertyNames"]) if "propertyNames" in node else "names"
        return f"table: {names}, each with {values}"
    if node["type"] == "string":
        return "letters, digits, - and _" if node.get("pattern") == NAME else "text"
    bounds = " and ".join(f"{word} {node[key]}" for key, word in BOUNDS.items() if key in node)
    return f"{PLAIN[node['type']]}, {bounds}" if bounds else PLAIN[node["type"]]


def _list(node: Node) -> str:
    if "$ref" in node["items"]:
        return "sections"
    least, most = node.get("minItems", 0), node.get("maxItems")
    count = f"{least} values" if least == most else "list"
    return f"{count}: {words(node['items'])}"


def default_of(node: Node) -> str:
    """The value of a key that a recipe leaves out, as TOML has it."""
    value = node.get("default")
    if value is None or (value == [] and "$ref" in node.get("items", {})):
        return "none"
    if "$ref" in node or "allOf" in node:
        return "below"
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {json.dumps(item)}" for key, item in value.items())
        return f"`{{ {inner} }}`" if inner else "`{}`"
    return f"`{json.dumps(value)}`"


def meaning(schema: Node, node: Node) -> str:
    """One line of what a key means; of a section, where its keys stand."""
    inner = _section(schema, node)
    if not inner:
        return " ".join(node["description"].split()).replace("|", "\\|")
    return re.split(r"(?<=\.)\s", " ".join(inner["description"].split()))[0]


def _kinds(node: Node, kind: str) -> str:
    """Which kind of data has a key, and which alone has some of its values."""
    values = [f'`"{value}"`: {only}' for value, only in node.get("values", {}).items()]
    return "; ".join([node.get("kind", kind), *values])


def _section(schema: Node, node: Node) -> Node | None:
    """The section that a key holds, if it holds one or a list of them."""
    for place in (node, node.get("items", {}), *node.get("anyOf", []), *node.get("allOf", [])):
        if "$ref" in place:
            return schema["$defs"][place["$ref"].removeprefix("#/$defs/")]
    return None


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


if __name__ == "__main__":
    console.start(quiet=False)
    PAGE.write_text(page(), encoding="utf-8")
    console.summary(f"wrote {PAGE.relative_to(ROOT)}: every key of a recipe")
