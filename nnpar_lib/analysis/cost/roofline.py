"""Rooflines: the speed of each block beside what the machine allows (Williams et al. 2009)."""

from __future__ import annotations

from typing import Any

import pandas as pd


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per block of each RooflineRecord; `way` names how it was computed.

    `intensity` is in FLOP a byte, `flop_per_second` is the measured rate, `bound` the seconds that
    the slower ceiling allows, `limit` the name of that ceiling, and `reached` is `bound` over the
    measured seconds. `reached` is above 1 where a kernel is faster than the measured product, skips
    operations that are counted, or finds its bytes in a cache.
    """
    rows = []
    for record in frame.to_dict("records"):
        for block in record["blocks"]:
            computing = block["flops"] / record["ceiling_flop_per_second"]
            moving = block["bytes"] / record["bytes_per_second"]
            rows.append(
                {
                    **{key: record[key] for key in ("model", "precision", "batch_size")},
                    **block,
                    "way": way(record),
                    "intensity": block["flops"] / block["bytes"],
                    "flop_per_second": block["flops"] / block["seconds"],
                    "bound": max(computing, moving),
                    "reached": max(computing, moving) / block["seconds"],
                    "limit": "computing" if computing > moving else "memory",
                }
            )
    blocks = pd.DataFrame(rows)
    step_seconds = blocks.groupby(["model", "way"])["seconds"].transform("sum")
    return blocks.assign(share=blocks["seconds"] / step_seconds)


def way(record: dict[Any, Any]) -> str:
    """Return how the blocks of a record were computed: precision, layout, convolutions."""
    parts = [record["precision"], record["memory_format"].replace("_", " "), record["convolution"]]
    return ", ".join(part for part in parts if part != "torch")
