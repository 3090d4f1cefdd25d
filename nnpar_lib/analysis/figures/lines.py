"""Lines of a figure: looks, hollow points, labels at the ends, and ticks at measured counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, FixedLocator, Formatter, FuncFormatter, NullLocator
from scipy.optimize import isotonic_regression

from nnpar_lib.analysis import scaling
from nnpar_lib.analysis.figures.theme import FIGURE_SIZE, GREY, Style, figure_size, style_of, wrap
from nnpar_lib.config.spread import SINGLE_RANK_STRATEGIES

LABEL_WIDTH = 25  # characters before a label goes on in its next line
LABEL_SIZE = 9  # points
NOTE_WIDTH = 80  # characters
HALO = [withStroke(linewidth=3, foreground="white")]
NBSP = "\N{NO-BREAK SPACE}"
PHRASES = {
    "num_ranks": "{} ranks",
    "threads_per_rank": "{} threads a rank",
    "global_batch_size": "batch {}",
    "local_batch_size": "local batch {}",
    "average_every": "every {} steps",
    "bucket_kib": "{} KiB buckets",
    "num_parameters": "{} weights",
}
ON_ONE_RANK = {"threads_per_rank": "{} threads"}


@dataclass(frozen=True)
class End:
    """Where a line ends, in data coordinates, and what is written there."""

    x: float
    y: float
    text: str
    colour: str


def lines_of(
    table: pd.DataFrame, exclude: Sequence[str]
) -> Iterator[tuple[str, Style, pd.DataFrame]]:
    """Yield label, look and rows of each line.

    Rows of one line agree in all columns that vary, except those in `exclude`. Lines of one
    strategy share marker and dash and differ in lightness; the last one is the darkest.
    """
    by = [c for c in scaling.keys(table) if c not in exclude]
    groups = [rows for _, rows in table.groupby(by, dropna=False, sort=False)]
    styles = [style_of(rows["strategy"].iloc[0], rows["allreduce"].iloc[0]) for rows in groups]
    for i, (rows, style) in enumerate(zip(groups, styles, strict=True)):
        same = table.loc[[s == style for s in _style_of_rows(table)]]
        label = ", ".join([style.label, *_distinctions(rows.iloc[0], by, table, same)])
        shade = lighten(style.colour, styles[i + 1 :].count(style) / max(1, styles.count(style)))
        yield label, Style(style.label, shade, style.marker, style.dash), rows


def draw_line(ax: Axes, rows: pd.DataFrame, x: str, y: str, style: Style) -> None:
    """Draw one line in the order of x, with whiskers from `low` to `high`.

    Oversubscribed points are hollow.
    """
    rows = rows.sort_values(x)
    ax.plot(rows[x], rows[y], color=style.colour, linestyle=style.dash, zorder=2)
    whiskers = [rows[y] - rows["low"], rows["high"] - rows[y]]
    ax.errorbar(
        rows[x],
        rows[y],
        yerr=np.clip(np.array(whiskers, dtype=float), 0, None),
        fmt="none",
        ecolor=style.colour,
        elinewidth=1.2,
        capsize=3,
        zorder=2,
    )
    hollow = rows["oversubscribed"].astype(bool)
    for part, face in ((rows[~hollow], style.colour), (rows[hollow], "white")):
        if not part.empty:
            ax.plot(
                part[x],
                part[y],
                linestyle="none",
                marker=style.marker,
                color=style.colour,
                markerfacecolor=face,
                markeredgewidth=1.5,
                zorder=3,
            )


def draw_lines(
    ax: Axes, table: pd.DataFrame, x: str, y: str, exclude: Sequence[str] = ()
) -> list[End]:
    """Draw every line of a table; return the ends, to be labelled once the limits of the axes are
    set."""
    ends = []
    for label, style, rows in lines_of(table, [x, *exclude]):
        draw_line(ax, rows, x, y, style)
        last = rows.sort_values(x).iloc[-1]
        ends.append(End(float(last[x]), float(last[y]), label, style.colour))
    return ends


def label_ends(ax: Axes, ends: Sequence[End]) -> None:
    """Write each label right of the end of its line, inside the axes if there is room.

    Labels of lines that end in the same place are moved apart, with a thin leader to the line. Call
    it last: it reads the limits and the scale of the axes.
    """
    columns: dict[float, list[End]] = {}
    for end in ends:
        x = float(_to_axes(ax, end)[0])
        columns.setdefault(1.0 if x > 0.65 else round(x, 1), []).append(end)
    for x, column in columns.items():
        _label_column(ax, column, 1.04 if x == 1 else None)


def spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Return centres near the wanted ones such that boxes of these heights do not overlap in [0,
    1]."""
    order = np.argsort(wanted, kind="stable")
    height = np.asarray(heights, dtype=float)[order]
    offsets = (
        np.cumsum(height) - height / 2
    )  # where the centres lie when the boxes are stacked from zero
    slack = isotonic_regression(np.asarray(wanted, dtype=float)[order] - offsets).x
    room = max(0.0, 1 - float(height.sum()))
    centres = np.empty(len(order))
    centres[order] = np.clip(slack, 0, room) + offsets
    return [float(c) for c in centres]


def count_axis(ax: Axes, counts: Iterable[float], formatter: Formatter | None = None) -> None:
    """Make x logarithmic with ticks at the measured counts.

    Of two labels that would overlap, one is left out.
    """
    values = sorted({float(c) for c in counts})
    margin = max(1.12, (values[-1] / values[0]) ** 0.05)
    ax.set(xscale="log", xlim=(values[0] / margin, values[-1] * margin))
    set_ticks(ax.xaxis, values, formatter or FuncFormatter(lambda v, _: f"{v:.0f}"))


def value_axis(axis: Axis, unit: str = "") -> None:
    """Give a logarithmic axis a few round ticks (1, 2, 5, 10 ...) over what is drawn."""
    low, high = _widened(axis, 5)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    values = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
    set_ticks(axis, values, EngFormatter(unit, sep=NBSP))


def ratio_axis(axis: Axis) -> None:
    """Give a logarithmic axis ticks at powers of two, and half way between if they are few."""
    low, high = _widened(axis, 3)
    exponents = range(math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 1)
    powers, between = (
        [m * 2.0**i for i in exponents if low <= m * 2.0**i <= high] for m in (1, 1.5)
    )
    values = powers if len(powers) > 3 else sorted(powers + between)
    set_ticks(axis, values, FuncFormatter(lambda v, _: f"{v:.3g}"))


def set_ticks(axis: Axis, values: Sequence[float], formatter: Formatter) -> None:
    """Put ticks at these values only; labels that would overlap on a log axis are left out."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    low, high = np.log(axis.get_view_interval())
    narrower = max(1.0, FIGURE_SIZE[0] / figure_size()[0])
    kept: list[float] = []
    for value in values:
        room = 0.05
        if isinstance(axis, XAxis):
            room = (0.005 + 0.021 * len(formatter(value))) * narrower
        if not kept or math.log(value / kept[-1]) > room * (high - low):
            kept.append(value)
    axis.set_major_formatter(FuncFormatter(lambda v, i: formatter(v, i) if v in kept else ""))


def note(ax: Axes, table: pd.DataFrame, *, at_right: bool = False) -> None:
    """Explain hollow points and whiskers above the axes, if there are any.

    Text at the right goes over the names of bars.
    """
    parts = []
    if table["oversubscribed"].astype(bool).any():
        parts.append("hollow: more ranks \N{MULTIPLICATION SIGN} threads than cores")
    if (table["num_repeats"] > 1).any():
        parts.append(f"whiskers: quartiles of {_span(table['num_repeats'])} repeats")
    if parts:
        text = wrap("; ".join(parts), NOTE_WIDTH)
        place = (1, "right") if at_right else (0, "left")
        ax.text(
            place[0],
            1.02,
            text,
            transform=ax.transAxes,
            fontsize=8,
            color=GREY,
            va="bottom",
            ha=place[1],
        )


def lighten(colour: str, share: float) -> str:
    """Return a colour nearer to white: 0 leaves it, 1 is the lightest that can be seen."""
    red, green, blue = (c + (1 - c) * 0.7 * share for c in to_rgb(colour))
    return to_hex((red, green, blue))


def _widened(axis: Axis, factor: float) -> tuple[float, float]:
    """Return the limits of a logarithmic axis, widened if they span less than a factor."""
    low, high = axis.get_view_interval()
    grow = max(1.0, math.sqrt(factor * low / high))
    axis.set_view_interval(low / grow, high * grow, ignore=True)
    return low / grow, high * grow


def _label_column(ax: Axes, ends: Sequence[End], outside: float | None) -> None:
    places = [_to_axes(ax, end) for end in ends]
    left = outside or max(x for x, _ in places) + 0.03
    texts = [wrap(end.text, LABEL_WIDTH) for end in ends]
    line_height = 1.35 * LABEL_SIZE / 72 * ax.figure.get_dpi() / ax.get_window_extent().height
    heights = [line_height * (text.count("\n") + 1.25) for text in texts]
    for end, text, y in zip(ends, texts, spread([y for _, y in places], heights), strict=True):
        leader = {
            "arrowstyle": "-",
            "linewidth": 0.7,
            "color": end.colour,
            "alpha": 0.6,
            "shrinkA": 1,
            "shrinkB": 5,
            "relpos": (0, 0.5),
        }
        ax.annotate(
            text,
            (end.x, end.y),
            xytext=(left, y),
            textcoords="axes fraction",
            color=end.colour,
            fontsize=LABEL_SIZE,
            va="center",
            annotation_clip=False,
            arrowprops=leader,
            path_effects=HALO,
            zorder=5,
        )


def _to_axes(ax: Axes, end: End) -> tuple[float, float]:
    x, y = ax.transAxes.inverted().transform(ax.transData.transform((end.x, end.y)))
    return float(x), float(y)


def _style_of_rows(table: pd.DataFrame) -> list[Style]:
    return [style_of(s, a) for s, a in zip(table["strategy"], table["allreduce"], strict=True)]


def _distinctions(
    row: pd.Series[Any], by: Sequence[str], table: pd.DataFrame, same: pd.DataFrame
) -> list[str]:
    """Return what a label says beyond the strategy: the values that vary, and the number of
    workers."""
    on_one_rank = row["strategy"] in SINGLE_RANK_STRATEGIES
    phrases = []
    for column in by:
        among = table if column in ("num_ranks", "threads_per_rank") else same
        if (
            column == "strategy"
            or row[column] is None
            or row[column] != row[column]  # NaN: it does not read the option
            or among[column].nunique(dropna=False) == 1
            or (on_one_rank and column == "num_ranks")
        ):
            continue
        phrases.append(_phrase(column, row[column], on_one_rank))
    return phrases


def _phrase(column: str, value: Any, on_one_rank: bool) -> str:
    pattern = (ON_ONE_RANK if on_one_rank else {}).get(column) or PHRASES.get(column, "{}")
    if value == 0:
        pattern = {
            "average_every": "once an epoch",
            "threads_per_rank": "threads of one process",
        }.get(column, pattern)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = pattern.format(value)
    text = text.replace("ranks", "rank").replace("threads", "thread") if value == 1 else text
    return text.replace(" ", NBSP)  # a label breaks between its parts, not inside one


def _span(numbers: pd.Series[int]) -> str:
    low = int(numbers.min())
    high = int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"
