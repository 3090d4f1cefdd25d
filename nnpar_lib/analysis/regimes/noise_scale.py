"""The gradient noise scale from norms before and after an all-reduce (McCandlish et al. 2018,
appendix A.1).

A frame of norms has one row per step, as `nnpar_lib.trainers.tasks.gradient_noise.gradient_norms`
measures them: `step`, `small_square_norm` and `small_batch_size` of a rank's mean gradient,
`big_square_norm` and `big_batch_size` of all ranks' together, and `num_examples` of the training
set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[np.float64]
NUM_RESAMPLES = 1000


def noise_and_signal(norms: pd.DataFrame) -> tuple[Array, Array]:
    """Return unbiased estimates of tr(Sigma), the noise of one example, and of |G|^2, the signal.

    The batches of an epoch are drawn without replacement from N examples: the variance of the mean
    of B of them is tr(Sigma) (1/B - 1/N). The difference of two such norms does not depend on N;
    the signal does.
    """
    small, big = (norms[f"{size}_square_norm"].to_numpy(dtype=float) for size in ("small", "big"))
    num_small, num_big = (
        norms[f"{size}_batch_size"].to_numpy(dtype=float) for size in ("small", "big")
    )
    noise = (small - big) / (1 / num_small - 1 / num_big)
    signal = big - noise * (1 / num_big - 1 / norms["num_examples"].to_numpy(dtype=float))
    return noise, signal


def noise_scale(norms: pd.DataFrame, num_windows: int = 8) -> pd.DataFrame:
    """Return B_simple = tr(Sigma) / |G|^2 along training, one row per window of measurements.

    Columns: the median `step` of a window, `noise_scale` in examples with its 95 % interval `low`,
    `high`, and the number of measurements. Noise and signal are averaged over the window and then
    divided: a mean of ratios is biased, and a single signal may be negative. The value is infinite
    where the mean signal is not positive.
    """
    noise, signal = noise_and_signal(norms)
    generator = np.random.default_rng(0)
    rows = []
    for part in np.array_split(np.argsort(norms["step"].to_numpy(), kind="stable"), num_windows):
        if len(part):
            picks = part[generator.integers(len(part), size=(NUM_RESAMPLES, len(part)))]
            low, high = np.quantile(
                _ratio(noise[picks].mean(axis=1), signal[picks].mean(axis=1)),
                [0.025, 0.975],
                method="nearest",
            )
            rows.append(
                {
                    "step": float(norms["step"].iloc[part].median()),
                    "low": low,
                    "high": high,
                    "noise_scale": _ratio(noise[part].mean(), signal[part].mean()),
                    "num_measured": len(part),
                }
            )
    return pd.DataFrame(rows).astype({"noise_scale": float})


def _ratio(noise: npt.ArrayLike, signal: npt.ArrayLike) -> Array:
    signal = np.asarray(signal)
    return np.asarray(np.where(signal > 0, noise / np.where(signal > 0, signal, 1), np.inf))
