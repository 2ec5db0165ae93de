"""Templates to a page: one file, with its style sheet and scripts inside and every text escaped."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, script: str | None, **context: Any) -> str:
    """The page as text.

    Args:
        template, script: file names beside this module; a page may do without a script.
        context: what the template speaks of; a name that it lacks is an error.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": score, "share": share, "duration": duration, "count": count}
    environment.filters["signed"] = signed
    parts = {"style": _file("style.css"), "script": _file(script) if script else ""}
    return environment.get_template(template).render(**parts, **context)


def _file(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def score(value: float | None, digits: int = 4) -> Markup:
    """A number to read, with the exact one as the element's value."""
    if value is None:
        return Markup("&ndash;")
    return Markup('<data value="{}">{}</data>').format(repr(value), f"{value:.{digits}f}")


def signed(value: float) -> Markup:
    """A difference of scores, as `score` with its sign."""
    text = f"{value:+.4f}".replace("-", "\u2212")
    return Markup('<data value="{}">{}</data>').format(repr(value), text)


def share(value: float, digits: int = 1) -> str:
    """A share of one in percent."""
    return f"{value:.{digits}%}".replace("%", "\u2009%")


def count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f}\u2009s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}\u2009h {minutes}\u2009min" if hours else f"{minutes}\u2009min"
