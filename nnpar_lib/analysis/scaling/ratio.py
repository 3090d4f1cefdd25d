"""Ratios over paired repeats: the median, an exact interval of it, and who is ahead.

A control measures the same thing twice in the same call. What its ratio shows is noise, and another
ratio inside that band is a tie.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import quantile_test

MIN_REPEATS_OF_INTERVAL = 6  # the whole range of 5 repeats holds the median with 94 % only
CONFIDENCE = 0.95
INTERVAL_COLUMNS = {"ci_low": "95 % from", "ci_high": "to"}
QUARTILE_COLUMNS = {"low": "quartile 1", "high": "quartile 3"}

AHEAD = "ahead"
BEHIND = "behind"
TIE = "tie"
UNDECIDED = "too few repeats"


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

    @property
    def has_interval(self) -> bool:
        """Whether there are enough repeats for an interval."""
        return self.num_repeats >= MIN_REPEATS_OF_INTERVAL

    def divided_by(self, divisor: float) -> Ratio:
        """Return the ratio in units of `divisor`: an efficiency from a speedup."""
        numbers = {name: value / divisor for name, value in asdict(self).items()}
        return Ratio(**{**numbers, "num_repeats": self.num_repeats})

    def columns(self, median: str) -> dict[str, Any]:
        """Return the numbers as columns of a table; `median` is the name of the first."""
        columns = asdict(self)
        return {median: columns.pop("median"), **columns}


@dataclass(frozen=True)
class Band:
    """The ratios that noise alone explains, around 1 and symmetric on a log scale."""

    low: float
    high: float


def ratio_of(values: npt.ArrayLike) -> Ratio:
    """Return the ratio whose value in each repeat is given, positive numbers.

    A ValueError where there are none.
    """
    ratios = np.asarray(values, dtype=float)
    if ratios.size == 0:
        raise ValueError("a ratio of no repeats has no median; give at least one value")
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    interval = quantile_test(ratios, q=float(median), p=0.5).confidence_interval(CONFIDENCE)
    return Ratio(
        median=float(median),
        low=float(low),
        high=float(high),
        ci_low=float(interval.low),
        ci_high=float(interval.high),
        num_repeats=int(ratios.size),
    )


def band(control: Ratio) -> Band:
    """Return what a control, the ratio of a thing to itself, shows to be noise.

    It is the narrowest band around 1 that holds the control's interval; of fewer than 6 repeats,
    their quartiles.
    """
    reach = _reach(control)
    return Band(low=math.exp(-reach), high=math.exp(reach))


def verdict(ratio: Ratio, control: Ratio) -> str:
    """Return who is ahead: the compared (`ahead`), the base (`behind`), or neither (`tie`).

    A winner is named only where the whole interval of the ratio lies outside the control's band.
    Fewer than 6 repeats of either decide nothing.
    """
    if not (ratio.has_interval and control.has_interval):
        return UNDECIDED
    reach = _reach(control)
    if math.log(ratio.ci_low) > reach:
        return AHEAD
    if math.log(ratio.ci_high) < -reach:
        return BEHIND
    return TIE


def _reach(control: Ratio) -> float:
    """Return how far the band of a control reaches from 1, as a logarithm."""
    ends = (control.low, control.high)
    if control.has_interval:
        ends = (control.ci_low, control.ci_high)
    return max(abs(math.log(end)) for end in ends)


def spread_columns(table: pd.DataFrame) -> dict[str, str]:
    """Return the two columns that show the spread of ratios, with their headings.

    They bound 95 % intervals if each row has enough repeats for one, else they are quartiles.
    """
    if (table["num_repeats"] >= MIN_REPEATS_OF_INTERVAL).all():
        return INTERVAL_COLUMNS
    return QUARTILE_COLUMNS
