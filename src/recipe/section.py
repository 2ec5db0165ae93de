"""What every section of a recipe is made of, and which keys only one kind of data has."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Kind = Literal["wells", "photographs"]  # of data

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
# of files and folders too, whose names have an end: 255 bytes
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=100)]
Value = bool | int | float | str


class Section(BaseModel):
    """A section's docstring, and the one below each of its keys, are the reference of recipes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def only(kind: Kind, default: Any, **limits: Any) -> Any:
    """A key, or a whole section, that only this kind of data has."""
    return Field(default, json_schema_extra={"kind": kind}, **limits)


def kind_of(field: FieldInfo, value: object = None) -> Kind | None:
    """The only kind of data that has a key, or this value of it; None if all have."""
    extra = field.json_schema_extra or {}
    return extra.get("kind") or (extra.get("values", {}).get(value) if value else None)


def foreign(section: Section, kind: Kind) -> str | None:
    """The path of the first key that was set though data of this kind does not have it, such as
    "postprocess.betas", or None.

    What was left at its default does not count.
    """
    for name, field in type(section).model_fields.items():
        if name not in section.model_fields_set:
            continue
        key, value = field.alias or name, getattr(section, name)
        text = value if isinstance(value, str) else None
        if kind_of(field, text) not in (None, kind):
            return key if kind_of(field) else f'{key} = "{text}"'
        for place, inner in _inside(value):
            path = foreign(inner, kind)
            if path:
                return f"{key}.{place}{path}"
    return None


def tree_of(section: Section, kind: Kind) -> dict[str, Any]:
    """A section as nested dictionaries, defaults included, without keys of the other kind of data
    and without those that are None.
    """
    tree = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if value is None or kind_of(field) not in (None, kind):
            continue
        inner = [tree_of(one, kind) for _, one in _inside(value)]
        if isinstance(value, Section):
            value = inner[0]
        tree[field.alias or name] = inner if inner and isinstance(value, list) else value
    return tree


def _inside(value: object) -> Iterator[tuple[str, Section]]:
    """The sections that a key holds, each with what its path has before its own keys."""
    if isinstance(value, Section):
        yield "", value
    elif isinstance(value, list):
        yield from (
            (f"{number}.", item) for number, item in enumerate(value) if isinstance(item, Section)
        )
