"""A ratio over paired repeats: its median, its quartiles, and an exact interval of the median."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import quantile_test

MIN_REPEATS_OF_INTERVAL = 6  # the whole range of 5 repeats holds the median with 94 % only


@dataclass(frozen=True)
class Ratio:
    """A ratio over paired repeats: median, quartiles (`low`, `high`) and an interval of the median.

    The interval (`ci_low`, `ci_high`) lies between two order statistics and holds the median with a
    probability of at least 95 %, whatever the distribution. Fewer than 6 repeats have no such
    interval: it is NaN.
    """

    median: float
    low: float
    high: float
    ci_low: float
    ci_high: float
    num_repeats: int


def ratio_of(values: npt.NDArray[np.float64]) -> Ratio:
    """Return the ratio whose value in each repeat is given."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    interval = quantile_test(values, q=float(median), p=0.5).confidence_interval(0.95)
    return Ratio(
        median=float(median),
        low=float(low),
        high=float(high),
        ci_low=float(interval.low),
        ci_high=float(interval.high),
        num_repeats=int(values.size),
    )


def spread_columns(table: pd.DataFrame) -> dict[str, str]:
    """Return the two columns that show the spread of ratios, with their headings.

    They bound 95 % intervals if each row has enough repeats for one, else they are quartiles.
    """
    if (table["num_repeats"] >= MIN_REPEATS_OF_INTERVAL).all():
        return {"ci_low": "95 % from", "ci_high": "to"}
    return {"low": "quartile 1", "high": "quartile 3"}
