"""Imports run one way through the rooms of src/, and a stage begins without slow libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From top to bottom; rooms on one line do not see each other.
LAYERS = [
    {"cli"},
    {"studies", "model"},
    {"stages"},
    {"modality"},
    {"wells", "photographs"},
    {"report", "training"},
    {"tasks"},
    {"scoring"},
    {"networks"},
    {"artifacts"},
    {"competitions"},
    {"recipe"},
    {"terminal"},
]
DEPTH = {room: depth for depth, layer in enumerate(LAYERS) for room in layer}
SLOW = (
    "timm",
    "torchvision",
    "segmentation_models_pytorch",
    "torch_pruning",
    "sklearn",
    "torch._dynamo",
)


def imported(path: Path) -> set[str]:
    """The modules of src/ that a file imports, wherever in it, without the leading "src."."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "src":
            package = node.module.partition(".")[2]
            names |= {f"{package}.{alias.name}".strip(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("src.")}
    return names


FILES = sorted((ROOT / "src").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way_from_room_to_room(path: Path) -> None:
    own = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
    for name in imported(path) if own != "__init__" else ():
        room = name.partition(".")[0]
        assert room == own or DEPTH[room] > DEPTH[own], f"{own} imports {name}"


def test_every_room_has_its_place() -> None:
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "src").iterdir()}
    assert rooms - {"__init__", "__pycache__"} == DEPTH.keys()


def test_folders_and_files_stay_small() -> None:
    for folder in {path.parent for path in FILES}:
        files = [path for path in folder.iterdir() if path.is_file()]
        assert len(files) <= 14, f"{folder.relative_to(ROOT)} has {len(files)} files"
    for path in FILES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 350, f"{path.relative_to(ROOT)} has {lines} lines"
    for path in ROOT.glob("0*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 30, path.name


def test_the_kind_of_data_is_chosen_in_one_place() -> None:
    asks = [
        path.name
        for path in (*FILES, *ROOT.glob("0*.py"))
        if "competition.kind" in path.read_text(encoding="utf-8").replace("to_toml(", "")
    ]
    assert "modality.py" in asks


@pytest.mark.parametrize(
    "stage", ["00_prepare_data", "02_predict", "03_ensemble", "04_postprocess"]
)
def test_a_stage_begins_without_the_libraries_that_take_seconds_to_import(stage: str) -> None:
    code = (
        f"import sys; __import__({stage!r}); "
        f"print(*[name for name in {SLOW} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
