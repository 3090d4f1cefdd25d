"""What the figures of scaling regimes show, read back from their axes."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nnpar_lib.analysis import regimes
from nnpar_lib.analysis.figures import regime_plots, theme
from nnpar_lib.analysis.regimes import time_to_goal
from tests.unit.analysis.regimes.test_steps_to_goal import B_CRIT, SIZES, measured, step_seconds

mpl.use("Agg")


@pytest.fixture(autouse=True)
def themed():
    with mpl.rc_context():
        theme.theme()
        yield
    plt.close("all")


def study_runs():
    fresh = measured(noise=0.05).assign(stage="estimate")
    search = measured(noise=0.05, num_seeds=20, seed=1).assign(stage="search")
    return pd.concat(
        [part.assign(goal_error=goal) for part in (fresh, search) for goal in (0.1, 0.05)]
    )


def texts(ax):
    return " | ".join(text.get_text().replace("\n", " ") for text in ax.texts)


def test_the_three_regimes_are_shaded_and_named_where_the_fit_has_them():
    ax = regime_plots.three_regimes(study_runs())
    for name in regime_plots.REGIME_SHADES:
        assert name in texts(ax)
    borders = sorted(patch.get_x() for patch in ax.patches)[1:]
    assert borders == pytest.approx([B_CRIT / 4, 4 * B_CRIT], rel=0.5)
    assert ax.get_ylabel() == "steps to 5 % validation error"


def test_a_regime_that_no_slope_shows_is_left_white_with_a_question_mark():
    runs = study_runs()
    ax = regime_plots.three_regimes(runs[runs["batch_size"] >= 64])
    assert "perfect scaling?" in texts(ax) or "perfect scaling |" not in texts(ax)
    ax = regime_plots.three_regimes(runs[runs["batch_size"].between(32, 1024)])
    assert "maximal data parallelism?" in texts(ax)


def test_no_regime_is_shaded_where_none_is_determined():
    noise = measured(steps=np.full(len(SIZES), 300.0), noise=1.0, num_seeds=4)
    ax = regime_plots.three_regimes(noise)
    assert regimes.fits(noise).query("preferred")["status"].tolist() == [regimes.UNDETERMINED]
    assert not ax.patches and "perfect scaling |" not in texts(ax)


def test_perfect_scaling_is_a_dashed_line_that_halves_with_each_doubling():
    ax = regime_plots.three_regimes(study_runs())
    dashed = next(line for line in ax.lines if line.get_linestyle() == "--")
    x, y = dashed.get_data()
    assert np.diff(np.log(y)) / np.diff(np.log(x)) == pytest.approx(-1)


def test_a_goal_that_was_not_measured_is_refused():
    with pytest.raises(ValueError, match=r"goal_error=0.2 was not measured; choose from 0.05, 0.1"):
        regime_plots.three_regimes(study_runs(), goal_error=0.2)


def test_each_goal_is_a_line_with_its_name():
    assert {"10 % error", "5 % error"} <= set(texts(regime_plots.goals(study_runs())).split(" | "))


def test_the_fastest_batch_size_of_each_number_of_ranks_has_a_ring():
    table = time_to_goal.time_to_goal(measured(noise=0.02), step_seconds())
    ax = regime_plots.time_to_goal(table)
    rings = {float(line.get_xdata()[0]) for line in ax.lines if line.get_markersize() == 15}
    assert rings == set(table[table["is_optimal"]]["batch_size"].astype(float))
    assert "1 rank" in texts(ax) and "2 ranks" in texts(ax)


def test_the_noise_scale_stands_beside_the_critical_batch_size():
    table = pd.DataFrame(
        {
            "step": [1.0, 10.0, 100.0],
            "noise_scale": [20.0, 90.0, 300.0],
            "low": [15.0, 70.0, 200.0],
            "high": [30.0, 120.0, np.inf],
        }
    )
    ax = regime_plots.noise_scale(table, regimes.Interval(180, 150, 220))
    assert "gradient noise scale" in texts(ax) and "critical batch size" in texts(ax)


def test_time_to_goal_shows_what_was_predicted_and_what_runs_took():
    runs, seconds = measured(noise=0.01), step_seconds()
    table = time_to_goal.time_to_goal(runs, seconds)
    whole = table[table["batch_size"] == 64]
    ax = regime_plots.time_to_goal(table, time_to_goal.predicted(runs, seconds), whole)
    drawn = [line.get_linestyle() for line in ax.lines]
    assert drawn.count(":") == 2
    crosses = [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "x"]
    assert crosses == [[64], [64]]


def test_local_sgd_shows_samples_and_exchanges_against_the_interval():
    table = pd.DataFrame(
        {
            "average_every": [1, 4, 16],
            "samples_ratio": [1, 1.1, 1.4],
            "samples_low": [1, 1, 1.2],
            "samples_high": [1, 1.2, 1.6],
            "exchanges_ratio": [1, 0.28, 0.09],
        }
    )
    ax = regime_plots.local_sgd(table)
    assert "samples" in texts(ax) and "exchanges of weights" in texts(ax)
    assert any(
        line.get_ydata().tolist() == [1, 0.28, 0.09]
        for line in ax.lines
        if len(line.get_ydata()) == 3
    )
