"""The typed recipe: `schema` and `training` say what it may hold, `loading` reads and writes it,
`overrides` changes it from a command line.
"""

from src.recipe.loading import RECIPES, check_kind, dump, load, parse, to_toml
from src.recipe.schema import (
    HMM,
    Data,
    Folds,
    Generate,
    Inference,
    Postprocess,
    Recipe,
    Task,
)
from src.recipe.section import Count, Kind, Section, foreign
from src.recipe.training import Augment, Copy, Member, Phase, Photograph, Pruning

__all__ = [
    "HMM",
    "RECIPES",
    "Augment",
    "Copy",
    "Count",
    "Data",
    "Folds",
    "Generate",
    "Inference",
    "Kind",
    "Member",
    "Phase",
    "Photograph",
    "Postprocess",
    "Pruning",
    "Recipe",
    "Section",
    "Task",
    "check_kind",
    "dump",
    "foreign",
    "load",
    "parse",
    "to_toml",
]
