"""Charts of what each rank did when: measured events and simulated schedules, on the same axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnpar_lib import schedules
from nnpar_lib.analysis.figures.theme import FIGURE_SIZE
from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.schedules import BACKWARD, COMPUTATIONS, FORWARD, Event, Instruction, Pipeline

COLOURS = {
    FORWARD: "#0173b2",
    BACKWARD: "#029e73",
    "update": "#b34a9c",
    "communicate": "#de8f05",
    "send": "#de8f05",
}
HATCHES = {FORWARD: "", BACKWARD: "", "update": "...", "communicate": "///", "send": "///"}
MIN_LABEL_SHARE = 0.03  # a bar narrower than this share of the chart has no room for its number
COLUMNS = ["activity", "stage", "microbatch", "start", "end"]


def steps(events: Sequence[Sequence[Sequence[Any]]]) -> pd.DataFrame:
    """Return the events of all traced steps as a frame of step, rank, activity, stage, microbatch,
    start, end.

    A step begins where a batch is loaded; the last one is step 0, and those before it count down.
    """
    frames = []
    for rank, own in enumerate(events):
        frame = pd.DataFrame([list(event) for event in own], columns=COLUMNS)
        num_loads = (frame["activity"] == "load").astype(int).cumsum()
        frames.append(frame.assign(rank=rank, step=num_loads - num_loads.max()))
    return pd.concat(frames, ignore_index=True)


def last_step(events: Sequence[Sequence[Sequence[Any]]]) -> pd.DataFrame:
    """Return the events of the last step; seconds count from the first forward pass of the step on
    any rank."""
    found = steps(events)
    last: pd.DataFrame = found[found["step"] == 0].reset_index(drop=True)
    origin = last.loc[last["activity"] == FORWARD, "start"].min()
    return last.assign(start=last["start"] - origin, end=last["end"] - origin)


def predicted(
    schedule: str, pipeline: Pipeline, measured: pd.DataFrame, message_seconds: float = 0.0
) -> pd.DataFrame:
    """Return what the schedule would be with the measured steps' median seconds of each stage's
    passes."""
    passes = measured[measured["activity"].isin(COMPUTATIONS)]
    medians = (
        (passes["end"] - passes["start"]).groupby([passes["activity"], passes["stage"]]).median()
    )

    def seconds(one: Instruction) -> float:
        return float(medians[one.action, one.stage])

    return simulated(schedules.simulate(schedule, pipeline, seconds, lambda _: message_seconds))


def simulated(events: Sequence[Event]) -> pd.DataFrame:
    """Return simulated passes as a frame like that of measured ones."""
    return pd.DataFrame(
        [
            (event.rank, event.action, event.stage, event.microbatch, event.start, event.end)
            for event in events
        ],
        columns=["rank", *COLUMNS],
    )


def table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return how near traced pipelines came to their schedules, one row a label, medians over steps
    and repeats.

    `allowed` is the rate (examples/s) of the schedule simulated with the run's own median seconds
    of each stage's passes, messages and updates being free; `share` is the measured rate over it.
    `bubble` is the measured fraction, `bubble_simulated` that of the simulation, and
    `bubble_formula` is (p - 1) / (m + p - 1).
    """
    rows = pd.DataFrame([_row(record) for record in records if any(record.events)])
    found = rows.groupby("label", sort=False)
    return found.median(numeric_only=True).assign(num_repeats=found.size()).reset_index()


def _row(record: RunRecord) -> dict[str, Any]:
    config, measured = RunConfig.from_parameters(record.config), steps(record.events)
    simulation = predicted(config.schedule, config.pipeline, measured)
    allowed = config.global_batch_size / float(simulation["end"].max())
    bubbles = [bubble_fraction(rows) for _, rows in measured.groupby("step")]
    pipeline = config.pipeline
    return {
        "label": record.label,
        "measured": record.samples_per_second,
        "allowed": allowed,
        "share": record.samples_per_second / allowed,
        "bubble": median(bubbles),
        "bubble_simulated": bubble_fraction(simulation),
        "bubble_formula": schedules.ideal_bubble_fraction(
            pipeline.num_ranks, pipeline.num_microbatches
        ),
    }


def bubble_fraction(frame: pd.DataFrame) -> float:
    """Return which fraction of the time from the first pass to the last the ranks are in neither
    kind of pass."""
    passes = frame[frame["activity"].isin(COMPUTATIONS)]
    span = passes["end"].max() - passes["start"].min()
    return float(1 - (passes["end"] - passes["start"]).sum() / (span * frame["rank"].nunique()))


def gantt(frame: pd.DataFrame, ax: Axes, title: str = "") -> Axes:
    """Draw a bar an event, a row a rank, milliseconds to the right; passes carry the number of
    their micro-batch."""
    span = frame["end"].max() - frame["start"].min()
    rows = frame.loc[
        frame["activity"].isin(COLOURS), ["rank", "activity", "microbatch", "start", "end"]
    ]
    for rank, activity, microbatch, start, end in rows.to_numpy(dtype=object).tolist():
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
        if activity in COMPUTATIONS and end - start > MIN_LABEL_SHARE * span:
            ax.text(
                (start + end) / 2 * 1e3,
                rank,
                str(microbatch),
                color="white",
                ha="center",
                va="center",
                fontsize="small",
            )
    ranks = sorted(frame["rank"].unique())
    ax.set(
        xlabel="milliseconds",
        title=title,
        yticks=ranks,
        yticklabels=[f"rank {rank}" for rank in ranks],
    )
    ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    present = [
        activity
        for activity in (FORWARD, BACKWARD, "update", "communicate", "send")
        if activity in set(frame["activity"])
    ]
    ax.legend(
        handles=[
            Patch(facecolor=COLOURS[name], hatch=HATCHES[name], edgecolor="white", label=name)
            for name in present
        ],
        ncols=len(present),
        loc="lower right",
        bbox_to_anchor=(1, 1.0),
        columnspacing=1.0,
    )
    return ax


def side_by_side(charts: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Draw a row a schedule: the predicted chart left, the measured one right, on the same axis,
    bubbles as titles."""
    figure, axes = plt.subplots(
        len(charts),
        2,
        figsize=(1.6 * FIGURE_SIZE[0], 1.1 + 1.5 * len(charts)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for number, (row, (name, pair)) in enumerate(zip(axes, charts.items(), strict=True), start=1):
        for ax, frame, kind in zip(row, pair, ("predicted", "measured"), strict=True):
            gantt(frame, ax, f"{name}, {kind}: bubble {bubble_fraction(frame):.0%}")
            ax.set_xlabel("milliseconds" if number == len(charts) else "")
            ax.get_legend().set_visible(False)
    handles = [
        Patch(facecolor=COLOURS[name], hatch=HATCHES[name], edgecolor="white", label=label)
        for name, label in (
            (FORWARD, "forward"),
            (BACKWARD, "backward"),
            ("send", "send"),
            ("update", "update"),
        )
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure
