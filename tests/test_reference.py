"""The reference of recipes says what the schema says, and its defaults are the recipes'."""

import json
import re
import tomllib

import pytest

from src.cli import reference
from src.recipe import Recipe, parse
from src.terminal.environment import ROOT

ROW = re.compile(r"(?m)^\| `([\w.]+)` \| (.+?) \| (.+?) \| (.+?) \| (.+) \|$")
ROWS = {row[0]: row[1:] for row in ROW.findall(reference.page())}
LEAST = {
    "name": "least",
    "competition": "demo",
    "member": [
        {
            "name": "a",
            "network": {"name": "ring_unet", "channels": [4, 8]},
            "photograph": {},
            "augment": {},
            "phase": [{"epochs": 1, "pruning": {"method": "agp", "sparsity": 0.5}}],
        }
    ],
    "postprocess": {"hmm": [{}]},
}


def test_the_page_is_what_the_schema_gives():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), (
        "the schema has changed: run python -m src.cli.reference"
    )


def test_every_key_that_has_a_default_has_a_row():
    kept = json.loads((ROOT / "tests" / "defaults.json").read_text(encoding="utf-8"))["defaults"]
    written = {"phases": "phase", "members": "member", "hmms": "hmm"}  # in a recipe
    keys = {written.get(key.split(".")[1], key.split(".")[1]) for key in kept}
    assert keys <= {key.split(".")[-1] for key in ROWS}


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if row[1].startswith("`")])
def test_a_key_set_to_the_default_of_its_row_changes_nothing(key):
    tree = json.loads(json.dumps(LEAST))
    *path, last = key.split(".")
    section = tree
    for step in path:
        section = section.setdefault(step, {})
        section = section[0] if isinstance(section, list) else section
    assert last not in section
    section[last] = tomllib.loads(f"value = {ROWS[key][1].strip('`')}")["value"]
    assert parse(tree, "test") == parse(LEAST, "test")


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if row[1] == "required"])
def test_a_recipe_without_a_required_key_is_refused(key):
    tree = json.loads(json.dumps(LEAST))
    *path, last = key.split(".")
    section = tree
    for step in path:
        section = section[step]
        section = section[0] if isinstance(section, list) else section
    del section[last]
    with pytest.raises(Exception, match=f"'{re.escape(_counted(key))}' is missing"):
        parse(tree, "test")


def _counted(key: str) -> str:
    """A key as messages have it: the first of each list."""
    return re.sub(r"\b(member|phase|hmm)\.", r"\1.0.", key)


def test_every_key_has_one_line_of_meaning_and_a_kind_of_data():
    for key, (_, _, kind, meaning) in ROWS.items():
        assert kind.split(";")[0] in ("wells", "photographs", "both"), key
        assert len(meaning) > 10 and meaning.endswith("."), key


def test_sections_come_in_the_order_of_the_schema():
    first = list(dict.fromkeys(key.split(".")[0] for key in ROWS))
    known = [field.alias or name for name, field in Recipe.model_fields.items()]
    assert first == known
