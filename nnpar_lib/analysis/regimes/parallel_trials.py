"""Runs to goals on several ranks: equal steps, seconds, and the cost of local SGD.

Frames are those of `nnpar_lib.records.store.frame`, of records of kind "trial".
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from nnpar_lib.analysis import regimes


def by_goal(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and goal: `goal_error`, and `steps`, NaN if it was not reached."""
    rows = frame[frame["kind"] == "trial"].explode(["goal_errors", "steps"], ignore_index=True)
    rows = rows.rename(columns={"goal_errors": "goal_error", "global_batch_size": "batch_size"})
    return rows.astype({"goal_error": float, "steps": float})


def equal_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Compare the steps of several ranks with those of one rank, run by run.

    One row per batch size and number of ranks. Columns: `num_pairs` of runs to a goal with the same
    seed, `num_equal` of them, `largest_difference` in steps relative to those of one rank, and the
    medians `steps` and `serial_steps` at the hardest goal.
    """
    rows = by_goal(frame)
    counts = rows.pivot_table(
        index=["batch_size", "goal_error", "seed"], columns="num_ranks", values="steps"
    )
    hardest = counts.index.get_level_values("goal_error") == rows["goal_error"].min()
    rows_by_size = []
    for num_ranks in [column for column in counts if column != 1]:
        pairs = counts[[1, num_ranks]].dropna()
        for size in pairs.index.unique("batch_size"):
            steps = pairs.loc[size]
            medians = counts[hardest].loc[size].median()
            rows_by_size.append(
                {
                    "batch_size": size,
                    "num_ranks": num_ranks,
                    "num_pairs": len(steps),
                    "num_equal": int((steps[1] == steps[num_ranks]).sum()),
                    "largest_difference": float((steps[num_ranks] / steps[1] - 1).abs().max()),
                    "serial_steps": medians[1],
                    "steps": medians[num_ranks],
                }
            )
    return pd.DataFrame(rows_by_size).sort_values(["batch_size", "num_ranks"], ignore_index=True)


def seconds_to_goal(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the median seconds until the hardest goal, with an interval.

    One row per batch size and number of ranks. Runs that did not reach the goal are left out;
    `num_runs` counts the others.
    """
    rows = by_goal(frame)
    rows = rows[(rows["goal_error"] == rows["goal_error"].min()) & rows["steps"].notna()]
    rows_by_size = []
    for _, runs in rows.groupby(["batch_size", "num_ranks"]):
        samples = regimes.resample(runs.assign(steps=runs["train_seconds"]))
        span = regimes.interval(samples.medians[0], samples.resampled[:, 0])
        rows_by_size.append(
            {
                **runs.iloc[0][["batch_size", "num_ranks"]],
                "seconds": span.value,
                "low": span.low,
                "high": span.high,
                "num_runs": len(runs),
            }
        )
    return pd.DataFrame(rows_by_size)


def local_sgd(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what averaging every so many steps costs and saves at the hardest goal; a row an
    interval, in order.

    Columns: `average_every`, `num_ranks`, `lr`, median `steps` with `low` and `high`, `num_reached`
    of `num_runs`, the `samples` of all ranks together and the `exchanges` of weights until the
    goal, and both relative to the shortest interval: `samples_ratio` with `samples_low` and
    `samples_high`, `exchanges_ratio`. The intervals resample the runs at each interval; the
    shortest one's median, which divides, is resampled too.
    """
    rows = by_goal(frame)
    rows = rows[
        (rows["experiment"] == "regimes_local_sgd")
        & (rows["goal_error"] == rows["goal_error"].min())
    ]
    samples = regimes.resample(
        rows[["average_every", "steps"]].rename(columns={"average_every": "batch_size"})
    )
    with np.errstate(invalid="ignore"):
        ratios = samples.medians / samples.medians[0]
        resampled = samples.resampled / samples.resampled[:, :1]
    rows_by_interval = []
    for i, (_, runs) in enumerate(rows.groupby("average_every")):
        steps, ratio = (
            regimes.interval(values[i], draws[:, i])
            for values, draws in ((samples.medians, samples.resampled), (ratios, resampled))
        )
        rows_by_interval.append(
            {
                **runs.iloc[0][["average_every", "num_ranks", "lr"]],
                "steps": steps.value,
                "low": steps.low,
                "high": steps.high,
                "num_runs": len(runs),
                "num_reached": int(runs["steps"].notna().sum()),
                "samples": steps.value * runs["batch_size"].iloc[0],
                "samples_ratio": ratio.value,
                "samples_low": ratio.low,
                "samples_high": ratio.high,
            }
        )
    table = pd.DataFrame(rows_by_interval)
    table["exchanges"] = table["steps"] / table["average_every"]
    return table.assign(exchanges_ratio=table["exchanges"] / table["exchanges"].iloc[0])
