"""Exercises on batch sizes: the regime that slopes show, and the batch size that is fastest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from nnpar_lib.analysis.regimes import (
    DIMINISHING,
    MAXIMAL,
    MAXIMAL_SLOPE,
    PERFECT,
    PERFECT_SLOPE,
)
from nnpar_lib.course.checks import call, demand, judged

STUDIES = (
    ([16, 32, 64, 128, 256], [8000, 4100, 2600, 2000, 1900]),
    ([10, 30, 90, 100], [900, 310, 200, 190]),
    ([64, 1024], [5000, 800]),
)
COSTS = ((200.0, 512.0, 2e-3, 1e-5), (1000.0, 64.0, 1e-4, 2e-5), (50.0, 4000.0, 5e-2, 1e-6))
NEAR = 1e-6


@judged
def check_regimes(function: Callable[..., Any]) -> str:
    """Read regimes from steps: `regimes(batch_sizes, steps)`, two lists, the batch sizes growing.

    Between two neighbouring batch sizes the slope is that of the steps to the goal against the
    batch size, both as logarithms. Return a name for each of these pairs: "perfect scaling" for a
    slope below -0.8, "maximal data parallelism" above -0.2, "diminishing returns" between.
    """
    for batch_sizes, steps in STUDIES:
        names = call(function, list(batch_sizes), list(steps))
        pairs = list(itertools.pairwise(zip(batch_sizes, steps, strict=True)))
        demand(
            isinstance(names, list | tuple) and len(names) == len(pairs),
            f"{len(batch_sizes)} batch sizes have {len(pairs)} pairs of neighbours; your function"
            f" returns {names!r}",
        )
        for name, ((small, more), (large, fewer)) in zip(names, pairs, strict=True):
            slope = math.log(fewer / more) / math.log(large / small)
            expected = _regime(slope)
            demand(
                name == expected,
                f"from batch size {small} to {large} the steps go from {more} to {fewer}: the"
                f" slope is {slope:.2f}, which is {expected!r} and not {name!r}",
            )
    return f"{sum(len(sizes) - 1 for sizes, _ in STUDIES)} slopes, not only of doubled batch sizes"


def _regime(slope: float) -> str:
    if slope < PERFECT_SLOPE:
        return PERFECT
    return MAXIMAL if slope > MAXIMAL_SLOPE else DIMINISHING


@judged
def check_time_optimal_batch(function: Callable[..., Any]) -> str:
    """Find the fastest batch size: `time_optimal_batch(s_min, b_crit, t0, t1)`, a number.

    A training takes S_min (1 + B_crit/B) steps at batch size B (McCandlish et al. 2018), and a step
    takes t0 + t1 B seconds. Return the B, a real number, at which the whole training takes the
    fewest seconds.
    """
    for s_min, b_crit, fixed, per_example in COSTS:
        batch = call(function, s_min, b_crit, fixed, per_example)
        where = f"with S_min {s_min:g}, B_crit {b_crit:g}, t0 {fixed:g} s, t1 {per_example:g} s"
        demand(
            isinstance(batch, int | float) and batch > 0,
            f"{where} your function returns {batch!r}, which is no positive number",
        )
        best = math.sqrt(b_crit * fixed / per_example)
        _demand_fastest(float(batch), best, (s_min, b_crit, fixed, per_example), where)
    return "no other batch size is faster"


def _demand_fastest(
    batch: float, best: float, cost: tuple[float, float, float, float], where: str
) -> None:
    b_crit = cost[1]
    yours = _seconds(batch, *cost)
    fewest = _seconds(best, *cost)
    if abs(batch / best - 1) < NEAR:
        return
    hint = ""
    if abs(batch / best**2 - 1) < NEAR:
        hint = "; that is its square"
    elif abs(batch / b_crit - 1) < NEAR:
        hint = "; B_crit alone knows nothing of the seconds of a step"
    demand(
        False,
        f"{where} a batch of {batch:.6g} trains in {yours:.4g} s, and one of {best:.0f} in"
        f" {fewest:.4g} s{hint}",
    )


def _seconds(batch: float, s_min: float, b_crit: float, fixed: float, per_example: float) -> float:
    return s_min * (1 + b_crit / batch) * (fixed + per_example * batch)
