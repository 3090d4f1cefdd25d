"""The words that text, figures and tables share, with the thresholds that the analysis applies."""

from __future__ import annotations

import pandas as pd

from nnpar_lib.analysis.regimes.steps_to_goal import MAXIMAL_SLOPE, PERFECT_SLOPE
from nnpar_lib.analysis.scaling.ratio import MIN_REPEATS_OF_INTERVAL


def table() -> pd.DataFrame:
    """Return each term and its definition, one row a term."""
    halves = 2**PERFECT_SLOPE
    no_gain = 2**MAXIMAL_SLOPE
    terms = {
        "speedup": "rate of p ranks over the best serial rate at the same global batch",
        "scaled efficiency": "rate of p ranks with a batch of pB over p times the serial rate with"
        " a batch of B: it compares runs with different batches",
        "efficiency at the same batch": "rate of p ranks with a batch of pB over p times the serial"
        " rate with a batch of pB",
        "halves": f"a doubling of B whose ratio of steps (or seconds) has its whole 95 % interval"
        f" below {halves:.2f}, that is 2 to the power of {PERFECT_SLOPE}",
        "no gain": f"a doubling whose whole interval is above {no_gain:.2f}, 2 to the power of"
        f" {MAXIMAL_SLOPE}",
        "perfect scaling": f"batches at which the slope of steps over B, in logarithms, is below"
        f" {PERFECT_SLOPE} with its whole interval: there a doubling halves",
        "maximal data parallelism": f"batches at which that slope is above {MAXIMAL_SLOPE}: there a"
        " doubling gains nothing; between the two are diminishing returns",
        "critical batch size": "the batch at which the two asymptotes of the fitted curve cross:"
        " few examples are wasted below it, few steps saved above it",
        "winner": "named where the 95 % interval of a ratio, of at least"
        f" {MIN_REPEATS_OF_INTERVAL} repeats, lies outside of the control's",
    }
    return pd.DataFrame(terms.items(), columns=["term", "definition"])
