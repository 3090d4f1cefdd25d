"""The figures of the report: records and axes in, axes out; only `save` writes files.

Points are medians over repeats, whiskers their quartiles. A strategy looks the same in every
figure; its points are hollow where there were more workers than cores. Filter the frame first if it
holds experiments that do not belong together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from nnpar_lib.analysis import scaling
from nnpar_lib.analysis.figures import lines
from nnpar_lib.analysis.figures.lines import End
from nnpar_lib.analysis.figures.theme import (
    ALLREDUCE_LABELS,
    GREY,
    HATCHES,
    INK,
    PARTS,
    Style,
    figure_size,
    new_axes,
    save,
    style_of,
    theme,
    wrap,
)
from nnpar_lib.analysis.scaling import ladder as scaling_ladder
from nnpar_lib.config.spread import SINGLE_RANK_STRATEGIES
from nnpar_lib.records.kinds import CONTROL

__all__ = [
    "accuracy_curves",
    "allreduce",
    "ladder",
    "save",
    "strong_scaling",
    "theme",
    "threads_against_ranks",
    "throughput",
    "time_split",
    "weak_scaling",
]

UNITS = {
    "global_batch_size": "global batch size (examples)",
    "local_batch_size": "local batch size (examples)",
    "num_ranks": "ranks",
    "threads_per_rank": "threads a rank",
    "average_every": "steps between two averages",
    "epoch": "epoch",
    "examples": "examples seen",
    "train_seconds": "training time (s)",
    "step": "step",
    "bucket_kib": "bucket size (KiB)",
}
RATE_LABEL = "throughput (examples/s)"
IDEAL: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.2, "zorder": 1}


def strong_scaling(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw speedup over one serial thread against ranks, at a fixed global batch size.

    Linear speedup is dashed.
    """
    ax = ax or new_axes()
    table = scaling.strong_scaling(frame)
    counts = sorted(table["num_ranks"].unique())
    lines.count_axis(ax, counts)
    ends = _draw_against_ranks(ax, table, "speedup")
    if len(counts) > 1:
        ax.plot(counts, counts, **IDEAL)
        ends.append(End(counts[-1], counts[-1], "linear speedup", GREY))
    ax.set(xlabel="ranks", ylabel="speedup over one serial thread", yscale="log")
    lines.ratio_axis(ax.yaxis)
    return _finish(ax, table, ends)


def weak_scaling(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw efficiency against ranks, at a fixed local batch size; the ideal, 100 %, is dashed."""
    ax = ax or new_axes()
    table = scaling.weak_scaling(frame)
    table[["low", "high"]] = table[["low", "high"]].div(table["num_workers"], axis=0)
    lines.count_axis(ax, table["num_ranks"])
    ends = _draw_against_ranks(ax, table, "efficiency")
    ax.axhline(1, **IDEAL)
    ax.set(xlabel="ranks (local batch size fixed)", ylabel="scaled efficiency", ylim=(0, None))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return _finish(ax, table, [*ends, End(ax.get_xlim()[1], 1, "ideal", GREY)])


def threads_against_ranks(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw throughput against cores, used as threads of one process and as ranks."""
    ax = ax or new_axes()
    table = _rates(frame)
    table["num_cores"] = table["num_ranks"] * table["threads_per_rank"]
    on_one_rank = table["strategy"].isin(SINGLE_RANK_STRATEGIES)
    table["threads_per_rank"] = table["threads_per_rank"].mask(
        on_one_rank, 0
    )  # one line, whatever its threads
    ends = lines.draw_lines(ax, table, "num_cores", "median", exclude=["num_ranks"])
    counts = sorted(table["num_cores"].unique())
    lines.count_axis(ax, counts)
    on_one_core = table[(table["num_cores"] == 1) & on_one_rank]["median"]
    if not on_one_core.empty:
        ax.plot(counts, [on_one_core.max() * c for c in counts], **IDEAL)
        ends.append(End(counts[-1], on_one_core.max() * counts[-1], "linear speedup", GREY))
    ax.set(
        xlabel="cores used (ranks \N{MULTIPLICATION SIGN} threads)", ylabel=RATE_LABEL, yscale="log"
    )
    lines.value_axis(ax.yaxis)
    return _finish(ax, table, ends)


def images(pictures: Iterable[Any], labels: Iterable[Any], num_columns: int = 8) -> Figure:
    """Draw grey pictures [height, width] in rows, each under its label."""
    pairs = list(zip(pictures, labels, strict=True))
    num_rows = -(-len(pairs) // num_columns)
    figure, axes = plt.subplots(
        num_rows, num_columns, figsize=(figure_size()[0], num_rows * 1.1), squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, (picture, label) in zip(axes.flat, pairs, strict=False):
        ax.imshow(picture, cmap="gray_r")
        ax.set_title(str(int(label)), loc="center", pad=2)
    return figure


def throughput(frame: pd.DataFrame, x: str = "global_batch_size", ax: Axes | None = None) -> Axes:
    """Draw throughput against a parameter that was varied, one line per way to run."""
    ax = ax or new_axes()
    table = _rates(frame, x)
    ends = lines.draw_lines(ax, table, x, "median")
    lines.count_axis(ax, table[x])
    ax.set(xlabel=UNITS.get(x, x.replace("_", " ")), ylabel=RATE_LABEL, yscale="log")
    lines.value_axis(ax.yaxis)
    return _finish(ax, table, ends)


def accuracy_curves(frame: pd.DataFrame, x: str = "epoch", ax: Axes | None = None) -> Axes:
    """Draw median and range of the test accuracy over runs.

    `x` is `epoch`, `step`, `examples` or `train_seconds`.
    """
    ax = ax or new_axes()
    table = _evaluations(frame, x)
    ends = []
    for label, style, rows in lines.lines_of(table, [x]):
        few = max(1, len(rows) // 10)
        ax.plot(
            rows[x],
            rows["median"],
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markevery=few,
        )
        ax.fill_between(
            rows[x], rows["min"], rows["max"], color=style.colour, alpha=0.15, linewidth=0
        )
        ends.append(End(rows[x].iloc[-1], rows["median"].iloc[-1], label, style.colour))
    ax.set(xlabel=UNITS.get(x, x), ylabel="test accuracy")
    ax.xaxis.set_major_locator(MaxNLocator(integer=x in ("epoch", "step")))
    if x == "examples":
        ax.xaxis.set_major_formatter(EngFormatter(sep=lines.NBSP))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    if (table["num_repeats"] > 1).any():
        ax.text(
            0,
            1.02,
            "band: from the worst run to the best",
            transform=ax.transAxes,
            fontsize=8,
            color=GREY,
        )
    lines.label_ends(ax, ends)
    return ax


def allreduce(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the seconds of each all-reduce against its size, both logarithmic."""
    ax = ax or new_axes()
    table = scaling.bandwidth(frame)
    ends = []
    groups = ["allreduce", "num_ranks", "dtype"]
    for _, rows in table.groupby(groups, sort=False):
        last = rows.sort_values("num_elements").iloc[-1]
        style = style_of("gradient_averaging", last["allreduce"])
        share = 0.6 * (1 - last["num_ranks"] / table["num_ranks"].max())
        style = replace(style, colour=lines.lighten(style.colour, share))
        lines.draw_line(ax, rows, "num_elements", "seconds", style)
        label = (
            f"{ALLREDUCE_LABELS.get(last['allreduce'], last['allreduce'])}, {last['num_ranks']:.0f}"
            " ranks"
        )
        label += f", {last['dtype']}" if table["dtype"].nunique() > 1 else ""
        ends.append(End(last["num_elements"], last["seconds"], label, style.colour))
    lines.count_axis(ax, table["num_elements"], EngFormatter(places=0, sep=lines.NBSP))
    ax.set(
        xlabel=f"numbers summed ({', '.join(table['dtype'].unique())})",
        ylabel="time of an all-reduce",
        yscale="log",
    )
    lines.value_axis(ax.yaxis, "s")
    return _finish(ax, table, ends)


def ladder(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw seconds an epoch of each `label`, in order of appearance from the top.

    Dashed lines are those of `serial` and of the fastest rung of strategy serial, the base of
    speedups. An epoch has as many examples as the training set (`scaling.seconds_per_epoch`),
    unless the frame has a column `seconds_per_epoch`.
    """
    frame = frame[frame["label"] != CONTROL]
    ax = ax or new_axes(frame["label"].nunique())
    if "seconds_per_epoch" not in frame:
        frame = frame.assign(seconds_per_epoch=scaling.seconds_per_epoch(frame))
    table = scaling.summarize(frame, ["label"], "seconds_per_epoch")
    rungs = [frame[frame["label"] == rung] for rung in table["label"]]
    table["oversubscribed"] = [bool(rows["oversubscribed"].any()) for rows in rungs]
    for position, rows in enumerate(rungs):
        style = style_of(rows["strategy"].iloc[0], rows["allreduce"].iloc[0])
        _draw_rung(ax, position, table.iloc[position], style)
    _write_seconds(ax, table, {"serial", scaling_ladder.best_serial(frame)})
    ax.set(
        xlabel="seconds an epoch",
        xlim=(0, table["high"].max() * 1.15),
        ylim=(len(table) - 0.4, -0.6),
    )
    ax.set_yticks(range(len(table)), [wrap(str(r), 34) for r in table["label"]])
    _plain_bars(ax)
    lines.note(ax, table, at_right=True)
    return ax


def time_split(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the shares of the training time: computing, communicating, waiting, rest."""
    table = scaling.time_split(frame)
    ax = ax or new_axes(len(table))
    labels = {i: label for label, _, rows in lines.lines_of(table, []) for i in rows.index}
    left = pd.Series(0.0, index=table.index)
    for part, colour in PARTS.items():
        width = table[part].fillna(0)
        if width.any():
            ax.barh(
                table.index,
                width,
                left=left,
                height=0.62,
                color=colour,
                label=part,
                hatch=HATCHES[part],
                edgecolor="white",
                linewidth=0.8,
            )
        left += width
    stars = ["*" if o else "" for o in table["oversubscribed"]]
    ax.set_yticks(
        table.index,
        [wrap(labels[i], 36) + star for i, star in zip(labels, stars, strict=True)],
    )
    star_note = " (* more ranks \N{MULTIPLICATION SIGN} threads than cores)" if any(stars) else ""
    ax.set(
        xlabel=wrap("share of the training time" + star_note, 60),
        xlim=(0, 1),
        ylim=(len(table) - 0.4, -0.6),
    )
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    _plain_bars(ax)
    ax.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2, columnspacing=1.0
    )
    return ax


def _draw_against_ranks(ax: Axes, table: pd.DataFrame, y: str) -> list[End]:
    """Draw the lines; runs on one rank are continued as a thin level line."""
    right = ax.get_xlim()[1]
    ends = []
    for label, style, rows in lines.lines_of(table, ["num_ranks"]):
        lines.draw_line(ax, rows, "num_ranks", y, style)
        last = rows.sort_values("num_ranks").iloc[-1]
        on_one_rank = last["strategy"] in SINGLE_RANK_STRATEGIES
        if on_one_rank:
            ax.hlines(
                last[y], last["num_ranks"], right, colors=style.colour, linewidth=0.8, zorder=1
            )
        ends.append(End(right if on_one_rank else last["num_ranks"], last[y], label, style.colour))
    return ends


def _draw_rung(ax: Axes, position: float, row: pd.Series[Any], style: Style) -> None:
    median, low, high = (float(row[c]) for c in ("median", "low", "high"))
    face = "white" if row["oversubscribed"] else style.colour
    ax.barh(position, median, height=0.62, facecolor=face, edgecolor=style.colour, linewidth=1.5)
    ax.errorbar(
        median,
        position,
        xerr=[[median - low], [high - median]],
        fmt="none",
        ecolor=INK,
        elinewidth=1.2,
        capsize=3,
        zorder=4,
    )


def _write_seconds(ax: Axes, table: pd.DataFrame, bases: set[str]) -> None:
    """Draw the lines of the rungs that are bases, and write the seconds of each bar at its end.

    They stand past a line if it is near.
    """
    serial = [float(s) for s in table[table["label"].isin(bases)]["median"]]
    for seconds in serial:
        ax.axvline(seconds, **{**IDEAL, "color": INK, "zorder": 3})
    longest = float(table["high"].max())
    for position, (median, high) in enumerate(zip(table["median"], table["high"], strict=True)):
        end = max([high, *(s for s in serial if high < s < high + 0.14 * longest)])
        ax.text(
            end + 0.015 * longest,
            position,
            f"{median:.3g} s",
            va="center",
            fontsize=lines.LABEL_SIZE,
            color=INK,
        )


def _plain_bars(ax: Axes) -> None:
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _rates(frame: pd.DataFrame, *also: str) -> pd.DataFrame:
    runs = scaling.configurations_of(frame)
    runs = runs.assign(**{name: frame[name] for name in also if name in frame})  # of all runs
    by = list(dict.fromkeys([*scaling.keys(runs), *also, "oversubscribed"]))
    return scaling.summarize(runs, by)


def _evaluations(frame: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return median and range of the test accuracy at each evaluation of each way to run."""
    runs = scaling.configurations_of(frame[frame["history"].str.len() > 0])
    points = runs.explode("history", ignore_index=True)
    history = pd.json_normalize(points["history"].tolist())
    points = points.drop(columns=[c for c in history if c in points]).join(history)
    points["examples"] = points["step"] * points["num_examples"] / points["num_steps"]
    by = [*scaling.keys(runs), "epoch"]
    if x == "epoch":
        return scaling.summarize(points, by, "test_accuracy")
    where = points.groupby(by, dropna=False, sort=False)[x].median().reset_index()
    return scaling.summarize(points, by, "test_accuracy").merge(where, on=by).drop(columns="epoch")


def _finish(ax: Axes, table: pd.DataFrame, ends: list[End]) -> Axes:
    lines.note(ax, table)
    lines.label_ends(ax, ends)
    return ax
