"""Speedups and accuracies of the ways to compute the same steps."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nnpar_lib.analysis.scaling.speedups import paired_ratio


def speedups(frame: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return samples a second over those of the label `base`, one row per model and label.

    The ratio has its median, quartiles and, from 6 repeats on, a 95 % interval.
    """
    rows: list[dict[str, Any]] = []
    for model, runs in frame.groupby("model", sort=False):
        for label in runs["label"].unique():
            ratio = paired_ratio(runs, {"label": base}, {"label": label})
            rate = runs[runs["label"] == label]["samples_per_second"].median()
            rows.append(
                {
                    "model": model,
                    "label": label,
                    "samples_per_second": rate,
                    **ratio.columns("speedup"),
                }
            )
    return pd.DataFrame(rows)


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the test accuracy over seeds, one row per training and precision.

    A training is a model, processor, ranks, epochs and batch. Convolutions as matrix products count
    as a precision of their own, such as "bf16, im2col". Columns: `num_seeds`, the mean `accuracy`,
    `low` and `high` of the seeds, and `lost`: how much lower the mean is than in float32 over
    common seeds, NaN if there are none.
    """
    training = ["model", "cpu", "num_ranks", "num_epochs", "global_batch_size"]
    rows: list[dict[str, Any]] = []
    if "provenance" in frame:
        frame = frame.assign(cpu=[origin["cpu"] for origin in frame["provenance"]])
    if "convolution" in frame:
        products = frame["convolution"] == "im2col"
        frame = frame.assign(
            precision=frame["precision"].mask(products, frame["precision"] + ", im2col")
        )
    for keys, runs in frame.groupby(training) if len(frame) else ():
        by_seed = runs.pivot_table(
            index="seed", columns="precision", values="final_test_accuracy", aggfunc="last"
        )
        for precision in sorted(runs["precision"].unique(), reverse=True):  # float32 first
            values = by_seed[precision].dropna()
            lost = (
                (by_seed["float32"] - by_seed[precision]).mean()
                if "float32" in by_seed
                else float("nan")
            )
            rows.append(
                {
                    **dict(zip(training, keys, strict=True)),
                    "precision": precision,
                    "num_seeds": len(values),
                    "accuracy": values.mean(),
                    "low": values.min(),
                    "high": values.max(),
                    "lost": lost,
                }
            )
    return pd.DataFrame(
        rows, columns=[*training, "precision", "num_seeds", "accuracy", "low", "high", "lost"]
    )
