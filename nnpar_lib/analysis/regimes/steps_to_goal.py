"""Scaling regimes: does doubling the batch halve the steps to a goal?

A frame of runs has one row per run: `batch_size`, `steps` (NaN if the run was stopped before the
goal) and, optionally, `goal_error` and `stage`. With stages, rows of stage "estimate" (fresh seeds)
give the estimates, and those of stage "search" give the best of N. Intervals are 95 % percentile
bootstraps over runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnpar_lib.analysis.regimes.definitions import (
    MAXIMAL_SLOPE,
    PERFECT_SLOPE,
    UNDETERMINED,
    Interval,
    regime,
)
from nnpar_lib.analysis.regimes.steps_model import (
    FAMILY,
    FORMS,
    MIN_BATCH_SIZES,
    Array,
    Curves,
    aicc,
    fit,
    leave_one_out,
)

OVERHEAD = 0.2
NUM_RESAMPLES = 1000
HALF_WINDOW = 2  # batch sizes to each side that a local slope is fitted to


@dataclass(frozen=True)
class Resamples:
    """Median steps at each batch size: as measured [n], and of each resample of the runs [R, n].

    A median is infinite where half of the runs did not reach the goal.
    """

    batch_sizes: Array
    medians: Array
    resampled: Array

    @property
    def reached(self) -> npt.NDArray[np.bool_]:
        """At which batch sizes [n] the median run reached the goal, in nearly every resample
        too."""
        return np.asarray(
            np.isfinite(self.medians) & (np.isfinite(self.resampled).mean(axis=0) > 0.975)
        )


def estimates(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that give estimates: those of stage "estimate" if there are stages, else
    all."""
    return runs[runs["stage"] == "estimate"] if "stage" in runs else runs


def resample(runs: pd.DataFrame, num_resamples: int = NUM_RESAMPLES, *, seed: int = 0) -> Resamples:
    """Resample the runs of each batch size with replacement and take medians.

    A run that did not reach the goal took more steps than any that did. The same frame and seed
    give the same resamples; two frames that are combined need two seeds to be independent.
    """
    for column in ("batch_size", "steps"):
        if column not in runs:
            raise ValueError(
                f"the frame has no column {column!r}; it has {', '.join(map(str, runs.columns))}"
            )
    generator = np.random.default_rng(seed)
    rows = estimates(runs)
    sizes = np.array(sorted(rows["batch_size"].unique()), dtype=float)
    medians = np.empty(len(sizes))
    resampled = np.empty((num_resamples, len(sizes)))
    for i, size in enumerate(sizes):
        steps = rows.loc[rows["batch_size"] == size, "steps"].to_numpy(dtype=float)
        steps = np.where(np.isnan(steps), np.inf, steps)
        medians[i] = _median(steps)
        resampled[:, i] = _median(generator.choice(steps, size=(num_resamples, len(steps))))
    return Resamples(sizes, medians, resampled)


def study(runs: pd.DataFrame) -> pd.DataFrame:
    """Return steps, best of N, local slope and regime, one row per goal and batch size.

    Columns: `goal_error` (if the runs have it), `batch_size`, `median_steps` with `low` and `high`,
    `num_runs`, `num_reached`, `best_of_n` with `winners_curse` (median / best of N), `slope` with
    `slope_low` and `slope_high`, `regime`, and `status`: reached, or not reached.
    """
    return pd.DataFrame([row for _, rows in goals_of(runs) for row in _rows_of_goal(rows)])


def local_slopes(samples: Resamples) -> tuple[Array, Array]:
    """Return d log S / d log B at each batch size, [n] and [R, n].

    It is the slope of a line through the batch size and two neighbours to each side. The window
    ends at the first batch size that did not reach the goal. NaN if it holds fewer than 3.
    """
    num = len(samples.batch_sizes)
    slopes = np.full(num, np.nan)
    resampled = np.full(samples.resampled.shape, np.nan)
    kept = np.flatnonzero(samples.reached)
    x = np.log(samples.batch_sizes)
    for position, i in enumerate(kept):
        window = kept[max(0, position - HALF_WINDOW) : position + HALF_WINDOW + 1]
        if len(kept) >= MIN_BATCH_SIZES:
            weights = (x[window] - x[window].mean()) / ((x[window] - x[window].mean()) ** 2).sum()
            slopes[i] = np.log(samples.medians[window]) @ weights
            with np.errstate(invalid="ignore"):
                resampled[:, i] = np.log(samples.resampled[:, window]) @ weights
    return slopes, resampled


def fits(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the parameters of each curve with intervals, and how well it fits.

    One row per goal and form of curve. `preferred` marks `steps_model.FAMILY`, the form that every
    goal and study is read from; the others are there to be compared with it by `rmse` and
    `left_out_rmse` in log steps, and by `aicc`, which is smaller for the form with more evidence
    and infinite where there are too few batch sizes to tell. `b_crit`, `s_min`, `e_min`, `q` and
    the batch sizes `ends_perfect`, `begins_maximal` (see `definitions`) and `overhead_20` (20 %
    more examples than tiny batches need) each have `_low` and `_high`. `status` is undetermined
    where the interval of B_crit leaves the range of the batch sizes, or with fewer than 5 batch
    sizes.
    """
    return pd.DataFrame([row for _, rows in goals_of(runs) for row in _fits_of_goal(rows)])


def hardest_goal(table: pd.DataFrame) -> float:
    """Return the hardest goal that every batch size reached; if there is none, the hardest goal."""
    complete = table.groupby("goal_error")["status"].apply(
        lambda status: bool((status == "reached").all())
    )
    return float(min(complete[complete].index if complete.any() else complete.index))


def compare(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the fits of several studies with `steps_model.FAMILY`, a row a `study` and goal."""
    rows = [fits(runs).query("preferred").assign(study=name) for name, runs in groups.items()]
    return pd.concat(rows, ignore_index=True)


def steps_ratio(base: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """Return the steps of one study over those of another, one row per batch size.

    Batch sizes at which either study did not reach its one goal are left out. Columns:
    `batch_size`, `ratio` with `low` and `high`; below 1 `compared` needs fewer steps.
    """
    below = resample(base)
    above = resample(compared, seed=1)
    rows = []
    for size in np.intersect1d(below.batch_sizes, above.batch_sizes):
        i, j = (int(np.flatnonzero(part.batch_sizes == size)[0]) for part in (below, above))
        if below.reached[i] and above.reached[j]:
            ratio = above.medians[j] / below.medians[i]
            resampled = above.resampled[:, j] / below.resampled[:, i]
            span = interval(ratio, resampled)
            row = {"batch_size": int(size), "ratio": span.value, "low": span.low, "high": span.high}
            rows.append(row)
    return pd.DataFrame(rows, columns=["batch_size", "ratio", "low", "high"])


def interval(value: float, samples: Array) -> Interval:
    """Return a value with the 2.5 % and 97.5 % quantiles of its resamples; NaN if some are
    missing."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def _rows_of_goal(rows: pd.DataFrame) -> list[dict[str, Any]]:
    samples = resample(rows)
    slopes, resampled_slopes = local_slopes(samples)
    rows_of_goal = []
    for size in sorted(rows["batch_size"].unique()):
        runs = rows[rows["batch_size"] == size]
        i = np.flatnonzero(samples.batch_sizes == size)
        nothing = Interval(math.nan, math.nan, math.nan)
        reached = bool(i.size and samples.reached[i[0]])
        steps = interval(samples.medians[i[0]], samples.resampled[:, i[0]]) if reached else nothing
        slope = interval(slopes[i[0]], resampled_slopes[:, i[0]]) if reached else nothing
        rows_of_goal.append(
            {
                **_goal_of(runs),
                "batch_size": int(size),
                "status": "reached" if reached else "not reached",
                "median_steps": steps.value,
                "low": steps.low,
                "high": steps.high,
                **_counts(runs, steps.value),
                "slope": slope.value,
                "slope_low": slope.low,
                "slope_high": slope.high,
                "regime": regime(slope),
            }
        )
    return rows_of_goal


def _counts(rows: pd.DataFrame, median: float) -> dict[str, Any]:
    runs = estimates(rows)
    best = rows.loc[rows["stage"] == "search", "steps"].min() if "stage" in rows else math.nan
    return {
        "num_runs": len(runs),
        "num_reached": int(runs["steps"].notna().sum()),
        "best_of_n": float(best),
        "winners_curse": median / float(best),
    }


def _fits_of_goal(rows: pd.DataFrame) -> list[dict[str, Any]]:
    samples = resample(rows)
    kept = samples.reached
    resampled = samples.resampled[:, kept]
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    num = int(kept.sum())
    if num < MIN_BATCH_SIZES:
        return [
            {
                **_goal_of(rows),
                "form": "none",
                "num_batch_sizes": num,
                "status": UNDETERMINED,
                "preferred": False,
            }
        ]
    fits_of_forms = [
        _fit_row(samples.batch_sizes[kept], samples.medians[kept], resampled, form)
        for form in FORMS
    ]
    return [
        {**_goal_of(rows), **row, "num_batch_sizes": num, "preferred": row["form"] == FAMILY}
        for row in fits_of_forms
    ]


def _fit_row(sizes: Array, medians: Array, resampled: Array, form: str) -> dict[str, Any]:
    curve = fit(sizes, medians, form)
    curves = fit(sizes, resampled, form)
    row: dict[str, Any] = {"form": form}
    for (name, value), resamples in zip(
        _quantities(curve).items(), _quantities(curves).values(), strict=True
    ):
        span = interval(float(value[0]), resamples)
        row |= {name: span.value, f"{name}_low": span.low, f"{name}_high": span.high}
    known = sizes.min() < row["b_crit_low"] and row["b_crit_high"] < sizes.max()
    rmse = math.sqrt(float(curve.rss[0]) / len(sizes))
    return {
        **row,
        "rmse": rmse,
        "left_out_rmse": leave_one_out(list(sizes), list(medians), form),
        "aicc": aicc(float(curve.rss[0]), len(sizes), form),
        "status": "determined" if known else UNDETERMINED,
    }


def _quantities(curves: Curves) -> dict[str, Array]:
    return {
        "b_crit": curves.b_crit,
        "s_min": curves.s_min,
        "e_min": curves.e_min,
        "q": curves.q,
        "ends_perfect": curves.batch_size_at_slope(PERFECT_SLOPE),
        "begins_maximal": curves.batch_size_at_slope(MAXIMAL_SLOPE),
        "overhead_20": curves.batch_size_at_overhead(OVERHEAD),
    }


def _median(values: Array) -> Array:
    """Return medians over the last axis, of values of which some may be infinite."""
    num = values.shape[-1]
    ordered = np.sort(values, axis=-1)
    return np.asarray((ordered[..., (num - 1) // 2] + ordered[..., num // 2]) / 2)


def goals_of(runs: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return the runs of each goal, the easiest first, with what their rows begin with."""
    if "goal_error" not in runs:
        return [({}, runs)]
    goals = sorted(runs["goal_error"].unique(), reverse=True)
    return [({"goal_error": float(goal)}, runs[runs["goal_error"] == goal]) for goal in goals]


def _goal_of(rows: pd.DataFrame) -> dict[str, Any]:
    return {"goal_error": float(rows["goal_error"].iloc[0])} if "goal_error" in rows else {}
