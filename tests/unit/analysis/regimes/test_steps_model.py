"""The curves of steps against the batch size, formula by formula."""

import math

import numpy as np
import pytest

from nnpar_lib.analysis.regimes import steps_model

SIZES = np.array([4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0])


def curves(q=2.0):
    arrays = [np.array([value, value]) for value in (150.0, 180.0, q, 0.0)]
    return steps_model.Curves(*arrays, low=1.0, high=1e6)


def noisy(q=1.0, seed=0, num_rows=4):
    generator = np.random.default_rng(seed)
    true = 150 * (1 + (180 / SIZES) ** q) ** (1 / q)
    return true * np.exp(0.1 * generator.normal(size=(num_rows, len(SIZES))))


@pytest.mark.parametrize("q", [0.5, 1.0, 3.0])
def test_steps_and_slopes_are_those_of_the_formula(q):
    formula = 150 * (1 + (180 / SIZES) ** q) ** (1 / q)
    assert curves(q).steps(SIZES) == pytest.approx(np.stack([formula, formula]))
    assert curves(q).steps(7).shape == (2, 1)
    assert curves(q).e_min.tolist() == [150 * 180] * 2
    share = (formula / 150) ** -q * (180 / SIZES) ** q
    assert curves(q).slopes(SIZES) == pytest.approx(np.stack([-share, -share]))
    assert curves(q).slopes(180).tolist() == [[pytest.approx(-0.5)]] * 2
    assert curves(q).slopes([1e-300, 1e300]).tolist() == [[pytest.approx(-1), pytest.approx(0)]] * 2


@pytest.mark.parametrize("q", [0.5, 1.0, 3.0])
def test_a_slope_or_an_overhead_is_met_at_its_batch_size(q):
    for slope in (-0.8, -0.2):
        size = curves(q).batch_size_at_slope(slope)
        assert curves(q).slopes(size)[0] == pytest.approx([slope] * 2)
    size = curves(q).batch_size_at_overhead(0.2)
    examples = curves(q).steps(size)[0] * size
    assert examples == pytest.approx(1.2 * curves(q).e_min)


def test_akaike_s_criterion_is_corrected_for_few_points():
    assert steps_model.aicc(0.5, 12, "hyperbola") == pytest.approx(
        12 * math.log(0.5 / 12) + 6 + 24 / 8
    )
    assert steps_model.aicc(0.5, 6, "sharp") == pytest.approx(6 * math.log(0.5 / 6) + 8 + 40 / 1)
    assert steps_model.aicc(0.5, 4, "hyperbola") == steps_model.aicc(0.5, 5, "sharp") == math.inf
    assert math.isfinite(steps_model.aicc(0.5, 5, "hyperbola"))
    assert steps_model.aicc(0.0, 8, "hyperbola") == pytest.approx(8 * math.log(1e-300 / 8) + 6 + 6)


@pytest.mark.parametrize("form", steps_model.FORMS)
def test_no_curve_nearby_fits_better(form):
    steps = noisy(q=1.6)
    fitted = steps_model.fit(SIZES, steps, form)

    def rss(s_min, b_crit, q):
        ratio = (b_crit[:, None] / SIZES) ** q[:, None]
        predicted = np.log(s_min)[:, None] + np.log1p(ratio) / q[:, None]
        return ((np.log(steps) - predicted) ** 2).sum(axis=1)

    least = rss(fitted.s_min, fitted.b_crit, fitted.q)
    assert fitted.rss == pytest.approx(least)
    for factor in (0.999, 1.001):
        assert (rss(fitted.s_min * factor, fitted.b_crit, fitted.q) > least).all()
        assert (rss(fitted.s_min, fitted.b_crit * factor, fitted.q) > least).all()
    for q in steps_model.FORMS[form]:
        given_q = [steps_model._search_knee(np.log(SIZES), np.log(steps), q, _ends(fitted))[1]]
        assert (least <= np.min(given_q, axis=0) + 1e-4).all()


def _ends(fitted):
    return math.log(fitted.low), math.log(fitted.high)


def test_the_range_of_b_crit_is_64_times_that_of_the_batch_sizes():
    fitted = steps_model.fit([4, 16, 64, 256], [1000, 1000, 1000, 1000])
    assert (fitted.low, fitted.high) == (pytest.approx(4 / 64), pytest.approx(256 * 64))
    assert fitted.b_crit[0] == pytest.approx(fitted.low)
    straight = steps_model.fit([4, 16, 64, 256], [6400, 1600, 400, 100])
    assert straight.b_crit[0] == pytest.approx(straight.high)


def test_the_grid_and_its_parabola_are_close_to_the_best_knee():
    x = np.log(SIZES)
    y = np.log(noisy())
    ends = x.min() - 4, x.max() + 4
    knee, rss = steps_model._search_knee(x, y, 1.0, ends)
    refined, least = steps_model._refine_knee(x, y, np.ones(len(y)), knee, ends)
    step = (ends[1] - ends[0]) / 160
    assert (np.abs(refined - knee) <= 0.51 * step).all()
    assert rss == pytest.approx(least, rel=1e-3)


def test_the_error_of_prediction_is_that_of_each_point_left_out():
    steps = noisy(num_rows=1)[0]
    errors = []
    for i in range(len(SIZES)):
        kept = np.delete(np.arange(len(SIZES)), i)
        predicted = steps_model.fit(SIZES[kept], steps[kept]).steps(SIZES[i])[0, 0]
        errors.append(math.log(predicted / steps[i]))
    expected = math.sqrt(sum(error**2 for error in errors) / len(errors))
    assert steps_model.leave_one_out(SIZES, steps, "hyperbola") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sizes", "steps", "words"),
    [
        ([4, 8, 16], [3, 2], "2 steps at 3 batch sizes do not fix a curve"),
        ([4, 8, 8], [3, 2, 1], "3 steps at 2 batch sizes"),
        ([[4, 8, 16]], [3, 2, 1], "3 steps at 3 batch sizes"),
        ([4, 8, math.nan], [3, 2, 1], "must be positive numbers"),
        ([4, 8, 16], [3, 2, math.inf], "leave out goals that were not reached"),
    ],
)
def test_what_fixes_no_curve_is_refused(sizes, steps, words):
    with pytest.raises(ValueError, match=words):
        steps_model.fit(sizes, steps)
