"""The figures of precision: speedups of the ways to compute the same steps, and rooflines."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nnpar_lib.analysis.cost import roofline as rooflines
from nnpar_lib.analysis.figures.theme import figure_size, wrap


def speedups(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the table of `precision.speedups` as bars with whiskers from quartile to quartile.

    The dashed line is the base.
    """
    ax = ax or plt.subplots(figsize=(figure_size()[0], 0.5 + 0.26 * len(table)))[1]
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    models = list(table["model"].unique())
    for position, row in enumerate(table.to_dict("records")):
        spread = [[row["speedup"] - row["low"]], [row["high"] - row["speedup"]]]
        colour = colours[models.index(row["model"]) % len(colours)]
        ax.barh(position, row["speedup"], xerr=spread, color=colour, capsize=3)
        ax.text(
            row["high"] + 0.03, position, f"{row['speedup']:.2f}", va="center", fontsize="small"
        )
    ax.axvline(1, color="grey", linestyle="--", linewidth=1)
    ax.set(
        yticks=range(len(table)),
        yticklabels=[wrap(name, 36) for name in table["model"] + ", " + table["label"]],
        xlabel="times the samples a second",
    )
    ax.invert_yaxis()
    ax.margins(x=0.12)
    return ax


def roofline(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw FLOP/s against FLOP a byte, one numbered point per block, under two ceilings."""
    ax = ax or plt.subplots()[1]
    rows = rooflines.table(frame)
    reach = np.geomspace(rows["intensity"].min() / 2, rows["intensity"].max() * 2, 100)
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for colour, record in zip(colours, frame.to_dict("records"), strict=False):
        label = rooflines.way(record)
        ceiling = np.minimum(record["ceiling_flop_per_second"], reach * record["bytes_per_second"])
        ax.plot(reach, ceiling / 1e9, "--", color=colour, linewidth=1)
        blocks = rows[rows["way"] == label]
        rates = blocks["flop_per_second"] / 1e9
        ax.plot(blocks["intensity"], rates, "o", color=colour, label=label)
        for block, intensity, rate in zip(blocks["block"], blocks["intensity"], rates, strict=True):
            ax.annotate(
                str(block),
                (intensity, rate),
                textcoords="offset points",
                xytext=(4, 4),
                fontsize="small",
                color=colour,
            )
    ax.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="GFLOP/s")
    ax.legend(title="block numbers; dashed: ceilings", loc="lower right")
    return ax
