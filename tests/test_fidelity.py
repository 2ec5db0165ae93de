"""docs/fidelity.md: what its tables name exists, and its verdicts are of three forms."""

import re
from functools import cache
from importlib.util import find_spec

import pytest

from src import networks
from src.recipe import RECIPES, Recipe
from src.studies import schema
from src.terminal.environment import ROOT

TEXT = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
VERDICT = re.compile(r"equal(?:[.:;,]? .+)?|(?:differs|not built)(?: [^:]+)?: .+")
STUDIES = {path.stem for path in schema.STUDIES.glob("*.toml")}
RECIPE_NAMES = {path.stem for path in RECIPES.glob("*.toml")}
NAMES = RECIPE_NAMES | STUDIES | set(networks.REGISTRY)


def tables() -> list[list[list[str]]]:
    """Every table, its heading first, as cells."""
    blocks = re.findall(r"(?m)(?:^\|.*\n)+", TEXT)
    split = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in own.splitlines()] for own in blocks]
    return [
        [[cell.strip() for cell in line] for line in own if "---" not in line[0]] for own in split
    ]


ROWS = [row for own in tables() if own[0][-1] == "verdict" for row in own[1:]]
SHOWN = [row for own in tables() if own[0][-1] != "verdict" for row in own[1:]]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])


def keys(model: type = Recipe, before: str = "") -> set[str]:
    """Every key of a recipe, with its path."""
    result = set()
    for name, field in model.model_fields.items():
        key, kind = f"{before}{field.alias or name}", field.annotation
        result.add(key)
        for inner in (kind, *getattr(kind, "__args__", ())):
            if hasattr(inner, "model_fields"):
                result |= keys(inner, f"{key}.")
    return result


KEYS = keys()


@cache
def code() -> str:
    return "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src").rglob("*.py"))


@cache
def defined() -> set[str]:
    """Every module, function, class, constant and argument of the code."""
    names = re.findall(r"(?:def|class) (\w+)|^ *(\w+)(?: =|:)|[(,] ?(\w+):", code(), re.M)
    files = {path.stem for path in (ROOT / "src").rglob("*.py")}
    return files | {name for found in names for name in found}


def exists(name: str) -> bool:
    """Whether something named in a table is a file, a command, an option, a key, or has that name
    in the code.
    """
    if name.startswith("python -m "):
        return (ROOT / f"{name.split()[2].replace('.', '/')}.py").is_file()
    if name.startswith("--") or re.fullmatch(r'"\w+"|\w+\.(?:h5|md|png)', name):
        return name.split()[0].strip('"').removesuffix(".png") in code()
    if name.startswith("torch."):
        return find_spec(name) is not None
    if "/" in name:
        return (ROOT / name.partition("::")[0]).exists()
    key = re.sub(r"\.\d+", "", name.partition("=")[0].strip())
    if key.partition(".")[0] in {"folds", "member", "data", "inference", "postprocess"}:
        return key in KEYS or ("." in key and key.rpartition(".")[0] == "member.network")
    return key in NAMES or key.rpartition(".")[2] in defined()


def test_there_are_tables_of_verdicts_and_of_figures():
    assert len(ROWS) > 60 and len(SHOWN) > 8
    assert all(len(row) == len(own[0]) for own in tables() for row in own)


@each_row
def test_what_a_row_names_is_there(row):
    assert [name for name in re.findall(r"`([^`]+)`", row[1]) if not exists(name)] == []
    assert set(re.findall(r"stud(?:y|ies) `(\w+)`", " ".join(row))) <= STUDIES
    assert set(re.findall(r"recipes? `(\w+)`", " ".join(row))) <= RECIPE_NAMES


@each_row
def test_a_verdict_is_one_of_three_and_has_a_reason_where_it_needs_one(row):
    verdict = row[2].replace("*", "")
    assert VERDICT.fullmatch(verdict), verdict
    assert verdict.startswith("not built") or re.search(r"`\w", row[1]), "it stands nowhere"


@pytest.mark.parametrize("name", ["src/none.py", "folds.none", "member.phase.none", "no_such_name"])
def test_what_is_not_there_is_noticed(name):
    assert not exists(name)


@pytest.mark.parametrize("verdict", ["differs", "differs:", "not built:", "same", "equalled"])
def test_a_verdict_without_a_reason_or_of_another_form_is_noticed(verdict):
    assert not VERDICT.fullmatch(verdict)


def test_every_command_is_for_a_study_a_recipe_and_variations_that_are_there():
    commands = re.findall(r"make (?:study|all|train)[^\n`]*", re.sub(r"\\\n\s*", " ", TEXT))
    assert len(commands) > 3
    for command in commands:
        assert set(re.findall(r"RECIPE=(\w+)", command)) <= RECIPE_NAMES
        only = {a or b for a, b in re.findall(r"--only (?:'([^']+)'|(\w+))", command)}
        known = [schema.load(name).variations for name in re.findall(r"STUDY=(\w+)", command)]
        assert only <= {own.name for variations in known for own in variations}
