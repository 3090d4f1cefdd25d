"""Speedups, efficiencies and where the time of a step goes."""

from nnpar_lib.analysis.scaling.ratio import (
    Band,
    Ratio,
    band,
    ratio_of,
    spread_columns,
    verdict,
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
)
from nnpar_lib.analysis.scaling.weak import weak_scaling

__all__ = [
    "AlphaBeta",
    "Band",
    "Ratio",
    "accuracy",
    "amdahl_speedup",
    "band",
    "bandwidth",
    "configurations_of",
    "fit_alpha_beta",
    "karp_flatt",
    "keys",
    "paired_ratio",
    "parallel_efficiency",
    "ratio_of",
    "runs_of",
    "seconds_per_epoch",
    "spread_columns",
    "strong_scaling",
    "summarize",
    "time_split",
    "verdict",
    "weak_scaling",
]
