"""Steps to a goal against the batch size: estimates, fits, and where perfect scaling ends."""

from nnpar_lib.analysis.regimes.steps_to_goal import (
    DIMINISHING,
    MAXIMAL,
    PERFECT,
    UNDETERMINED,
    Interval,
    Resamples,
    compare,
    estimates,
    fits,
    hardest_goal,
    interval,
    local_slopes,
    regime,
    resample,
    steps_ratio,
    study,
)

__all__ = [
    "DIMINISHING",
    "MAXIMAL",
    "PERFECT",
    "UNDETERMINED",
    "Interval",
    "Resamples",
    "compare",
    "estimates",
    "fits",
    "hardest_goal",
    "interval",
    "local_slopes",
    "regime",
    "resample",
    "steps_ratio",
    "study",
]
