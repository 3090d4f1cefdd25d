"""The noise scale from gradients that are drawn so that the truth is known."""

import numpy as np
import pandas as pd
import pytest

from nnpar_lib.analysis.regimes.noise_scale import noise_and_signal, noise_scale


def drawn(*, num_examples=400, small=50, ranks=4, num_steps=3000, signal=0.05, seed=0):
    """Draw batches without replacement from a finite set of gradients; return their norms and the
    truth."""
    generator = np.random.default_rng(seed)
    gradients = generator.normal(signal, 1, (num_examples, 20))
    rows = []
    for step in range(num_steps):
        parts = (
            gradients[generator.permutation(num_examples)[: small * ranks]]
            .reshape(ranks, small, -1)
            .mean(axis=1)
        )
        rows.append(
            {
                "step": step,
                "small_square_norm": np.square(parts).sum(axis=1).mean(),
                "big_square_norm": np.square(parts.mean(axis=0)).sum(),
                "small_batch_size": small,
                "big_batch_size": small * ranks,
                "num_examples": num_examples,
            }
        )
    true_noise = gradients.var(axis=0, ddof=1).sum()
    return pd.DataFrame(rows), true_noise, np.square(gradients.mean(axis=0)).sum()


def test_noise_and_signal_are_unbiased_although_half_of_a_finite_set_is_drawn():
    norms, true_noise, true_signal = drawn()
    noise, signal = noise_and_signal(norms)
    for found, true in ((noise, true_noise), (signal, true_signal)):
        error = found.std() / np.sqrt(len(found))
        assert abs(found.mean() - true) < 4 * error
    assert (
        signal.std() / np.sqrt(len(signal)) < 0.1 * true_noise / 400
    )  # fine enough to see the correction


def test_the_ratio_is_that_of_the_means_with_an_interval_around_it():
    norms, true_noise, true_signal = drawn(signal=0.3)
    table = noise_scale(norms, num_windows=3)
    assert table["num_measured"].tolist() == [1000] * 3
    assert (table["low"] < table["noise_scale"]).all() and (
        table["noise_scale"] < table["high"]
    ).all()
    assert table["noise_scale"].mean() == pytest.approx(true_noise / true_signal, rel=0.03)
    assert table["step"].is_monotonic_increasing


def test_where_noise_hides_the_signal_the_scale_is_infinite():
    norms = pd.DataFrame(
        [
            {
                "step": 0,
                "small_square_norm": 2.0,
                "big_square_norm": 0.5,
                "small_batch_size": 10,
                "big_batch_size": 20,
                "num_examples": 1e12,
            }
        ]
    )
    assert noise_scale(norms)["noise_scale"].tolist() == [np.inf]
