"""Figures that compare machines: a colour and a marker for each, the same in every figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from nnpar_lib.analysis.claims import machines
from nnpar_lib.analysis.figures import lines
from nnpar_lib.analysis.figures.lines import End
from nnpar_lib.analysis.figures.theme import GREY, Style, new_axes

COLOURS = ("#0173b2", "#d55e00", "#029e73", "#b34a9c", "#8c6239", "#4b3b8f")
MARKERS = ("s", "o", "D", "^", "v", "P")
IDEAL: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.2, "zorder": 1}


def over_cores(frame: pd.DataFrame, model: str = "mlp", ax: Axes | None = None) -> Axes:
    """Draw the weak efficiency of ranks that share memory against cores, a line a machine."""
    ax = ax or new_axes()
    table = machines.over_cores(frame, model)
    table = table[table["way"] == machines.SHARED] if len(table) else table
    ends = _lines(ax, frame, table, "num_cores")
    ax.axhline(1, **IDEAL)
    ax.set(xlabel="cores, a rank each", ylabel="weak-scaling efficiency", ylim=(0, None))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lines.label_ends(ax, ends)
    return ax


def against_ddp(frame: pd.DataFrame, model: str = "mlp", ax: Axes | None = None) -> Axes:
    """Draw the rate of gradient averaging over that of DDP against ranks, a line a machine."""
    ax = ax or new_axes()
    table = machines.against_ddp(frame)
    if len(table):
        table = table[(table["model"] == model) & table["experiment"].str.startswith("weak-")]
    ends = _lines(ax, frame, table, "num_ranks")
    ax.axhline(1, **IDEAL)
    ax.set(xlabel="ranks", ylabel="times the rate of DDP", yscale="log")
    lines.ratio_axis(ax.yaxis)
    lines.label_ends(ax, ends)
    return ax


def ranks_against_threads(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the rate of ranks over that of threads on all cores, a row a case."""
    table = machines.ranks_against_threads(frame)
    return _dots(frame, table, "times the rate of one rank with all threads", ax)


def of_gpus(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the rate of a GPU over that of the fastest way on all cores, a row a case."""
    return _dots(frame, machines.of_gpus(frame), "times the rate of all cores", ax)


def epochs(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the seconds of 60,000 examples by the fastest way, a row a model and device."""
    table = _by_case(machines.epochs(frame), ["device", "model"])
    ax = ax or new_axes(len(table))
    names = [f"{m}, {d}" for m, d in zip(table["model"], table["device"], strict=True)]
    _scatter(ax, frame, table.assign(median=table["seconds"]), names)
    ax.set(xlabel="time of 60,000 examples, the fastest way", xscale="log")
    lines.value_axis(ax.xaxis, "s")
    return ax


def _lines(ax: Axes, frame: pd.DataFrame, table: pd.DataFrame, x: str) -> list[End]:
    ends = []
    for machine, style in _styles(frame).items():
        rows = table[table["machine"] == machine] if len(table) else table
        if len(rows):
            lines.draw_line(
                ax, rows.sort_values(x).assign(oversubscribed=False), x, "median", style
            )
            last = rows.sort_values(x).iloc[-1]
            ends.append(End(last[x], last["median"], machine, style.colour))
    if len(table):
        lines.count_axis(ax, table[x])
    return ends


def _dots(frame: pd.DataFrame, table: pd.DataFrame, label: str, ax: Axes | None) -> Axes:
    table = _by_case(table, ["model", "global_batch_size", "precision"])
    ax = ax or new_axes(len(table))
    names = [_case(row) for row in table.to_dict("records")]
    _scatter(ax, frame, table, names)
    ax.axvline(1, **IDEAL)
    ax.set(xlabel=label, xscale="log")
    lines.ratio_axis(ax.xaxis)
    return ax


def _by_case(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return a table whose rows of the same case, of several machines, follow each other."""
    return table.sort_values(columns, kind="stable", ignore_index=True) if len(table) else table


def _scatter(ax: Axes, frame: pd.DataFrame, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw a row for each row of a table: its median, and quartiles where it has some."""
    for machine, style in _styles(frame).items():
        places = [i for i, name in enumerate(table["machine"]) if name == machine]
        if not places:
            continue
        rows = table.iloc[places]
        if "low" in rows:
            ax.hlines(places, rows["low"], rows["high"], color=style.colour, linewidth=1.5)
        ax.plot(
            rows["median"], places, style.marker, color=style.colour, linestyle="", label=machine
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, columnspacing=0.8)


def _case(row: dict[Any, Any]) -> str:
    precision = ", bf16" if row["precision"] == "bf16" else ""
    return f"{row['model']}, batch {row['global_batch_size']}{precision}"


def _styles(frame: pd.DataFrame) -> dict[str, Style]:
    names = sorted(frame["machine"].unique())
    return {
        name: Style(name, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], "solid")
        for i, name in enumerate(names)
    }
