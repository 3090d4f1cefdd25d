"""Figures of the cost model and of all strategies beside each other."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from nnpar_lib.analysis.figures import lines
from nnpar_lib.analysis.figures.lines import End
from nnpar_lib.analysis.figures.theme import GREY, INK, figure_size, new_axes, style_of


def predicted_against_measured(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each configuration of `predictions.compare` as a point, with a grey band of 20 %.

    Points are hollow where there were more ranks than cores.
    """
    ax = ax or new_axes()
    for (strategy, allreduce), rows in table.groupby(["strategy", "allreduce"], sort=False):
        style = style_of(str(strategy), str(allreduce))
        for part, face in (
            (rows[~rows["oversubscribed"]], style.colour),
            (rows[rows["oversubscribed"]], "white"),
        ):
            ax.plot(
                part["measured_seconds"],
                part["predicted_seconds"],
                linestyle="none",
                marker=style.marker,
                color=style.colour,
                markerfacecolor=face,
                label=style.label if face != "white" else None,
            )
    seconds = pd.concat([table["measured_seconds"], table["predicted_seconds"]])
    ends = np.array([seconds.min() / 1.3, seconds.max() * 1.3])
    ax.plot(ends, ends, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    ax.fill_between(ends, 0.8 * ends, 1.2 * ends, color=GREY, alpha=0.15, linewidth=0)
    ax.set(
        xscale="log",
        yscale="log",
        xlim=ends,
        ylim=ends,
        xlabel="measured seconds of a step",
        ylabel="predicted seconds of a step",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(EngFormatter("s", sep=lines.NBSP))
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(handles.values(), handles.keys(), loc="upper left", fontsize=8)
    lines.note(ax, table.assign(num_repeats=1))  # points have no whiskers
    return ax


def speedups(table: pd.DataFrame) -> Figure:
    """Draw the speedups of `comparison.speed`: one panel per model, one bar per way and batch size.

    Bars are hollow where there were more ranks than cores.
    """
    models = list(dict.fromkeys(zip(table["model"], table["num_parameters"], strict=True)))
    ways = [list(rows["label"].unique()) for _, rows in table.groupby("num_parameters", sort=False)]
    longest = max(ways, key=len)  # in the order of the network that has most of them
    labels = [str(label) for label in dict.fromkeys([*longest, *table["label"].unique()])]
    figure, axes = plt.subplots(
        1,
        len(models),
        figsize=(1.6 * figure_size()[0], 1.2 + 0.42 * len(labels)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for ax, (model, num_parameters) in zip(axes[0], models, strict=True):
        _speedup_bars(ax, table[table["num_parameters"] == num_parameters], labels)
        ax.set_title(f"{model}, {num_parameters / 1e6:.2g} M weights")
    axes[0][0].set_yticks(range(len(labels)), labels)
    axes[0][0].invert_yaxis()
    return figure


def _speedup_bars(ax: Axes, rows: pd.DataFrame, labels: Sequence[str]) -> None:
    batches = sorted(rows["global_batch_size"].unique())
    height = 0.8 / len(batches)
    for i, batch in enumerate(batches):
        for row in rows[rows["global_batch_size"] == batch].itertuples():
            colour = lines.lighten(
                style_of(str(row.strategy), str(row.allreduce)).colour,
                0.6 * (1 - (i + 1) / len(batches)),
            )
            where = labels.index(str(row.label)) - 0.4 + (i + 0.5) * height
            ax.barh(
                where,
                row.speedup,
                height,
                edgecolor=colour,
                facecolor="white" if row.oversubscribed else colour,
            )
            ax.text(row.speedup, where, f" {batch}", va="center", fontsize=6, color=GREY)
    ax.axvline(1, color=INK, linewidth=1)
    ax.set_xlabel("speedup over the\nbest serial run")
    ax.grid(axis="y", visible=False)


def predicted_speedups(table: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the speedups of `predictions.predict` against ranks, one dashed line per strategy."""
    ax = ax or new_axes()
    ends = []
    counts = sorted(table["num_ranks"].unique())
    for strategy, rows in table.groupby("strategy", sort=False):
        style = style_of(str(strategy), "mpi")
        ax.plot(
            rows["num_ranks"],
            rows["speedup"],
            color=style.colour,
            linestyle="--",
            marker=style.marker,
            markerfacecolor="white",
        )
        label = "gradient averaging" if strategy == "gradient_averaging" else style.label
        ends.append(End(rows["num_ranks"].iloc[-1], rows["speedup"].iloc[-1], label, style.colour))
    ax.plot(counts, counts, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
    lines.count_axis(ax, counts)
    ax.set(yscale="log", xlabel="ranks", ylabel="predicted speedup over one rank", title=title)
    lines.ratio_axis(ax.yaxis)
    lines.label_ends(ax, ends)
    return ax


def microbatches(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw measured and predicted throughput of a pipeline against the number of micro-batches."""
    ax = ax or new_axes()
    ends = []
    for i, (schedule, rows) in enumerate(
        table.sort_values("num_microbatches").groupby("schedule", sort=False)
    ):
        colour = lines.lighten(style_of("pipeline").colour, 0.45 * i)
        for kind, dash, marker in (("measured", "solid", "8"), ("predicted", "--", None)):
            rate = rows["global_batch_size"] / rows[f"{kind}_seconds"]
            ax.plot(rows["num_microbatches"], rate, color=colour, linestyle=dash, marker=marker)
            ends.append(
                End(rows["num_microbatches"].iloc[-1], rate.iloc[-1], f"{schedule}, {kind}", colour)
            )
    lines.count_axis(ax, table["num_microbatches"].unique())
    ax.set(xlabel="micro-batches", ylabel="throughput (examples/s)", ylim=(0, None))
    lines.label_ends(ax, ends)
    return ax
