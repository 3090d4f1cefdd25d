"""The words that text, figures and tables share, with the thresholds that the analysis applies."""

from __future__ import annotations

import pandas as pd

from nnpar_lib.analysis.regimes import definitions
from nnpar_lib.analysis.scaling.ratio import MIN_REPEATS_OF_INTERVAL

OF_RATES = {
    "speedup": "the rate of p ranks over that of the best serial run with the same batch",
    "scaled efficiency": "the rate of p ranks, each with a batch of b, over p times that of a"
    " serial run with a batch of b: it compares runs with different batches",
    "efficiency at the same batch": "the rate of p ranks, each with a batch of b, over p times that"
    " of a serial run with a batch of pb",
    "winner": "named where the 95 % interval of a ratio, of at least"
    f" {MIN_REPEATS_OF_INTERVAL} repeats, lies outside of the control's",
}


def table() -> pd.DataFrame:
    """Return each term and its definition, one row a term."""
    terms = OF_RATES | definitions.in_words()
    return pd.DataFrame(terms.items(), columns=["term", "definition"])
