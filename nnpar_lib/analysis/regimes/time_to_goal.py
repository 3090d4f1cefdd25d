"""Steps and seconds to a goal when the batch doubles, and on more ranks.

Frames of runs are those of `nnpar_lib.analysis.regimes`; `step_seconds` are measured times of a
step, with columns `num_ranks`, `batch_size` and `seconds`, one row per repeat.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from nnpar_lib.analysis.regimes import steps_model
from nnpar_lib.analysis.regimes.definitions import (
    HALVES,
    LESS,
    LONGER,
    NO_GAIN,
    UNDETERMINED,
    doubling,
)
from nnpar_lib.analysis.regimes.steps_to_goal import (
    Resamples,
    fits,
    goals_of,
    interval,
    resample,
)
from nnpar_lib.analysis.scaling.speedups import fit_alpha_beta, runs_of

VERDICTS = (HALVES, LESS, NO_GAIN, LONGER, UNDETERMINED)


def step_seconds(records: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds of a step of each training run of a frame of records."""
    runs = runs_of(records)
    return pd.DataFrame(
        {
            "num_ranks": runs["num_ranks"],
            "batch_size": runs["global_batch_size"],
            "seconds": runs["train_seconds"] / runs["num_steps"],
        }
    ).reset_index(drop=True)


def doublings(runs: pd.DataFrame, step_seconds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the ratio of steps at 2B and B with its interval and a verdict.

    One row per goal and pair of batch sizes B and 2B. With `step_seconds` also one row per number
    of ranks, with the ratio of the seconds to the goal, which are the steps times the measured
    seconds of a step. The words of a verdict are defined in `regimes.definitions`.
    """
    rows = []
    for goal, runs_to_goal in goals_of(runs):
        samples = resample(runs_to_goal)
        rows += [{**goal, **row} for row in _doublings_of(samples, "steps", 0)]
        for num_ranks, times in (
            step_seconds.groupby("num_ranks") if step_seconds is not None else []
        ):
            rows += [
                {**goal, **row}
                for row in _doublings_of(in_seconds(samples, times), "seconds", num_ranks)
            ]
    return pd.DataFrame(rows)


def verdicts(doublings: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts of `doublings` to one goal, a row for steps and for each number of ranks.

    Columns: `quantity`, `num_ranks` (0 for steps), `num_doublings`, how many have each verdict
    under its name, `halves_to`, the batch size after the last doubling that halves (NaN if none
    does), and `no_gain_from`, the batch size from which on no doubling gains, NaN if the largest
    one may still gain.
    """
    rows = []
    ordered = doublings.sort_values("batch_size", kind="stable")
    for (quantity, num_ranks), table in ordered.groupby(["quantity", "num_ranks"], sort=False):
        counts = {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS}
        halving = table.loc[table["verdict"] == HALVES, "batch_size"]
        rows.append(
            {
                "quantity": quantity,
                "num_ranks": num_ranks,
                "num_doublings": len(table),
                **counts,
                "halves_to": 2 * halving.max() if len(halving) else math.nan,
                "no_gain_from": _no_gain_from(table),
            }
        )
    return pd.DataFrame(rows)


def _no_gain_from(table: pd.DataFrame) -> float:
    """Return the batch size from which on each doubling has no gain or takes longer."""
    first = math.nan
    for size, verdict in zip(table["batch_size"][::-1], table["verdict"][::-1], strict=True):
        if verdict not in (NO_GAIN, LONGER):
            break
        first = float(size)
    return first


def in_seconds(samples: Resamples, step_seconds: pd.DataFrame) -> Resamples:
    """Return steps to a goal as seconds.

    They are multiplied by the median seconds of a step, resampled over its repeats.
    """
    seconds = step_seconds.rename(columns={"seconds": "steps"})
    times = resample(seconds, len(samples.resampled), seed=1)  # independent of those of the steps
    sizes, in_steps, in_seconds_of_step = np.intersect1d(
        samples.batch_sizes, times.batch_sizes, return_indices=True
    )
    return Resamples(
        sizes,
        samples.medians[in_steps] * times.medians[in_seconds_of_step],
        samples.resampled[:, in_steps] * times.resampled[:, in_seconds_of_step],
    )


def time_to_goal(runs: pd.DataFrame, step_seconds: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds to each goal with intervals, one row per number of ranks and batch size.

    `is_optimal` marks the batch size with the fewest seconds for a number of ranks.
    """
    rows = []
    for goal, runs_to_goal in goals_of(runs):
        for num_ranks, times in step_seconds.groupby("num_ranks"):
            samples = in_seconds(resample(runs_to_goal), times)
            for i, size in enumerate(samples.batch_sizes):
                span = interval(samples.medians[i], samples.resampled[:, i])
                rows.append(
                    {
                        **goal,
                        "num_ranks": num_ranks,
                        "batch_size": int(size),
                        "seconds": span.value,
                        "low": span.low,
                        "high": span.high,
                        "is_optimal": i == int(samples.medians.argmin()),
                    }
                )
    return pd.DataFrame(rows)


def optimal_batch_size(b_crit: float, seconds_fixed: float, seconds_per_example: float) -> float:
    """Return sqrt(B_crit t0 / t1), which minimises S_min (1 + B_crit/B) (t0 + t1 B)."""
    return math.sqrt(b_crit * seconds_fixed / seconds_per_example)


def serial_fraction(b_crit: float, local_batch_size: float) -> float:
    """Return 1 / (1 + B_crit/B0), the serial fraction in Amdahl's law for steps on p ranks, B = B0
    p."""
    return 1 / (1 + b_crit / local_batch_size)


def predicted(runs: pd.DataFrame, step_seconds: pd.DataFrame) -> pd.DataFrame:
    """Predict the seconds to one goal from fits of the steps and of the step time t0 + t1 B.

    One row per number of ranks and batch size of `step_seconds`: `seconds`, `t0` in seconds, `t1`
    in seconds per example, and `optimal`, the batch size at which the product of the two curves is
    least. For the hyperbola that is `optimal_batch_size`; a sharper curve has no closed form, and a
    grid is searched.
    """
    curve = preferred_curve(runs)
    grid = np.geomspace(1, 2**17, 2000)
    rows = []
    for num_ranks, times in step_seconds.groupby("num_ranks"):
        medians = times.groupby("batch_size")["seconds"].median()
        line = fit_alpha_beta(medians.index.to_numpy(dtype=float), medians.to_numpy())
        best = grid[(curve.steps(grid)[0] * (line.alpha + line.beta * grid)).argmin()]
        for size, steps in zip(medians.index, curve.steps(medians.index)[0], strict=True):
            rows.append(
                {
                    "num_ranks": num_ranks,
                    "batch_size": int(size),
                    "t0": line.alpha,
                    "t1": line.beta,
                    "seconds": steps * (line.alpha + line.beta * size),
                    "optimal": float(best),
                }
            )
    return pd.DataFrame(rows)


def amdahl(runs: pd.DataFrame, local_batch_size: int) -> pd.DataFrame:
    """Compare the steps on p ranks of the same local batch B0 with Amdahl's law.

    One row per p whose batch size B0 p was measured: `measured` S(B0) / S(B0 p) with `low` and
    `high`; `hyperbola`, the prediction of the hyperbola, which is Amdahl's law with
    `serial_fraction`; and `preferred`, the prediction of the preferred curve.
    """
    samples = resample(runs)
    sizes = samples.batch_sizes.astype(int)
    known = samples.reached
    hyperbola = steps_model.fit(samples.batch_sizes[known], samples.medians[known])
    fraction = serial_fraction(float(hyperbola.b_crit[0]), local_batch_size)
    preferred = preferred_curve(runs)
    rows = []
    first = int(np.flatnonzero(sizes == local_batch_size)[0])
    for i in np.flatnonzero(known & (sizes % local_batch_size == 0) & (sizes >= local_batch_size)):
        p = int(sizes[i]) // local_batch_size
        span = interval(
            samples.medians[first] / samples.medians[i],
            samples.resampled[:, first] / samples.resampled[:, i],
        )
        steps = preferred.steps([local_batch_size, int(sizes[i])])[0]
        rows.append(
            {
                "num_ranks": p,
                "measured": span.value,
                "low": span.low,
                "high": span.high,
                "serial_fraction": fraction,
                "hyperbola": 1 / (fraction + (1 - fraction) / p),
                "preferred": float(steps[0] / steps[1]),
            }
        )
    return pd.DataFrame(rows)


def preferred_curve(runs: pd.DataFrame) -> steps_model.Curves:
    """Return the preferred fit of the steps to one goal.

    A ValueError where too few batch sizes reached it.
    """
    preferred = fits(runs).query("preferred")
    if len(preferred) != 1:
        raise ValueError(
            f"{len(preferred)} fits where one is needed; give the runs of one goal that 5 batch"
            " sizes reached"
        )
    samples = resample(runs)
    known = samples.reached
    return steps_model.fit(
        samples.batch_sizes[known], samples.medians[known], str(preferred["form"].iloc[0])
    )


def _doublings_of(samples: Resamples, quantity: str, num_ranks: Any) -> list[dict[str, Any]]:
    rows = []
    sizes = samples.batch_sizes.tolist()
    known = samples.reached
    for i, size in enumerate(sizes):
        if 2 * size in sizes and known[i] and known[j := sizes.index(2 * size)]:
            ratio = interval(
                samples.medians[j] / samples.medians[i],
                samples.resampled[:, j] / samples.resampled[:, i],
            )
            rows.append(
                {
                    "quantity": quantity,
                    "num_ranks": num_ranks,
                    "batch_size": int(size),
                    "ratio": ratio.value,
                    "low": ratio.low,
                    "high": ratio.high,
                    "verdict": doubling(ratio),
                }
            )
    return rows
