"""The pages: links lead somewhere, what commands name is there, README is for ten minutes."""

import re
from pathlib import Path

import pytest

from src.recipe import Recipe
from src.terminal.environment import ROOT

OWN = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
PAGES = sorted([*OWN, ROOT / "data" / "README.md", ROOT / "submissions" / "README.md"])
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    titles = re.findall(r"(?m)^#+ (.+)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_every_relative_link_leads_to_a_file_and_to_one_of_its_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target} is no heading"


@each_page
def test_every_file_of_the_project_that_a_page_names_is_there(page):
    named = re.findall(r"\b(?:src|tests|benchmarks|docs)/[\w/]+\.\w+", prose(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_page
def test_every_module_that_a_page_runs_is_there(page):
    text = " ".join(page.read_text(encoding="utf-8").split())
    for module in re.findall(r"python -m ((?:src|benchmarks|tests)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@each_page
def test_every_key_that_a_page_sets_is_a_key_of_recipes(page):
    text = page.read_text(encoding="utf-8")
    for key in re.findall(r"--set\s+['\"\\]*([a-z_][\w.]*)=", text):
        model = Recipe
        for step in re.sub(r"\.\d+", "", key).split("."):
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            assert step in fields, f"{page.name}: --set {key}"
            model = section(fields[step].annotation)
            if model is None:  # a value, or a table of free names
                break


def section(annotation: object) -> type | None:
    """The section that a key holds, alone, in a list or beside None."""
    inner = [annotation, *getattr(annotation, "__args__", ())]
    return next((kind for kind in inner if hasattr(kind, "model_fields")), None)


@each_page
def test_lines_fit_100_columns(page):
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|") and "](http" not in line:
            assert len(line) <= 100, f"{page.name}: {line}"


def test_readme_is_for_ten_minutes():
    page = ROOT / "README.md"
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 130
    for paragraph in re.split(r"\n\n|\n- |\n\|.*", prose(page)):
        for sentence in re.split(r"[.:;!?]\)?\s", paragraph):
            assert len(sentence.split()) <= 40, sentence


def test_readme_tells_every_folder_of_src():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"(?ms)^00_prepare_data.py \.\.\..*?^```$", text)[0]
    folders = {path.parent.name for path in (ROOT / "src").glob("*/__init__.py")}
    assert set(re.findall(r"src/(\w+)/", tree)) == folders


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", prose(page))
        waiting += {(page.parent / link).resolve() for link in links} - reached - set(waiting)
    assert set(OWN) - reached == set()
