"""What ranks lose by waiting for the slowest of them: the term that a model of averages lacks.

In each step a rank is late by a random delay. With exponential delays of mean d, the last of p
ranks is late by d H_p on average, where H_p = 1 + 1/2 + ... + 1/p (the mean of the largest of p
exponential variables; David and Nagaraja 2003), so ranks wait d (H_p - 1) for it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

FITTED_RANKS = 2
MIN_PREDICTED_RANKS = 4
FITTED_WAY = "shared"
PARTS = ["communicate_ms", "wait_ms"]


def waiting_seconds(mean_delay: float, num_ranks: int) -> float:
    """Return the mean seconds that a rank waits in a step for the last of `num_ranks`."""
    return mean_delay * sum(1 / k for k in range(2, num_ranks + 1))


def extrapolated(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the milliseconds of a step on 4 and more ranks as one and two ranks predict them.

    The frame has runs of gradient averaging at a fixed local batch. The computing is that of one
    rank; the exchange is that of two ranks times 2 (p - 1) / p, as the bytes of a ring grow. The
    mean delay comes from the waiting of two ranks that share memory alone, so it was not fitted to
    what MPI's all-reduce shows. `error` is without the waiting, `error_with_waiting` with it.
    """
    rows = []
    runs = _steps(frame)
    for key, group in runs.groupby(["machine", "model"], sort=False):
        delay = _mean_delay(group)
        for way, same in group.groupby("allreduce", sort=False):
            medians = same.groupby("num_ranks")[["step_ms", *PARTS]].median()
            if delay is not None and {1, FITTED_RANKS} <= set(medians.index):
                rows += [
                    {"machine": key[0], "model": key[1], "allreduce": way, **row}
                    for row in _rows(medians, delay)
                ]
    return pd.DataFrame(rows)


def _steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of one thread a rank, with milliseconds of a step and of its parts."""
    runs = frame[frame["experiment"].str.startswith("weak-") & (frame["threads_per_rank"] == 1)]
    runs = runs[runs["strategy"].isin(["serial", "gradient_averaging"])]
    scale = 1e3 / runs["num_steps"]
    parts = {
        f"{part}_ms": scale * pd.to_numeric(runs[f"{part}_seconds"])
        for part in ("communicate", "wait")
    }
    runs = runs.assign(step_ms=scale * runs["train_seconds"], **parts)
    alone = runs[runs["strategy"] == "serial"]  # is one rank of either way
    doubled = [alone.assign(allreduce=way) for way in ("shared", "mpi")]
    return pd.concat([runs[runs["strategy"] != "serial"], *doubled], ignore_index=True)


def _mean_delay(group: pd.DataFrame) -> float | None:
    """Return the mean delay in milliseconds, None where two ranks were not measured."""
    two = group[(group["num_ranks"] == FITTED_RANKS) & (group["allreduce"] == FITTED_WAY)]
    if two.empty:
        return None
    return float(two["wait_ms"].median() / waiting_seconds(1.0, FITTED_RANKS))


def _rows(medians: pd.DataFrame, delay: float) -> list[dict[str, Any]]:
    rows = []
    for num_ranks in medians.index[medians.index >= MIN_PREDICTED_RANKS]:
        ring = (num_ranks - 1) / num_ranks / ((FITTED_RANKS - 1) / FITTED_RANKS)
        predicted = medians["step_ms"][1] + ring * medians["communicate_ms"][FITTED_RANKS]
        measured = medians["step_ms"][num_ranks]
        waiting = waiting_seconds(delay, num_ranks)
        rows.append(
            {
                "num_ranks": num_ranks,
                "measured_ms": measured,
                "predicted_ms": predicted,
                "error": predicted / measured - 1,
                "waited_ms": medians["wait_ms"][num_ranks],
                "waiting_ms": waiting,
                "error_with_waiting": (predicted + waiting) / measured - 1,
            }
        )
    return rows
