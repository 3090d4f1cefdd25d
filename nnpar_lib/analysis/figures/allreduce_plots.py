"""All-reduces against each other: which is faster from which size on, measured and predicted."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from nnpar_lib.analysis.figures import lines
from nnpar_lib.analysis.figures.lines import End
from nnpar_lib.analysis.figures.theme import ALLREDUCE_LABELS, GREY, new_axes, style_of

REFERENCE = "ring"


def crossovers(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the seconds of each all-reduce over those of the ring, for one number of ranks.

    `table` is that of `allreduce_algorithms.compare`. Where two lines cross, the faster way
    changes. Thin lines without markers are predictions.
    """
    ax = ax or new_axes()
    for kind, rows in _over_reference(table, "predicted").groupby("allreduce"):
        colour = style_of("gradient_averaging", str(kind)).colour
        ax.plot(rows["num_elements"], rows["ratio"], color=colour, linewidth=0.8)
    measured = _over_reference(table, "seconds").groupby("allreduce", sort=False)
    ends = [_draw(ax, str(kind), rows) for kind, rows in measured]
    ax.axhline(1, color=GREY, linestyle="--", linewidth=1, zorder=1)
    lines.count_axis(ax, table["num_elements"], EngFormatter(places=0, sep=lines.NBSP))
    num_ranks = ", ".join(f"{p:.0f}" for p in sorted(table["num_ranks"].unique()))
    ax.set(xlabel=f"numbers summed, {num_ranks} ranks", ylabel="time / time of the ring")
    ax.set_yscale("log")
    lines.ratio_axis(ax.yaxis)
    lines.note(ax, table)
    lines.label_ends(ax, ends)
    return ax


def _draw(ax: Axes, kind: str, rows: pd.DataFrame) -> End:
    way, comma, again = kind.partition(",")  # a control looks as what it repeats
    style = style_of("gradient_averaging", way)
    lines.draw_line(ax, rows, "num_elements", "ratio", style)
    last = rows.iloc[-1]
    label = ALLREDUCE_LABELS.get(way, way) + comma + again
    return End(last["num_elements"], last["ratio"], label, style.colour)


def _over_reference(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a column `ratio` of seconds over those of the ring, with quartiles, by size."""
    timed = table.dropna(subset=[name]).sort_values("num_elements")
    of_ring = timed[timed["allreduce"] == REFERENCE].set_index("num_elements")[name]
    reference = timed["num_elements"].map(of_ring)
    return timed.assign(
        ratio=timed[name] / reference, low=timed["low"] / reference, high=timed["high"] / reference
    )
