"""Curves of steps to a goal against the batch size, fitted in log space to many resamples.

S^q = S_min^q + (E_min / B)^q, where E_min = S_min B_crit are the examples that tiny batches need.
With q = 1 it is S = S_min (1 + B_crit / B), the hyperbola of McCandlish et al. (2018); a larger q
makes the bend between the two asymptotes sharper. B_crit is where they meet, whatever q.

All studies are read from this one family, with q fitted at each goal ("sharp"). The hyperbola alone
is fitted beside it, to be compared: where a study has enough batch sizes to tell, it bends less
sharply than the steps do, and has perfect scaling end too early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MIN_BATCH_SIZES = 5  # fewer do not tell a bend from noise
NUM_NEWTON_STEPS = 6
SHARPNESSES = np.geomspace(0.5, 8.0, 33)  # values of q that are tried
FORMS = {"hyperbola": np.ones(1), "sharp": SHARPNESSES}
FAMILY = "sharp"  # the form that regimes are read from
NUM_PARAMETERS = {"hyperbola": 2, "sharp": 3}
RANGE_FACTOR = 64.0  # B_crit is looked for this far beyond the batch sizes that were measured


@dataclass(frozen=True)
class Curves:
    """Fitted curves, one for each resample: arrays [R] of S_min, B_crit (examples) and q, and the
    log residuals' RSS.

    B_crit lies at an end of the range that was searched where the steps do not bend: `low` and
    `high` are these ends.
    """

    s_min: Array
    b_crit: Array
    q: Array
    rss: Array
    low: float
    high: float

    @property
    def e_min(self) -> Array:
        """The examples that tiny batches need."""
        return self.s_min * self.b_crit

    def steps(self, batch_sizes: npt.ArrayLike) -> Array:
        """Return the steps at batch sizes [n], an array [R, n]."""
        x = np.log(np.atleast_1d(np.asarray(batch_sizes, dtype=float)))
        shape = _log_shape(np.log(self.b_crit)[:, None], self.q[:, None], x)
        return np.asarray(self.s_min[:, None] * np.exp(shape))

    def slopes(self, batch_sizes: npt.ArrayLike) -> Array:
        """Return d log S / d log B at batch sizes [n], an array [R, n] of values between -1 and
        0."""
        x = np.log(np.atleast_1d(np.asarray(batch_sizes, dtype=float)))
        return -_linear_share(np.log(self.b_crit)[:, None], self.q[:, None], x)

    def batch_size_at_slope(self, slope: float) -> Array:
        """Return the batch sizes [R] at which the slope is that: B_crit (1/|s| - 1)^(1/q)."""
        return np.asarray(self.b_crit * (1 / abs(slope) - 1) ** (1 / self.q))

    def batch_size_at_overhead(self, overhead: float) -> Array:
        """Return the batch sizes [R] that need (1 + overhead) times the examples of tiny
        batches."""
        return np.asarray(self.b_crit * ((1 + overhead) ** self.q - 1) ** (1 / self.q))


def fit(batch_sizes: npt.ArrayLike, steps: npt.ArrayLike, form: str = "hyperbola") -> Curves:
    """Fit a form to steps [R, n] (or [n]) at batch sizes [n], each row by itself, least squares of
    log S.

    The best of a grid of B_crit and q is refined by Newton's method in log B_crit; S_min follows
    from them.
    """
    x = np.log(np.asarray(batch_sizes, dtype=float))
    y = np.log(np.atleast_2d(np.asarray(steps, dtype=float)))
    _check(x, y, form)
    ends = x.min() - math.log(RANGE_FACTOR), x.max() + math.log(RANGE_FACTOR)
    best_rss = np.full(len(y), np.inf)
    knee = np.zeros(len(y))
    q = np.ones(len(y))
    for value in FORMS[form]:
        candidate, rss = _search_knee(x, y, value, ends)
        better = rss < best_rss
        knee = np.where(better, candidate, knee)
        q = np.where(better, value, q)
        best_rss = np.where(better, rss, best_rss)
    knee, rss = _refine_knee(x, y, q, knee, ends)
    level = (y - _log_shape(knee[:, None], q[:, None], x)).mean(axis=1)
    return Curves(np.exp(level), np.exp(knee), q, rss, math.exp(ends[0]), math.exp(ends[1]))


def aicc(rss: float, num_points: int, form: str) -> float:
    """Return Akaike's criterion, corrected for few points (Hurvich and Tsai 1989); infinite for too
    few."""
    k = NUM_PARAMETERS[form] + 1  # the variance of the residuals is estimated too
    if num_points <= k + 1:
        return math.inf
    return (
        num_points * math.log(max(rss, 1e-300) / num_points)
        + 2 * k
        + 2 * k * (k + 1) / (num_points - k - 1)
    )


def leave_one_out(batch_sizes: Sequence[float], steps: Sequence[float], form: str) -> float:
    """Return the root mean square of log S at each batch size, as predicted from the others."""
    x = np.asarray(batch_sizes, dtype=float)
    y = np.asarray(steps, dtype=float)
    errors = []
    for i in range(len(x)):
        kept = np.arange(len(x)) != i
        predicted = fit(x[kept], y[kept], form).steps(x[i])[0, 0]
        errors.append(math.log(predicted / y[i]))
    return float(np.sqrt(np.mean(np.square(errors))))


def _search_knee(x: Array, y: Array, q: float, ends: tuple[float, float]) -> tuple[Array, Array]:
    """Return the best log B_crit [R] of a grid for one q, and the RSS [R] at the bottom of a
    parabola through it."""
    grid = np.linspace(*ends, 161)
    shapes = _centred(_log_shape(grid[:, None], np.array(q), x))
    centred = _centred(y)
    rss = (centred**2).sum(axis=1)[:, None] - 2 * centred @ shapes.T + (shapes**2).sum(axis=1)
    best = np.clip(rss.argmin(axis=1), 1, len(grid) - 2)
    left, middle, right = (rss[np.arange(len(y)), best + shift] for shift in (-1, 0, 1))
    bend = np.maximum(left - 2 * middle + right, 1e-300)
    return grid[rss.argmin(axis=1)], np.minimum(
        rss.min(axis=1), middle - (left - right) ** 2 / (8 * bend)
    )


def _refine_knee(
    x: Array, y: Array, q: Array, knee: Array, ends: tuple[float, float]
) -> tuple[Array, Array]:
    """Return log B_crit [R] after some steps of Newton's method from the grid's, and the RSS
    [R]."""
    centred = _centred(y)
    best = _rss(knee, q, x, centred)
    for _ in range(NUM_NEWTON_STEPS):
        gradient = _centred(_linear_share(knee[:, None], q[:, None], x))
        residual = centred - _centred(_log_shape(knee[:, None], q[:, None], x))
        step = (gradient * residual).sum(axis=1) / np.maximum((gradient**2).sum(axis=1), 1e-12)
        tried = np.clip(knee + np.clip(step, -0.2, 0.2), *ends)
        new = _rss(tried, q, x, centred)
        knee = np.where(new < best, tried, knee)
        best = np.minimum(new, best)
    return knee, best


def _rss(knee: Array, q: Array, x: Array, centred: Array) -> Array:
    return np.asarray(
        ((centred - _centred(_log_shape(knee[:, None], q[:, None], x))) ** 2).sum(axis=1)
    )


def _log_shape(knee: Array, q: Array, x: Array) -> Array:
    """Return log(S / S_min) = log(1 + (B_crit / B)^q) / q."""
    return np.asarray(np.logaddexp(0, q * (knee - x)) / q)


def _linear_share(knee: Array, q: Array, x: Array) -> Array:
    """Return -d log S / d log B = 1 / (1 + (B / B_crit)^q), which is also d log S / d log
    B_crit."""
    return np.asarray(1 / (1 + np.exp(np.clip(q * (x - knee), -700, 700))))


def _centred(values: Array) -> Array:
    return np.asarray(values - values.mean(axis=-1, keepdims=True))


def _check(x: Array, y: Array, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; choose from {', '.join(FORMS)}")
    if x.ndim != 1 or y.shape[1] != len(x) or len(np.unique(x)) < 3:
        raise ValueError(
            f"{y.shape[1]} steps at {len(np.unique(x))} batch sizes do not fix a curve; give as"
            " many steps as batch sizes, at least 3 different ones"
        )
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise ValueError(
            "steps and batch sizes must be positive numbers; leave out goals that were not reached"
        )
