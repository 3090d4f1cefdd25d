"""Ratios of paired repeats: exact intervals, the band of a control, and who is ahead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnpar_lib.analysis import scaling
from nnpar_lib.analysis.scaling.ratio import AHEAD, BEHIND, TIE, UNDECIDED

# multiples of 1/64: their products with powers of 2 and their order are exact
VALUES = st.integers(1, 1024).map(lambda n: n / 64)
REPEATS = st.lists(VALUES, min_size=6, max_size=21)


def test_the_interval_of_fifteen_repeats_lies_between_the_fourth_and_the_twelfth():
    """At most three of 15 are above the median with 576 / 2^15, which is below 2.5 %."""
    ratio = scaling.ratio_of([*range(1, 16)])
    assert (ratio.ci_low, ratio.median, ratio.ci_high) == (4, 8, 12)
    assert ratio.has_interval and not scaling.ratio_of([1.0] * 5).has_interval


def test_a_ratio_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no repeats"):
        scaling.ratio_of([])


def test_an_efficiency_is_the_ratio_with_its_spread_over_the_ranks():
    efficiency = scaling.ratio_of([*range(1, 16)]).divided_by(2)
    assert (efficiency.ci_low, efficiency.median, efficiency.ci_high) == (2, 4, 6)
    assert efficiency.num_repeats == 15
    columns = efficiency.columns("efficiency")
    assert list(columns) == ["efficiency", "low", "high", "ci_low", "ci_high", "num_repeats"]


def test_the_band_reaches_as_far_on_both_sides_as_the_interval_of_the_control():
    noise = scaling.band(scaling.ratio_of([0.8, 0.9, 1.0, 1.0, 1.0, 1.1]))
    assert (noise.low, noise.high) == pytest.approx((0.8, 1.25))


@pytest.mark.parametrize(
    ("values", "who"),
    [
        ([1.3] * 6, AHEAD),
        ([0.7] * 6, BEHIND),
        ([1.2] * 6, TIE),
        ([1.2, 1.3, 1.3, 1.3, 1.3, 1.3], TIE),
        ([1.3] * 5, UNDECIDED),
    ],
)
def test_a_winner_is_named_only_outside_the_band_of_the_control(values, who):
    control = scaling.ratio_of([0.8, 0.9, 1.0, 1.0, 1.0, 1.1])
    assert scaling.verdict(scaling.ratio_of(values), control) == who


def test_a_control_of_too_few_repeats_decides_nothing():
    assert scaling.verdict(scaling.ratio_of([9.0] * 6), scaling.ratio_of([1.0] * 5)) == UNDECIDED


@given(REPEATS)
def test_a_control_is_a_tie_with_itself(values):
    control = scaling.ratio_of(values)
    assert scaling.verdict(control, control) == TIE


@given(REPEATS)
def test_the_ends_of_an_interval_are_repeats_around_the_median(values):
    ratio = scaling.ratio_of(values)
    assert {ratio.ci_low, ratio.ci_high} <= set(values)
    assert ratio.ci_low <= ratio.median <= ratio.ci_high


@given(REPEATS, REPEATS)
def test_who_is_ahead_does_not_depend_on_which_of_the_two_is_the_base(values, noise):
    control = scaling.ratio_of(noise)
    there = scaling.verdict(scaling.ratio_of(values), control)
    back = scaling.verdict(scaling.ratio_of(1 / np.array(values)), control)
    opposite = {AHEAD: BEHIND, BEHIND: AHEAD, TIE: TIE}
    at_an_edge = np.isclose(
        [scaling.ratio_of(values).ci_low, scaling.ratio_of(values).ci_high],
        [scaling.band(control).high, scaling.band(control).low],
    ).any()
    assert at_an_edge or back == opposite[there]


@given(REPEATS, st.integers(-3, 3))
def test_an_interval_scales_with_its_values(values, power):
    ratio = scaling.ratio_of(values)
    scaled = scaling.ratio_of(np.array(values) * 2.0**power)
    assert (scaled.ci_low, scaled.ci_high) == (
        ratio.ci_low * 2.0**power,
        ratio.ci_high * 2.0**power,
    )
