"""The figures of scaling regimes: steps and seconds to a goal, and the gradient noise scale.

Points are medians over fresh seeds with their 95 % intervals. Rows of runs are those of
`nnpar_lib.analysis.regimes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from nnpar_lib.analysis import regimes
from nnpar_lib.analysis.figures import lines
from nnpar_lib.analysis.figures.lines import End
from nnpar_lib.analysis.figures.theme import GREY, INK, STYLES, Style, new_axes, wrap
from nnpar_lib.analysis.regimes import steps_model

REGIME_SHADES = {
    regimes.PERFECT: "#d9ead9",
    regimes.DIMINISHING: "#fbf0d9",
    regimes.MAXIMAL: "#f3dedb",
}
LOOKS = [Style("", style.colour, style.marker, style.dash) for style in STYLES.values()][2:]
BATCH_LABEL = "global batch size (examples)"


def three_regimes(
    runs: pd.DataFrame, goal_error: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw steps to a goal against the batch size, with the fit, and the regimes shaded.

    Perfect scaling is dashed. The default is the hardest goal that each batch size reached. No
    regime is shaded where the fit is undetermined, or where no slope shows it. Hollow points are
    the best single trials of the search.
    """
    ax = ax or new_axes()
    rows = _one_goal(runs, goal_error)
    table = regimes.study(rows)
    reached = table[table["status"] == "reached"]
    lines.count_axis(ax, table["batch_size"])
    ax.set(
        yscale="log",
        xlabel=BATCH_LABEL,
        ylabel=f"steps to {_percent(rows)} % validation error".replace("  ", " "),
    )
    ends = _draw_points(ax, reached, LOOKS[0], "median of fresh seeds")
    if reached["best_of_n"].notna().any():
        ax.plot(
            reached["batch_size"],
            reached["best_of_n"],
            linestyle="none",
            marker="o",
            markerfacecolor="white",
            color=GREY,
            markersize=5,
            zorder=2,
        )
        ends.append(
            End(
                float(reached["batch_size"].iloc[-1]),
                float(reached["best_of_n"].iloc[-1]),
                "best single trial",
                GREY,
            )
        )
    ends += _draw_fit(ax, rows, reached)
    _step_axis(ax)
    lines.label_ends(ax, ends)
    return ax


def several(groups: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Draw the steps of several studies or goals against the batch size, one labelled line each."""
    ax = ax or new_axes()
    ends: list[End] = []
    tables = {name: regimes.study(rows) for name, rows in groups.items()}
    lines.count_axis(ax, {size for table in tables.values() for size in table["batch_size"]})
    ax.set(yscale="log", xlabel=BATCH_LABEL, ylabel="steps to the goal")
    for (name, table), look in zip(tables.items(), LOOKS, strict=False):
        ends += _draw_points(ax, table[table["status"] == "reached"], look, name, joined=True)
    _step_axis(ax)
    lines.label_ends(ax, ends)
    return ax


def goals(runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the steps to each goal of a study against the batch size."""
    return several(
        {f"{_percent(rows)} % error": rows for _, rows in runs.groupby("goal_error", sort=False)},
        ax,
    )


def time_to_goal(
    table: pd.DataFrame,
    predicted: pd.DataFrame | None = None,
    whole: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the seconds to one goal against the batch size, one line per number of ranks.

    A ring marks the fastest. `predicted` (of `time_to_goal.predicted`) is dotted; `whole` (of
    `parallel_trials.seconds_to_goal`), the seconds of whole runs, are crosses.
    """
    ax = ax or new_axes()
    lines.count_axis(ax, table["batch_size"])
    ax.set(yscale="log", xlabel=BATCH_LABEL, ylabel="seconds to the goal")
    ends: list[End] = []
    for (num_ranks, rows), look in zip(table.groupby("num_ranks"), LOOKS, strict=False):
        name = f"{num_ranks} rank{'' if num_ranks == 1 else 's'}"
        points = rows.rename(columns={"seconds": "median_steps"})
        ends += _draw_points(ax, points, look, name, joined=True)
        best = rows[rows["is_optimal"]]
        _draw_seconds(ax, best, look, marker="o", markersize=15, markerfacecolor="none", zorder=2)
        if predicted is not None:
            _draw_seconds(ax, predicted.query("num_ranks == @num_ranks"), look, linestyle=":")
        if whole is not None:
            runs = whole.query("num_ranks == @num_ranks")
            _draw_seconds(ax, runs, look, marker="x", markersize=9, markeredgewidth=2)
    lines.value_axis(ax.yaxis, "s")
    lines.label_ends(ax, ends)
    return ax


def _draw_seconds(ax: Axes, rows: pd.DataFrame, look: Style, **style: Any) -> None:
    """Draw seconds against the batch size in the colour of a look, by default without a line."""
    style = {"linestyle": "none", "color": look.colour, "zorder": 4, **style}
    ax.plot(rows["batch_size"], rows["seconds"], **style)


def local_sgd(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the cost of local SGD until the goal against the averaging interval.

    Samples with their intervals and exchanges of weights are relative to the shortest interval. The
    dashed line has the exchanges if no interval cost samples.
    """
    ax = ax or new_axes()
    lines.count_axis(ax, table["average_every"])
    shortest = int(table["average_every"].iloc[0])
    ax.set(
        yscale="log",
        xlabel="steps between two averages of the weights",
        ylabel=f"until the goal, relative to an interval of {shortest}",
    )
    ends = _draw_costs_of_intervals(ax, table)
    ideal = shortest / table["average_every"]
    ax.plot(table["average_every"], ideal, color=GREY, linestyle="--", linewidth=1.2)
    ticks = FuncFormatter(lambda value, _: f"{value:g}")
    lines.set_ticks(ax.yaxis, [0.001, 0.01, 0.1, 1, 10], ticks)
    lines.label_ends(ax, ends)
    return ax


def _draw_costs_of_intervals(ax: Axes, table: pd.DataFrame) -> list[End]:
    """Draw samples with their intervals, and exchanges; return where their labels go."""
    intervals = table["average_every"]
    samples = table["samples_ratio"]
    exchanges = table["exchanges_ratio"]
    below = samples - table["samples_low"]
    above = table["samples_high"] - samples
    of_samples, of_exchanges = LOOKS[:2]
    ax.errorbar(
        intervals,
        samples,
        yerr=np.clip([below, above], 0, None),
        color=of_samples.colour,
        marker=of_samples.marker,
        capsize=3,
    )
    ax.plot(
        intervals,
        exchanges,
        color=of_exchanges.colour,
        marker=of_exchanges.marker,
        linestyle=of_exchanges.dash,
    )
    last = intervals.iloc[-1]
    return [
        End(last, samples.iloc[-1], "samples", of_samples.colour),
        End(last, exchanges.iloc[-1], "exchanges of weights", of_exchanges.colour),
    ]


def noise_scale(
    table: pd.DataFrame, b_crit: regimes.Interval | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the gradient noise scale while training, and the fitted B_crit with its interval."""
    ax = ax or new_axes()
    ax.plot(table["step"], table["noise_scale"], color=LOOKS[0].colour, marker=LOOKS[0].marker)
    top = float(table[["noise_scale", "high"]].replace(np.inf, 0).to_numpy().max())
    top = 2 * max(top, 0 if b_crit is None else b_crit.high)
    high = table["high"].replace(np.inf, 10 * top)  # out of sight
    ax.fill_between(
        table["step"], table["low"], high, color=LOOKS[0].colour, alpha=0.15, linewidth=0
    )
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="examples")
    last = table.iloc[-1]
    ends = [
        End(
            float(last["step"]), float(last["noise_scale"]), "gradient noise scale", LOOKS[0].colour
        )
    ]
    if b_crit is not None:
        ax.axhspan(b_crit.low, b_crit.high, color=GREY, alpha=0.2, linewidth=0)
        ax.axhline(b_crit.value, color=GREY, linestyle="--", linewidth=1.2)
        ends.append(End(float(last["step"]), b_crit.value, "critical batch size of the fit", GREY))
    ax.set_ylim(min(table["low"].min(), math.inf if b_crit is None else b_crit.low) / 2, top)
    lines.value_axis(ax.yaxis)
    lines.value_axis(ax.xaxis)
    lines.label_ends(ax, ends)
    return ax


def _draw_points(
    ax: Axes, rows: pd.DataFrame, look: Style, name: str, *, joined: bool = False
) -> list[End]:
    """Draw medians with their intervals; return where the label goes, if there are points."""
    if rows.empty:
        return []
    whiskers = np.clip(
        [rows["median_steps"] - rows["low"], rows["high"] - rows["median_steps"]], 0, None
    )
    ax.errorbar(
        rows["batch_size"],
        rows["median_steps"],
        yerr=whiskers,
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash if joined else "none",
        elinewidth=1.2,
        capsize=3,
        zorder=3,
    )
    return [
        End(
            float(rows["batch_size"].iloc[-1]),
            float(rows["median_steps"].iloc[-1]),
            name,
            look.colour,
        )
    ]


def _draw_fit(ax: Axes, rows: pd.DataFrame, reached: pd.DataFrame) -> list[End]:
    """Draw the preferred curve and perfect scaling from its first point; shade the regimes."""
    fits = regimes.fits(rows)
    preferred = fits[fits["preferred"]]
    if preferred.empty:
        return []
    row = preferred.iloc[0]
    sizes = np.geomspace(reached["batch_size"].min(), reached["batch_size"].max(), 100)
    curve = steps_model.fit(reached["batch_size"], reached["median_steps"], str(row["form"]))
    ax.plot(sizes, curve.steps(sizes)[0], color=INK, linewidth=1.4, zorder=2)
    low, high = ax.get_ylim()
    ideal = float(reached["median_steps"].iloc[0]) * sizes[0] / sizes
    ax.plot(sizes, ideal, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    ax.set_ylim(low / 1.3, high)
    if row["status"] != regimes.UNDETERMINED:
        _shade(
            ax, [float(row["ends_perfect"]), float(row["begins_maximal"])], set(reached["regime"])
        )
    last = int(np.flatnonzero(ideal > low / 1.3)[-1])
    return [End(float(sizes[last]), float(ideal[last]), "perfect scaling", GREY)]


def _step_axis(ax: Axes) -> None:
    """Give the steps ticks at powers of two, like the batch sizes."""
    low, high = ax.get_ylim()
    powers = 2.0 ** np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
    lines.set_ticks(ax.yaxis, list(powers), FuncFormatter(lambda value, _: f"{value:.0f}"))


def _shade(ax: Axes, borders: Sequence[float], claimed: set[str]) -> None:
    """Shade and name the regimes between the batch sizes where the fit changes regime.

    A regime that no slope shows by itself is white, and its name has a question mark.
    """
    left, right = ax.get_xlim()
    edges = np.clip([left, *borders, right], left, right)
    for (name, shade), begin, end in zip(REGIME_SHADES.items(), edges[:-1], edges[1:], strict=True):
        if end > begin * 1.05:
            ax.axvspan(
                begin, end, color=shade if name in claimed else "white", zorder=0, linewidth=0
            )
            label = wrap(name, 15) + ("" if name in claimed else "?")
            ax.text(
                np.sqrt(begin * end),
                1.01,
                label,
                ha="center",
                va="bottom",
                fontsize=8.5,
                color=INK,
                transform=ax.get_xaxis_transform(),
            )
    ax.set_xlim(left, right)


def _one_goal(runs: pd.DataFrame, goal_error: float | None) -> pd.DataFrame:
    if "goal_error" not in runs:
        return runs
    measured = sorted(runs["goal_error"].unique())
    wanted = regimes.hardest_goal(regimes.study(runs)) if goal_error is None else goal_error
    if wanted not in measured:
        raise ValueError(
            f"goal_error={wanted} was not measured; choose from {', '.join(map(str, measured))}"
        )
    return runs[runs["goal_error"] == wanted]


def _percent(rows: pd.DataFrame) -> str:
    return (
        f"{100 * float(rows['goal_error'].iloc[0]):.3g}" if "goal_error" in rows else "the goal's"
    )
