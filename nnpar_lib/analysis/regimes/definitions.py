"""What halves, perfect, critical and no gain mean, wherever this library says so.

All of them follow from the slope s = d log S / d log B of what a goal takes, steps or seconds, in
the batch size B: a doubling of B multiplies S by 2^s. Ideally s = -1.

- A doubling **halves** S if it divides it by at least 2^0.8 = 1.74, and so costs at most 15 % more
  examples: a ratio below 2^-0.8 = 0.57. It is **no gain** above 2^-0.2 = 0.87, and **takes longer**
  above 1. A verdict needs the whole 95 % interval of the ratio on its side.
- Scaling is **perfect** where s < -0.8, so that each doubling halves; it ends where the fitted
  curve passes -0.8. Data parallelism is **maximal** where s > -0.2, so that no doubling gains;
  between them returns are diminishing.
- The **critical** batch size is where the fitted curve has the slope -1/2. There its two asymptotes
  meet: B_crit = E_min / S_min, the fewest examples over the fewest steps.

Shallue et al. (2019) name the three regimes and draw their borders by eye; the thresholds are of
this library, symmetric around -1/2. The critical batch size is that of McCandlish et al. (2018),
equation 2.11.
"""

from __future__ import annotations

from dataclasses import dataclass

PERFECT = "perfect scaling"
DIMINISHING = "diminishing returns"
MAXIMAL = "maximal data parallelism"
UNDETERMINED = "undetermined"
PERFECT_SLOPE = -0.8
CRITICAL_SLOPE = -0.5
MAXIMAL_SLOPE = -0.2
# a slope that is known no better than this, half the way between the thresholds, says nothing
MAX_INTERVAL = 0.3

HALVES = "halves"
LESS = "less than halves"
NO_GAIN = "no gain"
LONGER = "takes longer"
HALVES_BELOW = 2**PERFECT_SLOPE
NO_GAIN_ABOVE = 2**MAXIMAL_SLOPE
MORE_EXAMPLES = 2 * HALVES_BELOW - 1  # that a doubling which halves may cost at most


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def regime(slope: Interval) -> str:
    """Return the regime of an interval of the slope.

    It is undetermined if the interval is too wide or lies in two regimes.
    """
    if not slope.high - slope.low <= MAX_INTERVAL:  # NaN too
        return UNDETERMINED
    if slope.high < PERFECT_SLOPE:
        return PERFECT
    if slope.low > MAXIMAL_SLOPE:
        return MAXIMAL
    return DIMINISHING if slope.low > PERFECT_SLOPE and slope.high < MAXIMAL_SLOPE else UNDETERMINED


def doubling(ratio: Interval) -> str:
    """Return what a doubling of the batch does, from the ratio of steps or seconds after it.

    It is undetermined if the interval of the ratio holds a threshold.
    """
    if ratio.high < HALVES_BELOW:
        return HALVES
    if ratio.low > NO_GAIN_ABOVE:
        return LONGER if ratio.low > 1 else NO_GAIN
    is_between = ratio.low > HALVES_BELOW and ratio.high < NO_GAIN_ABOVE
    return LESS if is_between else UNDETERMINED


def in_words() -> dict[str, str]:
    """Return the definitions by the word that they define, with the numbers that are used."""
    return {
        HALVES: f"a doubling of the batch divides the steps (or seconds) by at least"
        f" {1 / HALVES_BELOW:.2f}, so that it costs at most {100 * MORE_EXAMPLES:.0f} % more"
        f" examples: a ratio below {HALVES_BELOW:.2f}",
        NO_GAIN: f"a doubling leaves more than {NO_GAIN_ABOVE:.2f} of the steps (or seconds);"
        f" above 1 it {LONGER}",
        PERFECT: f"each doubling halves: the slope d log S / d log B is below {PERFECT_SLOPE:g};"
        " it ends where the fitted curve passes this slope",
        MAXIMAL: f"no doubling gains: the slope is above {MAXIMAL_SLOPE:g}",
        DIMINISHING: "the slopes between",
        "critical batch size": f"where the fitted curve has the slope {CRITICAL_SLOPE:g}, and its"
        " asymptotes meet: E_min / S_min (McCandlish et al. 2018)",
        UNDETERMINED: "the 95 % interval of a ratio or a slope does not lie on one side",
    }
