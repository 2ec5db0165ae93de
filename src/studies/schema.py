"""What a study says: variations of a recipe, in a file of recipes/studies/."""

import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from src.recipe import RECIPES, Count, Section
from src.terminal.errors import UserError, did_you_mean

STUDIES = RECIPES / "studies"
# One random fifth of the patches held out, the epoch picked on it; or folds of whole wells.
PROTOCOLS = {
    "paper": [
        'folds={ scheme = "random", count = 5, run = [0] }',
        'member.selection="best_on_held_out"',
        "member.early_stopping=20",
    ],
    "wells": [],
}
Protocol = Literal["paper", "wells"]


class Variation(Section):
    """A name for the table, and what it changes in the base recipe, as for --set; it may start from
    another base.

    `members` keeps only those members of the base.
    """

    name: str
    base: str | None = None
    members: list[str] | None = Field(default=None, min_length=1)
    set: list[str] = Field(default=[])


class Axis(Section):
    """One of several choices that are combined with those of every other axis."""

    options: list[Variation] = Field(alias="option", min_length=1)


class Study(Section):
    """`question` heads the table; `set` and `members` hold for every variation, unless one names
    `members` of its own; `seeds` is how many seeds each gets.

    `protocols` are those by which every variation is trained: the CorroSeg paper's, and folds of
    whole groups. `table` says what a line tells: "scores" of wells by both protocols, "backbones"
    of photographs with their speed, "encoders" of both stages at fixed and selected thresholds, or
    "pruning".

    Besides the variations that are listed there is one for each combination of the axes' options,
    should there be axes.
    """

    question: str
    base: str
    members: list[str] | None = Field(default=None, min_length=1)
    seeds: Count = 1
    protocols: list[Protocol] = Field(default=["paper", "wells"], min_length=1)
    table: Literal["scores", "photographs", "backbones", "encoders", "pruning"] = "scores"
    set: list[str] = Field(default=[])
    listed: list[Variation] = Field(alias="variation", default=[])
    axes: list[Axis] = Field(alias="axis", default=[])

    @model_validator(mode="after")
    def check(self) -> "Study":
        if not self.variations:
            raise ValueError("a study needs a variation or an axis")
        return self

    @property
    def variations(self) -> list[Variation]:
        combined = product(*(axis.options for axis in self.axes))
        return [*self.listed, *(_combined(options) for options in combined if options)]

    def only(self, names: list[str] | None) -> "Study":
        """The study with no other variations than `names`, where there are any.

        Raises:
            UserError: a name that no variation has.
        """
        known = [variation.name for variation in self.variations]
        for name in names or []:
            if name not in known:
                raise UserError(f"--only {name}: {did_you_mean(name, known)}")
        kept = [own for own in self.variations if not names or own.name in names]
        return self.model_copy(update={"listed": kept, "axes": []})


def _combined(options: Sequence[Variation]) -> Variation:
    base = next((option.base for option in options if option.base), None)
    return Variation(
        name=", ".join(option.name for option in options),
        base=base,
        set=[line for option in options for line in option.set],
    )


def load(name: str) -> Study:
    """The study called `name` in recipes/studies/, or the file at that path.

    Raises:
        UserError: there is none, or it is not written as a study.
    """
    path = Path(name) if name.endswith(".toml") else STUDIES / f"{name}.toml"
    if not path.is_file():
        known = [file.stem for file in STUDIES.glob("*.toml")]
        raise UserError(f"no study at {path}: {did_you_mean(name, known)}")
    try:
        return Study.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"{path}: {error}") from None
