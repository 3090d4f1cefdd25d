"""Where the time of a step goes: load, forward, backward, update, communicate, wait."""

from __future__ import annotations

import pandas as pd

from nnpar_lib.analysis.scaling.speedups import configurations_of, keys


def activity_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the fraction of the booked time of each activity, one row per configuration.

    Values are medians over repeats. The activities are those of `activity_seconds` of a run;
    `microseconds_per_step` is the time of a step.
    """
    runs = configurations_of(frame).reset_index(drop=True)
    seconds = pd.DataFrame(list(runs["activity_seconds"])).fillna(0.0)
    shares = seconds.div(seconds.sum(axis=1), axis=0)
    shares["microseconds_per_step"] = runs["train_seconds"] / runs["num_steps"] * 1e6
    by = [column for column in keys(runs) if column not in shares]
    return (
        pd.concat([runs[by], shares], axis=1)
        .groupby(by, dropna=False, sort=False)
        .median()
        .reset_index()
    )
