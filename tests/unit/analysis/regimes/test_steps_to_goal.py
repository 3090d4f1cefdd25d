"""Scaling regimes from synthetic measurements whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest

from nnpar_lib.analysis import regimes
from nnpar_lib.analysis.regimes import definitions, steps_model, time_to_goal

SIZES = [2**k for k in range(2, 14)]  # 4 to 8192
B_CRIT, S_MIN = 180.0, 150.0


def steps_at(sizes, q=1.0):
    return S_MIN * (1 + (B_CRIT / np.asarray(sizes, dtype=float)) ** q) ** (1 / q)


def measured(sizes=tuple(SIZES), *, noise=0.1, num_seeds=10, seed=0, q=1.0, steps=None):
    """Return a frame of runs with seed noise in the logarithm."""
    generator = np.random.default_rng(seed)
    true = steps_at(sizes, q) if steps is None else steps
    return pd.DataFrame(
        [
            {"batch_size": size, "steps": value * math.exp(noise * generator.normal()), "seed": k}
            for size, value in zip(sizes, true, strict=True)
            for k in range(num_seeds)
        ]
    )


def true_regime(size):
    slope = -1 / (1 + size / B_CRIT)
    far = min(abs(slope + 0.8), abs(slope + 0.2)) > 0.1
    return far, regimes.regime(regimes.Interval(slope, slope, slope))


@pytest.fixture(scope="module")
def studies():
    return [measured(seed=seed) for seed in range(200)]


def test_without_noise_the_parameters_come_back_whatever_the_sharpness():
    for q in (1.0, 2.0):
        curve = steps_model.fit(SIZES, steps_at(SIZES, q), "hyperbola" if q == 1 else "sharp")
        assert curve.b_crit[0] == pytest.approx(B_CRIT, rel=0.01)
        assert curve.e_min[0] == pytest.approx(B_CRIT * S_MIN, rel=0.01)
        assert curve.q[0] == pytest.approx(q, rel=0.06)


@pytest.mark.slow
def test_the_interval_of_b_crit_covers_the_truth_as_often_as_it_says(studies):
    covered = []
    for runs in studies:
        samples = regimes.resample(runs, 400)
        span = regimes.interval(0, steps_model.fit(SIZES, samples.resampled).b_crit)
        covered.append(span.low <= B_CRIT <= span.high)
    assert 0.90 <= np.mean(covered) <= 0.99


@pytest.mark.slow
def test_labels_are_right_where_the_slope_is_far_from_a_threshold(studies):
    labels = {size: [] for size in SIZES}
    for runs in studies[:60]:
        for row in regimes.study(runs).itertuples():
            labels[row.batch_size].append(row.regime)
    for size in SIZES:
        far, expected = true_regime(size)
        wrong = [label for label in labels[size] if label not in (expected, regimes.UNDETERMINED)]
        if far:
            assert len(wrong) <= 1, (size, expected, labels[size])
            assert labels[size].count(expected) >= 0.9 * len(labels[size]), (
                size,
                expected,
                labels[size],
            )


def test_three_batch_sizes_are_undetermined():
    runs = measured(SIZES[::5])
    assert set(regimes.study(runs)["regime"]) == {regimes.UNDETERMINED}
    assert regimes.fits(runs)["status"].tolist() == [regimes.UNDETERMINED]


@pytest.mark.slow
def test_pure_noise_is_undetermined():
    labels, found = [], []
    for seed in range(8):
        runs = measured(steps=np.full(len(SIZES), 300.0), noise=1.0, seed=seed, num_seeds=5)
        labels += regimes.study(runs)["regime"].tolist()
        found += regimes.fits(runs).query("preferred")["status"].tolist()
    assert labels.count(regimes.UNDETERMINED) >= 0.95 * len(labels)
    assert found.count(regimes.UNDETERMINED) >= 0.95 * len(found)


@pytest.mark.slow
def test_one_family_is_read_and_holds_the_hyperbola_which_aicc_tells_apart():
    for q, form in ((1.0, "hyperbola"), (2.5, "sharp")):
        tables = [regimes.fits(measured(q=q, noise=0.03, seed=seed)) for seed in range(4)]
        better = [table.loc[table["aicc"].idxmin(), "form"] for table in tables]
        assert better.count(form) >= 3
        read = pd.concat(tables).query("preferred")
        assert set(read["form"]) == {steps_model.FAMILY}
        assert ((read["q_low"] <= q) & (q <= read["q_high"])).sum() >= 3
        assert ((read["b_crit_low"] <= B_CRIT) & (read["b_crit_high"] >= B_CRIT)).sum() >= 3


def test_five_batch_sizes_are_read_from_the_same_family_as_twelve():
    sizes = (SIZES, SIZES[::2], [4, 16, 64, 256, 2048])
    tables = [regimes.fits(measured(chosen, noise=0.1)) for chosen in sizes]
    read = pd.concat(tables).query("preferred")
    assert read["num_batch_sizes"].tolist() == [12, 6, 5] and read["form"].nunique() == 1
    assert tables[2]["aicc"].max() == math.inf, "five points do not tell how sharp the bend is"
    widths = (read["q_high"] - read["q_low"]).tolist()
    assert widths[2] > widths[0]


def test_regimes_end_where_the_slope_passes_its_thresholds():
    row = regimes.fits(measured(noise=0.01)).query("form == 'hyperbola'").iloc[0]
    assert row["ends_perfect"] == pytest.approx(B_CRIT / 4, rel=0.05)
    assert row["begins_maximal"] == pytest.approx(4 * B_CRIT, rel=0.05)
    assert row["overhead_20"] == pytest.approx(0.2 * B_CRIT, rel=0.05)
    assert row["ends_perfect_low"] <= row["ends_perfect"] <= row["ends_perfect_high"]


def test_a_goal_that_the_median_run_does_not_reach_is_said_to_be_so_and_left_out_of_the_fit():
    runs = measured()
    runs.loc[(runs["batch_size"] == 8192) & (runs["seed"] < 6), "steps"] = np.nan
    table = regimes.study(runs).set_index("batch_size")
    assert table.loc[8192, "status"] == "not reached" and math.isnan(
        table.loc[8192, "median_steps"]
    )
    assert table.loc[8192, "num_reached"] == 4 and table.loc[8192, "regime"] == regimes.UNDETERMINED
    assert set(regimes.fits(runs)["num_batch_sizes"]) == {11}


def test_runs_that_were_stopped_count_as_slower_than_all_others():
    runs = pd.DataFrame({"batch_size": [8] * 5, "steps": [10.0, 12.0, 14.0, np.nan, np.nan]})
    assert regimes.resample(runs).medians.tolist() == [14.0]


def test_estimates_come_from_fresh_seeds_and_the_best_of_n_from_the_search():
    fresh = measured().assign(stage="estimate")
    search = measured(num_seeds=20, seed=1).assign(stage="search")
    both = regimes.study(pd.concat([fresh, search]))
    assert (
        both["median_steps"].tolist()
        == regimes.study(fresh.drop(columns="stage"))["median_steps"].tolist()
    )
    assert both["best_of_n"].tolist() == search.groupby("batch_size")["steps"].min().tolist()
    assert both["winners_curse"].min() > 1


def test_doublings_halve_at_first_and_gain_nothing_in_the_end():
    table = time_to_goal.doublings(measured(noise=0.03)).set_index("batch_size")
    assert (
        table["verdict"].iloc[0] == definitions.HALVES
        and table["verdict"].iloc[-1] == definitions.NO_GAIN
    )
    assert table.loc[256, "verdict"] == definitions.LESS
    assert table.loc[4, "ratio"] == pytest.approx(0.51, abs=0.03)


def step_seconds(repeats=5):
    return pd.DataFrame(
        [
            {
                "num_ranks": p,
                "batch_size": size,
                "seconds": (1e-3 + 1e-5 * size / p) * (1 + 0.01 * k),
            }
            for p in (1, 2)
            for size in SIZES
            for k in range(repeats)
        ]
    )


def test_time_to_goal_is_least_where_theory_has_it():
    table = time_to_goal.time_to_goal(measured(noise=0.01, num_seeds=30), step_seconds())
    best = table[table["is_optimal"]].set_index("num_ranks")["batch_size"]
    predicted = time_to_goal.optimal_batch_size(B_CRIT, 1e-3, 1e-5)
    assert best[1] in (128, predicted) and best[2] > best[1]
    assert predicted == pytest.approx(134, abs=1)
    assert (table["low"] <= table["seconds"]).all() and (table["seconds"] <= table["high"]).all()


def test_doublings_of_time_know_the_price_of_a_step():
    table = time_to_goal.doublings(measured(noise=0.01), step_seconds())
    seconds = table[(table["quantity"] == "seconds") & (table["num_ranks"] == 1)].set_index(
        "batch_size"
    )
    assert seconds.loc[4, "verdict"] == definitions.HALVES
    assert seconds.loc[4096, "ratio"] == pytest.approx(
        2, rel=0.05
    )  # a step takes twice as long, and saves none


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.57, definitions.HALVES),
        (0.5, 0.58, definitions.UNDETERMINED),
        (0.6, 0.86, definitions.LESS),
        (0.6, 0.88, definitions.UNDETERMINED),
        (0.88, 1.2, definitions.NO_GAIN),
        (1.01, 1.2, definitions.LONGER),
        (math.nan, math.nan, definitions.UNDETERMINED),
    ],
)
def test_a_doubling_gets_the_word_that_its_whole_interval_bears_out(low, high, verdict):
    assert definitions.doubling(regimes.Interval(0.7, low, high)) == verdict


def test_a_doubling_halves_where_scaling_is_perfect_and_gains_nothing_where_it_is_maximal():
    for slope in np.arange(-0.985, -0.01, 0.01):  # at no threshold
        span = regimes.Interval(slope, slope, slope)
        halves = definitions.doubling(regimes.Interval(*[2**slope] * 3)) == definitions.HALVES
        assert halves == (definitions.regime(span) == definitions.PERFECT)
        gains = definitions.doubling(regimes.Interval(*[2**slope] * 3)) != definitions.NO_GAIN
        assert gains == (definitions.regime(span) != definitions.MAXIMAL)


def test_the_critical_batch_size_is_where_the_slope_is_a_half_however_sharp_the_bend():
    for q in (0.7, 1.0, 2.5):
        curve = steps_model.fit(SIZES, steps_at(SIZES, q), "sharp")
        assert curve.slopes(curve.b_crit)[0, 0] == pytest.approx(definitions.CRITICAL_SLOPE)
        assert curve.e_min[0] / curve.s_min[0] == pytest.approx(curve.b_crit[0])


def test_the_words_of_the_definitions_have_the_numbers_that_are_used():
    words = definitions.in_words()
    assert "at least 1.74" in words["halves"] and "at most 15 % more" in words["halves"]
    assert "below -0.8" in words["perfect scaling"] and "more than 0.87" in words["no gain"]
    assert "-0.5" in words["critical batch size"]


def test_verdicts_are_counted_in_steps_and_in_seconds_on_each_number_of_ranks():
    doublings = time_to_goal.doublings(measured(noise=0.01), step_seconds())
    table = time_to_goal.verdicts(doublings).set_index(["quantity", "num_ranks"])
    assert table.index.tolist() == [("steps", 0), ("seconds", 1), ("seconds", 2)]
    assert (table[list(time_to_goal.VERDICTS)].sum(axis=1) == table["num_doublings"]).all()
    steps = table.loc[("steps", 0)]
    assert 32 <= steps["halves_to"] <= 64 and steps["no_gain_from"] >= 512
    assert table.loc[("seconds", 1), definitions.LONGER] >= 4
    assert table.loc[("seconds", 1), "no_gain_from"] <= table.loc[("seconds", 2), "no_gain_from"]


def test_what_may_still_gain_has_no_batch_size_from_which_nothing_does():
    table = time_to_goal.verdicts(time_to_goal.doublings(measured(SIZES[:6], noise=0.01)))
    assert math.isnan(table["no_gain_from"].iloc[0]) and table["halves"].iloc[0] >= 2


def test_ranks_scale_as_amdahl_says():
    fraction = time_to_goal.serial_fraction(B_CRIT, 32)
    for p in (1, 2, 8):
        assert steps_at(32) / steps_at(32 * p) == pytest.approx(1 / (fraction + (1 - fraction) / p))


def test_two_fits_predict_the_seconds_and_the_best_batch():
    table = time_to_goal.predicted(measured(noise=0.001, num_seeds=30), step_seconds(repeats=1))
    assert set(table["num_ranks"]) == {1, 2}
    for p, rows in table.groupby("num_ranks"):
        assert rows["optimal"].iloc[0] == pytest.approx(
            math.sqrt(B_CRIT * 1e-3 / (1e-5 / p)), rel=0.03
        )
        expected = steps_at(rows["batch_size"]) * (1e-3 + 1e-5 * rows["batch_size"] / p)
        assert rows["seconds"].to_numpy() == pytest.approx(expected.to_numpy(), rel=0.02)


def test_measured_steps_of_more_ranks_stand_beside_amdahl():
    table = time_to_goal.amdahl(measured(noise=0.01, num_seeds=30), 32)
    assert table["num_ranks"].tolist() == [2**k for k in range(9)]
    assert table["measured"].to_numpy() == pytest.approx(table["hyperbola"].to_numpy(), rel=0.05)
    assert ((table["low"] <= table["measured"]) & (table["measured"] <= table["high"])).all()


def test_one_goal_is_predicted_at_a_time():
    runs = pd.concat([measured().assign(goal_error=goal) for goal in (0.05, 0.1)])
    with pytest.raises(ValueError, match="runs of one goal"):
        time_to_goal.predicted(runs, step_seconds())


def test_studies_are_compared_by_their_preferred_fits():
    table = regimes.compare({"one": measured(noise=0.02), "other": measured(noise=0.02, q=2.5)})
    assert table["study"].tolist() == ["one", "other"] and table["preferred"].all()


def test_the_steps_of_two_studies_are_divided_where_both_reached_their_goal():
    faster = measured(steps=steps_at(SIZES) / 2, seed=1)
    faster.loc[faster["batch_size"] == 8192, "steps"] = np.nan
    table = regimes.steps_ratio(measured(), faster)
    assert table["batch_size"].tolist() == SIZES[:-1]
    covered = (table["low"] <= 0.5) & (table["high"] >= 0.5)
    assert covered.sum() >= 9 and table["ratio"].median() == pytest.approx(0.5, rel=0.05)


def test_each_goal_has_rows_of_its_own():
    runs = pd.concat([measured().assign(goal_error=goal) for goal in (0.05, 0.1)])
    assert regimes.study(runs)["goal_error"].tolist() == [0.1] * 12 + [0.05] * 12
    assert regimes.fits(runs).groupby("goal_error").size().tolist() == [2, 2]


def test_a_frame_without_steps_is_refused_by_name():
    with pytest.raises(ValueError, match="no column 'steps'; it has batch_size, seed"):
        regimes.study(measured().drop(columns="steps"))


@pytest.mark.parametrize(
    ("steps", "form", "words"),
    [
        ([1, 2], "hyperbola", "at least 3"),
        ([1, 2, math.nan], "hyperbola", "not reached"),
        ([1, 2, 3], "cubic", "sharp"),
    ],
)
def test_a_fit_of_too_little_is_refused(steps, form, words):
    with pytest.raises(ValueError, match=words):
        steps_model.fit([4, 8, 16][: len(steps)], steps, form)


def test_resamples_of_steps_and_of_their_seconds_are_independent():
    runs = pd.DataFrame({"batch_size": 64, "steps": np.arange(10.0, 20.0)})
    step_seconds = pd.DataFrame({"batch_size": 64, "seconds": np.arange(1.0, 11.0)})
    steps = regimes.resample(runs)
    seconds = time_to_goal.in_seconds(steps, step_seconds).resampled / steps.resampled
    assert abs(np.corrcoef(steps.resampled[:, 0], seconds[:, 0])[0, 1]) < 0.1
