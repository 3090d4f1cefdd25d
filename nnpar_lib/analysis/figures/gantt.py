"""Charts of what each rank did when, of measured events and of simulated schedules."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnpar_lib.analysis.cost.traced_pipelines import bubble_fraction
from nnpar_lib.analysis.figures.theme import figure_size
from nnpar_lib.schedules import BACKWARD, FORWARD, PASSES, WEIGHT_GRADIENTS

COLOURS = {
    FORWARD: "#0173b2",
    BACKWARD: "#029e73",
    WEIGHT_GRADIENTS: "#56b4e9",
    "update": "#b34a9c",
    "communicate": "#de8f05",
    "send": "#de8f05",
}
HATCHES = {
    FORWARD: "",
    BACKWARD: "",
    WEIGHT_GRADIENTS: "xx",
    "update": "...",
    "communicate": "///",
    "send": "///",
}
MIN_LABEL_SHARE = 0.03  # a bar narrower than this share of the chart has no room for its number


def gantt(frame: pd.DataFrame, ax: Axes, title: str = "") -> Axes:
    """Draw one bar per event and one row per rank, in milliseconds.

    Passes carry the number of their micro-batch.
    """
    _draw_bars(frame, ax)
    ranks = sorted(frame["rank"].unique())
    ax.set(
        xlabel="milliseconds",
        title=title,
        yticks=ranks,
        yticklabels=[f"rank {rank}" for rank in ranks],
    )
    ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    present = [activity for activity in COLOURS if activity in set(frame["activity"])]
    ax.legend(
        handles=[_patch(activity) for activity in present],
        ncols=len(present),
        loc="lower right",
        bbox_to_anchor=(1, 1.0),
        columnspacing=1.0,
    )
    return ax


def _draw_bars(frame: pd.DataFrame, ax: Axes) -> None:
    span = frame["end"].max() - frame["start"].min()
    columns = ["rank", "activity", "microbatch", "start", "end"]
    rows = frame.loc[frame["activity"].isin(COLOURS), columns].to_numpy(dtype=object)
    for rank, activity, microbatch, start, end in rows.tolist():
        ax.barh(
            rank,
            (end - start) * 1e3,
            left=start * 1e3,
            height=0.7,
            color=COLOURS[activity],
            hatch=HATCHES[activity],
            edgecolor="white",
            linewidth=0.5,
        )
        if activity in PASSES and end - start > MIN_LABEL_SHARE * span:
            middle = (start + end) / 2 * 1e3
            text = ax.text(middle, rank, str(microbatch), color="white", fontsize="small")
            text.set(ha="center", va="center")


def _patch(activity: str) -> Patch:
    colour = COLOURS[activity]
    hatch = HATCHES[activity]
    return Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=activity)


def side_by_side(charts: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Draw one row per schedule: the predicted chart left, the measured one right.

    Both share an axis, and their titles name the bubbles.
    """
    figure, axes = plt.subplots(
        len(charts),
        2,
        figsize=(1.6 * figure_size()[0], 1.1 + figure_size()[1] / 3 * len(charts)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for number, (row, (name, pair)) in enumerate(zip(axes, charts.items(), strict=True), start=1):
        for ax, frame, kind in zip(row, pair, ("predicted", "measured"), strict=True):
            gantt(frame, ax, f"{name}, {kind}: bubble {bubble_fraction(frame):.0%}")
            ax.set_xlabel("milliseconds" if number == len(charts) else "")
            ax.get_legend().set_visible(False)
    drawn = {activity for pair in charts.values() for activity in pair[1]["activity"]}
    shown = (FORWARD, BACKWARD, WEIGHT_GRADIENTS, "send", "update")
    handles = [_patch(name) for name in shown if name != WEIGHT_GRADIENTS or name in drawn]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure
