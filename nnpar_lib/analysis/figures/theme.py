"""The theme of all figures, the look of each strategy, and SVG and PNG files with alt text."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

FIGURE_SIZE = (7.0, 4.5)  # inches
# of a figure that shrinks to a column of the article, 85 mm, where its text is at least 7 points
COLUMN_SIZE = (4.18, 2.75)
SMALLEST_TEXT = 9.0  # points, before a figure shrinks
GREY = "#767676"  # the lightest grey that is still legible as text on white
INK = "#222222"


@dataclass(frozen=True)
class Style:
    """The look of a strategy: its label, and a colour, marker and dash that each identify it."""

    label: str
    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]


# Wong's colour-blind-safe palette as seaborn darkens it, without its yellow, which vanishes on
# white.
STYLES = {
    "serial": Style("serial", INK, "o", "solid"),
    "tutorial": Style("tutorial (serial)", "#8c6239", "X", (0, (5, 1, 1, 1, 1, 1))),
    "gradient_averaging/shared": Style(
        "gradient averaging (shared memory)", "#0173b2", "s", "solid"
    ),
    "gradient_averaging/mpi": Style("gradient averaging (MPI)", "#de8f05", "^", (0, (5, 2))),
    "gradient_averaging/overlapped": Style(
        "gradient averaging (overlapped)", "#029e73", "D", (0, (4, 1, 1, 1))
    ),
    "gradient_averaging/ring": Style("gradient averaging (ring)", "#ca3a7c", "$O$", (0, (3, 2))),
    "gradient_averaging/recursive_doubling": Style(
        "gradient averaging (recursive doubling)", "#3d6b21", "$2$", (0, (5, 1, 1, 1))
    ),
    "gradient_averaging/rabenseifner": Style(
        "gradient averaging (Rabenseifner)", "#5b5ea6", "$R$", (0, (1, 1))
    ),
    "gradient_averaging/tree": Style("gradient averaging (tree)", "#8f5a3c", "$Y$", (0, (6, 2))),
    "gradient_averaging/two_level": Style(
        "gradient averaging (two levels)", "#00798c", "$L$", (0, (2, 1))
    ),
    "weight_averaging": Style("weight averaging", "#b34a9c", "v", (0, (2, 1))),
    "sharded": Style("sharded", "#2c7a7b", "$S$", (0, (5, 1, 1, 1))),
    "root_worker": Style("root and workers", "#d55e00", "P", (0, (1, 1))),
    "cpp/shared": Style("C++ (shared memory)", "#7d3c98", "h", "solid"),
    "cpp/mpi": Style("C++ (MPI)", "#c0392b", "<", (0, (5, 2))),
    "cpp/overlapped": Style("C++ (overlapped)", "#117a65", ">", (0, (4, 1, 1, 1))),
    "cpp_weight_averaging": Style("C++ (weight averaging)", "#b7950b", "d", (0, (2, 1))),
    "torch_ddp": Style("PyTorch DDP", "#3a9bd0", "p", (0, (6, 1, 2, 1))),
    "torch_fsdp": Style("PyTorch FSDP", "#5b7f1f", "$F$", (0, (6, 1, 1, 1))),
    "pipeline": Style("pipeline", "#4b3b8f", "8", (0, (7, 2))),
    "tensor": Style("tensor parallelism", "#56786b", "H", (0, (3, 1, 1, 1))),
    "hybrid": Style("data x pipeline", "#a0522d", "*", (0, (8, 2, 2, 2))),
    "torch_pipelining": Style("PyTorch pipelining", "#7a6a00", "$=$", (0, (2, 2))),
}
PARTS = {"compute": "#0173b2", "communicate": "#de8f05", "wait": "#d55e00", "other": "#c8c8c8"}
HATCHES = {"compute": "", "communicate": "///", "wait": "...", "other": ""}
ALLREDUCE_LABELS = {
    "shared": "shared memory",
    "mpi": "MPI Allreduce",
    "overlapped": "overlapped",
    "ring": "ring",
    "recursive_doubling": "recursive doubling",
    "rabenseifner": "Rabenseifner",
    "tree": "tree",
    "two_level": "two levels",
}


def theme(size: tuple[float, float] = FIGURE_SIZE) -> None:
    """Set the one theme of all figures, and the usual size of one in inches, for the session."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette="colorblind",
        font_scale=0.9 if size == FIGURE_SIZE else SMALLEST_TEXT / 11,
        rc={
            "figure.figsize": size,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 150,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlelocation": "left",
            "axes.titlepad": 18,
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.8,
            "lines.linewidth": 1.8,
            "lines.markersize": 7,
            "legend.frameon": False,
        },
    )


def style_of(strategy: str, allreduce: str | None = None) -> Style:
    """Return the look of a strategy, the same in every figure; grey for one that is not listed."""
    unlisted = Style(strategy.replace("_", " "), GREY, "*", (0, (3, 1)))
    return STYLES.get(f"{strategy}/{allreduce}") or STYLES.get(strategy) or unlisted


def figure_size() -> tuple[float, float]:
    """Return the usual width and height of a figure, in inches, which the theme sets."""
    width, height = plt.rcParams["figure.figsize"]
    return width, height


def wrap(text: str, width: int) -> str:
    """Return a label in lines of so many characters in a figure of usual width, fewer in a narrow
    one."""
    num_characters = round(width * min(1.0, figure_size()[0] / 6))
    return textwrap.fill(text, num_characters, break_long_words=False)


def enlarge_text(figure: Figure) -> None:
    """Give all text of a figure at least the size that can be read when the figure shrinks."""
    for text in figure.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), SMALLEST_TEXT))


def new_axes(num_bars: int | None = None) -> Axes:
    """Return the axes of a new figure, of the usual height or one that suits `num_bars` bars."""
    width, usual_height = figure_size()
    height = usual_height if num_bars is None else usual_height * (0.25 + 0.105 * num_bars)
    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def save(figure: Figure, folder: str | Path, name: str, alt: str) -> list[Path]:
    """Write `name`.svg and `name`.png into a folder, which is made if needed; return their paths.

    The alternative text becomes the `<desc>` of the SVG and the description of the PNG, for readers
    who do not see the picture. The same figure gives the same bytes: no date, no random ids.
    """
    if not alt.strip():
        raise ValueError(f"figure {name!r} has no alt text; say in a sentence or two what it shows")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    title = name.replace("_", " ").replace("-", " ")
    svg = folder / f"{name}.svg"
    png = folder / f"{name}.png"
    svg.write_text(_svg(figure, title, alt), encoding="utf-8")
    metadata: dict[str, Any] = {"Title": title, "Description": alt, "Software": None}
    figure.savefig(png, bbox_inches="tight", metadata=metadata)
    return [svg, png]


def _svg(figure: Figure, title: str, alt: str) -> str:
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Title": title, "Description": alt, "Date": None}
    with mpl.rc_context({"svg.hashsalt": "nnpar"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata=metadata)
    # matplotlib keeps the description in RDF, which no screen reader looks into
    text = buffer.getvalue().replace("<svg ", '<svg role="img" ', 1)
    return text.replace("</title>", f"</title>\n <desc>{escape(alt)}</desc>", 1)
