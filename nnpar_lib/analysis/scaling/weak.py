"""Efficiency when the work grows with the ranks: over a serial run of each rank's batch, and of the
whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from nnpar_lib.analysis.scaling.speedups import (
    PROBLEM,
    RATE,
    SERIAL_ONE_THREAD,
    configurations_of,
    fastest,
    keys,
    num_workers_of,
    ratio_between,
    scaling_table,
)

SAME_BATCH = ("efficiency", "low", "high", "ci_low", "ci_high")


def weak_scaling(frame: pd.DataFrame, base: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return two efficiencies of every way to run at a fixed local batch size b, one row a
    configuration.

    `speedup` is the scaled speedup: samples a second of p ranks, whose global batch is p b, over
    those of the base at a batch of b. `efficiency` is that over p (Gustafson 1988). The two compute
    different batches: it says what ranks lose, and not what somebody gains who wants the batch p b.

    `same_batch_efficiency` compares runs that compute the same: samples a second of p ranks at a
    global batch of p b over p times those of the base at that batch, with quartiles
    `same_batch_low`, `same_batch_high`, and `same_batch_ci_low`, `same_batch_ci_high`. It is NaN
    where the base was not measured at that batch. It is lower than `efficiency` where one rank
    computes a larger batch at a higher rate.

    Other columns and `base` are those of `strong_scaling`, with `local_batch_size` in place of the
    global one. Runs of one rank at a local batch that no ranks share are bases alone, without rows.
    """
    runs = configurations_of(frame)
    local = runs["global_batch_size"] / runs["num_ranks"]
    runs = runs.assign(local_batch_size=local).drop(columns="global_batch_size")
    table = scaling_table(_shared_by_ranks(runs), base)
    rows = [_same_batch(runs, row, base or SERIAL_ONE_THREAD) for row in table.to_dict("records")]
    return table.join(pd.DataFrame(rows, index=table.index))


def _shared_by_ranks(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at local batch sizes that several ranks have; all where there are none."""
    problem = [name for name in keys(runs) if name in PROBLEM]
    most_ranks = runs.groupby(problem, dropna=False)["num_ranks"].transform("max")
    shared = runs[most_ranks > 1]
    return shared if len(shared) else runs


def _same_batch(
    runs: pd.DataFrame, row: Mapping[Any, Any], base: Mapping[str, Any]
) -> dict[str, float]:
    """Return the efficiency of a row of the table over the base at the same global batch."""
    names = [name for name in keys(runs) if name in row]
    problem = [name for name in names if name in PROBLEM and name != "local_batch_size"]
    global_batch = row["local_batch_size"] * row["num_ranks"]
    batches = runs["local_batch_size"] * runs["num_ranks"]
    serial = _alike(runs[batches == global_batch], {name: row[name] for name in problem} | {**base})
    if serial.empty:
        return {f"same_batch_{name}": float("nan") for name in SAME_BATCH}
    serial = fastest(serial)
    compared = _alike(runs, {name: row[name] for name in names})
    ratio = ratio_between(serial, compared, RATE, f"{row} and a serial run of its batch")
    num_workers = num_workers_of(compared) / num_workers_of(serial)
    columns = ratio.divided_by(num_workers).columns("efficiency")
    return {f"same_batch_{name}": columns[name] for name in SAME_BATCH}


def _alike(runs: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows with these values, a missing value being like another."""
    for name, value in values.items():
        runs = runs[runs[name].isna() if pd.isna(value) else runs[name] == value]
    return runs
