"""Steps to a goal against the batch size: estimates, fits, and where perfect scaling ends."""

from nnpar_lib.analysis.regimes.definitions import (
    DIMINISHING,
    MAXIMAL,
    MAXIMAL_SLOPE,
    PERFECT,
    PERFECT_SLOPE,
    UNDETERMINED,
    Interval,
    doubling,
    in_words,
    regime,
)
from nnpar_lib.analysis.regimes.steps_to_goal import (
    Resamples,
    compare,
    estimates,
    fits,
    hardest_goal,
    interval,
    local_slopes,
    resample,
    steps_ratio,
    study,
)

__all__ = [
    "DIMINISHING",
    "MAXIMAL",
    "MAXIMAL_SLOPE",
    "PERFECT",
    "PERFECT_SLOPE",
    "UNDETERMINED",
    "Interval",
    "Resamples",
    "compare",
    "doubling",
    "estimates",
    "fits",
    "hardest_goal",
    "in_words",
    "interval",
    "local_slopes",
    "regime",
    "resample",
    "steps_ratio",
    "study",
]
