"""Line charts as SVG inside the page: they take its colours, light or dark, and stay sharp on
paper.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 40


@dataclass(frozen=True)
class Line:
    """A curve with, where there is one, the range around it; `style` is the name of its CSS
    class, `name` shows where a pointer rests on it.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    style: str = "main"
    name: str = ""


def lines(
    series: Sequence[Line],
    x_title: str,
    y_title: str,
    says: str,
    marks: Sequence[tuple[float, str]] = (),
    span: tuple[float, float] | None = None,
) -> Markup:
    """A chart of curves.

    Args:
        says: what the chart shows, in a sentence, for those who do not see it.
        marks: places on the x axis that get a vertical line, with a word on each.
        span: of the x axis; without it that of the curves.
    """
    x_range = _range(np.concatenate([*(line.x for line in series), span or []]), pad=0)
    y_range = _range(
        np.concatenate(
            [part for line in series for part in (line.y, line.low, line.high) if part is not None]
        ),
        pad=0.06,
    )
    axes = _Axes(x_range, y_range)
    svg = ET.Element(
        "svg",
        {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": says, "class": "chart"},
    )
    whole = all((line.x % 1 == 0).all() for line in series)
    _grid(svg, axes, least=1 if whole else 0)
    for place, word in marks:
        _mark(svg, axes.across(place), word)
    for line in series:  # below all curves
        if line.low is not None and line.high is not None:
            around = [*axes.points(line.x, line.high), *reversed(axes.points(line.x, line.low))]
            _add(svg, "polygon", f"range {line.style}", points=_points(around))
    for line in series:
        _curve(svg, axes, line)
    _add(svg, "line", "axis", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM)
    _add(svg, "text", "title middle", x_title, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6)
    turned = f"translate(12 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    _add(svg, "text", "title middle", y_title, transform=turned)
    return Markup(ET.tostring(svg, encoding="unicode"))  # ElementTree has escaped every text


@dataclass(frozen=True)
class _Axes:
    """What values lie between the edges of the chart."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: np.ndarray | float) -> np.ndarray:
        low, high = self.x
        return LEFT + (np.asarray(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def down(self, y: np.ndarray | float) -> np.ndarray:
        low, high = self.y
        return HEIGHT - BOTTOM - (np.asarray(y) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def points(self, x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
        return [*zip(self.across(x), self.down(y), strict=True)]


def _grid(svg: ET.Element, axes: _Axes, least: float) -> None:
    """Lines across, and numbers along both axes; those of x at least `least` apart."""
    for tick in _ticks(*axes.y):
        level = axes.down(tick)
        _add(svg, "line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=level, y2=level)
        _add(svg, "text", "tick end", _label(tick), x=LEFT - 6, y=level + 4)
    for tick in _ticks(*axes.x, least=least):
        place = axes.across(tick)
        _add(svg, "text", "tick middle", _label(tick), x=place, y=HEIGHT - BOTTOM + 16)


def _mark(svg: ET.Element, place: float, word: str) -> None:
    """A vertical line and the word beside it, on the side that has more room."""
    _add(svg, "line", "at", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM)
    end = place > WIDTH / 2
    beside = place + (-5 if end else 5)
    _add(svg, "text", "tick end" if end else "tick", word, x=beside, y=TOP + 10)


def _curve(svg: ET.Element, axes: _Axes, line: Line) -> None:
    points, style = axes.points(line.x, line.y), f"line {line.style}"
    if len(points) == 1:
        points, style = points * 2, f"{style} dot"
    drawn = _add(svg, "polyline", style, points=_points(points))
    if line.name:
        ET.SubElement(drawn, "title").text = line.name


def _range(values: np.ndarray, pad: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if high == low:
        low, high = low - 0.5, high + 0.5
    return low - pad * (high - low), high + pad * (high - low)


def _ticks(low: float, high: float, least: float = 0) -> list[float]:
    """Round numbers within a range, three to seven of them, or fewer where they would be less
    than `least` apart.
    """
    step = 10.0 ** np.floor(np.log10((high - low) / 3))
    step = max(
        least, next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) < 7)
    )
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    # adding 0 makes 0 of -0
    return [round(float(number * step), 10) + 0.0 for number in np.arange(first, last + 1)]


def _label(value: float) -> str:
    return f"{value:,.10g}".replace("-", "\u2212")


def _points(pairs: object) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _add(
    parent: ET.Element, tag: str, style: str, text: str | None = None, **where: object
) -> ET.Element:
    numbers = {
        name: value if isinstance(value, str) else f"{float(value):.1f}"
        for name, value in where.items()
    }
    element = ET.SubElement(parent, tag, {"class": style, **numbers})
    element.text = text
    return element
