"""What the benchmarks say of PyTorch's own ways to do the same, as they come and tuned."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nnpar_lib.analysis.claims import benchmarks

COLUMNS = ["claim", "measured", "ci_low", "ci_high", "control_low", "control_high"]
COLUMNS += ["num_repeats", "verdict"]
PEERS = ("DDP", "torch's pipelining", "tutorial")
NOT_MEASURED = "They were not measured here."


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the claims of the benchmarks that have a peer as their base; empty without runs."""
    if runs.empty:
        return pd.DataFrame(columns=COLUMNS)
    claims = benchmarks.table(runs)
    is_peer = claims["claim"].str.contains("|".join(PEERS))
    return claims[is_peer]


def numbers(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the versions of the peers and the range of the ratios to the faster DDP, in words."""
    rows = table(runs)
    ratios = rows.loc[rows["claim"].str.contains("the faster DDP"), "measured"]
    if ratios.empty:
        ratios = rows.loc[rows["claim"].str.contains("DDP"), "measured"]
    if ratios.empty:
        return {"peers-sentence": NOT_MEASURED}
    origin = runs["provenance"].iloc[0]
    sentence = (
        f"All are those of torch {origin['packages']['torch']}, on {origin['num_cores']} cores of"
        f" an {origin['cpu']}. Over the faster of the two DDPs the ratio is {ratios.min():.2f} to"
        f" {ratios.max():.2f}."
    )
    return {
        "peers-sentence": sentence,
        "peers-ddp-low": ratios.min(),
        "peers-ddp-high": ratios.max(),
    }
