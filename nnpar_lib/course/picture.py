"""A picture with words for who cannot see it, and the boxes and arrows that pictures are made of.

Lengths are in half inches. A picture is 10.4 of them wide, and its text has 10 points or more: in
print it stays above 7 points, and on a screen of 390 pixels above 9 pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nnpar_lib.analysis.figures.theme import GREY, INK

WIDTH = 10.4
FONT_SIZE = 10.5  # points
RANK_COLOURS = ("#0173b2", "#de8f05", "#029e73", "#b34a9c")
PALE = ("#cfe3f1", "#fbe3bf", "#c9ecdf", "#efd3e8")  # the same colours as a background of text
UNCOLOURED = "#eeeeee"
Point = tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """A figure and the words that say what it shows; a notebook displays it as an image."""

    figure: Figure
    alt: str

    def svg(self) -> str:
        """Return the picture as SVG, its words as letters; the same picture gives the same text."""
        buffer = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": "nnpar", "svg.fonttype": "none"}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    def address(self) -> str:
        """Return the picture as the address of an image, which holds all of it."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg().encode()).decode()

    def image(self) -> str:
        """Return an HTML element that holds the picture and its words."""
        width = 120 * self.figure.get_size_inches()[0]  # pixels, where there is room
        look = f"width: 100%; max-width: {width:.0f}px; background: white"
        return f'<img alt="{escape(self.alt)}" src="{self.address()}" style="{look}">'

    def _repr_mimebundle_(self, **_: object) -> Mapping[str, str]:
        return {"text/html": self.image(), "text/plain": f"[picture] {self.alt}"}


@dataclass(frozen=True)
class Canvas:
    """What boxes, arrows and words are drawn on; y grows upwards from 0."""

    figure: Figure
    ax: Axes

    def box(
        self, corner: Point, size: Point, text: str = "", *, colour: str = UNCOLOURED, **more: Any
    ) -> None:
        """Draw a box with its lower left corner, its width and height, and a text in its middle."""
        ink = "white" if colour in (RANK_COLOURS[0], RANK_COLOURS[3]) else INK
        style = {"edgecolor": INK, "linewidth": 0.8, "boxstyle": "round,pad=0,rounding_size=0.08"}
        self.ax.add_patch(FancyBboxPatch(corner, *size, facecolor=colour, **{**style, **more}))
        middle = corner[0] + size[0] / 2, corner[1] + size[1] / 2
        self.text(middle, text, color=ink)

    def row(
        self,
        corner: Point,
        size: Point,
        texts: Sequence[str],
        colours: Sequence[str],
        gap: float = 0,
    ) -> None:
        """Draw boxes of one size beside each other."""
        for index, (text, colour) in enumerate(zip(texts, colours, strict=True)):
            self.box((corner[0] + index * (size[0] + gap), corner[1]), size, text, colour=colour)

    def arrow(self, start: Point, end: Point, *, style: str = "-|>", **more: Any) -> None:
        """Draw an arrow; `<|-|>` points both ways."""
        look = {"color": INK, "shrinkA": 2, "shrinkB": 2, "linewidth": 1.2, "mutation_scale": 12}
        self.ax.add_patch(FancyArrowPatch(start, end, arrowstyle=style, **{**look, **more}))

    def text(self, place: Point, text: str, **more: Any) -> None:
        """Write words, centred unless told otherwise."""
        look = {"ha": "center", "va": "center", "fontsize": FONT_SIZE, "color": INK}
        self.ax.text(*place, text, **{**look, **more})

    def heading(self, place: Point, text: str) -> None:
        """Write a title that begins at a place."""
        self.text(place, text, ha="left", weight="bold")

    def line(self, start: Point, end: Point, **more: Any) -> None:
        """Draw a line, dashed and grey unless told otherwise."""
        look = {"color": GREY, "linestyle": "--", "linewidth": 1.2}
        self.ax.plot(*zip(start, end, strict=True), **{**look, **more})


def draw(height: float, alt: str, drawing: Callable[[Canvas], None]) -> Picture:
    """Return the picture that a function draws on a white canvas of this height."""
    figure = Figure(figsize=(WIDTH / 2, height / 2), facecolor="white")
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, height))
    ax.axis("off")
    drawing(Canvas(figure, ax))
    return Picture(figure, alt)


def plot(height: float, alt: str, drawing: Callable[[Axes], None]) -> Picture:
    """Return a picture with axes: a curve, bars."""
    figure = Figure(figsize=(WIDTH / 2, height / 2), facecolor="white", layout="constrained")
    with mpl.rc_context({"font.size": FONT_SIZE, "axes.labelsize": FONT_SIZE}):
        ax = figure.add_subplot()
        drawing(ax)
    ax.tick_params(labelsize=FONT_SIZE)
    return Picture(figure, alt)
