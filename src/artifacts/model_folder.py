"""A model folder: what a trained run is worth to others, without what it was trained on.

recipe.toml                                  the whole recipe
weights/<member>/fold0_seed0.safetensors     of every task
decisions.json                               all else that predicting needs, and digests of the rest
card.md                                      what it is for, how good it is, what it cannot

Nothing in it is executed: it is TOML, JSON, safetensors and text.
"""

import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from src.artifacts import sealed
from src.artifacts.files import replacing_folder
from src.competitions.formats import zip_files
from src.recipe import Recipe, Task, load
from src.terminal.errors import UserError


class Training(BaseModel):
    """What every kind of data knows of its training set; each has more of its own."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    shape: list[Annotated[int, Field(ge=1, le=100_000)]] = Field(min_length=2, max_length=3)
    dtype: Literal["uint8", "uint16", "float32"]
    classes: list[Annotated[str, Field(pattern=r"^[\w .-]{1,100}$")]] = Field(min_length=1)


class Content(BaseModel):
    """What decisions.json holds, beside its checksum and what it was made from."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    recipe: str
    competition: str
    kind: str
    metric: str
    oof_score: float
    expected_score: float | None = None
    expected_interval: tuple[float, float] | None = None
    commit: str
    training: Training
    """`src.artifacts.run.Run.training`: scaling, classes, shape and type of an image."""
    decisions: dict[str, Any]
    """`src.artifacts.run.Run.decisions`: thresholds and refinement."""
    familiar: dict[str, tuple[float, float]]
    """The range of each number that describes the data it was trained on."""
    files: dict[str, str]
    """Digests of all other files."""
    created_from: dict[str, str]


WITHIN = re.compile(
    r"recipe\.toml|decisions\.json|card\.md|weights/[\w.-]+/fold\d+_seed\d+\.safetensors"
)
LARGEST = 1 << 34  # bytes of an unpacked zip
LARGEST_JSON = 1 << 24  # bytes of decisions.json


@dataclass(frozen=True)
class ModelFolder:
    """One that is whole: see `open`."""

    folder: Path
    content: dict[str, Any]

    @property
    def decisions(self) -> Path:
        return self.folder / "decisions.json"

    def weights(self, task: Task) -> Path:
        return self.folder / weights_within(task)

    @staticmethod
    def open(folder: Path) -> tuple["ModelFolder", Recipe]:
        """A model folder and its recipe; every byte is compared with its digest before it is used.

        Raises:
            UserError: a file is missing, damaged, of another model, or no part of one.
        """
        path = folder / "decisions.json"
        if not path.is_file():
            raise UserError(f"{folder} is no model folder: it has no decisions.json")
        if path.stat().st_size > LARGEST_JSON:
            raise UserError(f"{path} is larger than {LARGEST_JSON >> 20} MiB: {AGAIN}")
        try:
            content = sealed.read_json(path)
            Content.model_validate_json(path.read_bytes())
            files = content["files"]
        except UserError:
            raise UserError(f"{path} is damaged: {AGAIN}") from None
        except (ValidationError, RecursionError, *sealed.DAMAGE):
            raise UserError(f"{path} is not the decisions of a model: {AGAIN}") from None
        # The recipe says which files there must be, so it is the first to be compared.
        _compare(folder, {"recipe.toml": files.get("recipe.toml", "")})
        recipe = load(str(folder / "recipe.toml"))
        expected = files_of(recipe)
        if recipe.name != content["recipe"] or set(files) != expected:
            raise UserError(f"{path} lists other files than its recipe has: {AGAIN}")
        _compare(folder, files)
        spare = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}
        spare = {name for name in spare if not Path(name).name.startswith(".")}
        spare -= {*expected, path.name}
        if spare:
            raise UserError(f"{folder / min(spare)} is no part of this model: take it away")
        return ModelFolder(folder, content), recipe


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip of a model folder; only what a model may hold is written.

    Raises:
        UserError: it is damaged, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive, replacing_folder(folder) as partial:
            inside = zip_files.entries(archive, path)
            if sum(info.file_size for info in inside) > LARGEST:
                raise UserError(
                    f"{path} unpacks to more than {LARGEST >> 30} GiB: this is no model"
                )
            for info in inside:
                if not WITHIN.fullmatch(info.filename):
                    raise UserError(f"{path}: {info.filename} is no part of a model")
                place = partial / info.filename
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, open(place, "wb") as target:
                    shutil.copyfileobj(source, target)
    except zip_files.DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({error}): {AGAIN}") from None


AGAIN = "copy the model folder again, or make it again with make bundle"


def weights_within(task: Task) -> str:
    """Where the weights of a task are in a model folder."""
    return f"weights/{task.member}/fold{task.fold}_seed{task.seed}.safetensors"


def files_of(recipe: Recipe) -> set[str]:
    """The files of a model beside decisions.json."""
    return {"recipe.toml", "card.md", *map(weights_within, recipe.tasks())}


def _compare(folder: Path, files: dict[str, str]) -> None:
    odd = sealed.changed(folder, files)
    if odd:
        raise UserError(f"{odd} is missing, damaged or of another model: {AGAIN}")
