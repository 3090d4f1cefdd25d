"""Speedups, efficiencies and where the time of a step goes."""

from nnpar_lib.analysis.scaling.ratio import (
    Ratio,
    spread_columns,
)
from nnpar_lib.analysis.scaling.speedups import (
    AlphaBeta,
    accuracy,
    amdahl_speedup,
    bandwidth,
    configurations_of,
    fit_alpha_beta,
    karp_flatt,
    keys,
    paired_ratio,
    parallel_efficiency,
    runs_of,
    seconds_per_epoch,
    strong_scaling,
    summarize,
    time_split,
    weak_scaling,
)

__all__ = [
    "AlphaBeta",
    "Ratio",
    "accuracy",
    "amdahl_speedup",
    "bandwidth",
    "configurations_of",
    "fit_alpha_beta",
    "karp_flatt",
    "keys",
    "paired_ratio",
    "parallel_efficiency",
    "runs_of",
    "seconds_per_epoch",
    "spread_columns",
    "strong_scaling",
    "summarize",
    "time_split",
    "weak_scaling",
]
