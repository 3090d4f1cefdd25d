"""Rooflines: what each block of a model reaches of what its operations and bytes allow (Williams et
al. 2009)."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a block of each RooflineRecord; `way` names how it was computed.

    `intensity` is FLOP a byte, `flop_per_second` what was reached, `bound` the seconds that the
    slower ceiling allows, `reached` that over the seconds measured, `limit` the ceiling's name.
    `reached` is above 1 where a kernel is faster than the product that was measured, or skips
    operations that are counted, or a cache spares moving bytes.
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
                    "way": _way(record),
                    "intensity": block["flops"] / block["bytes"],
                    "flop_per_second": block["flops"] / block["seconds"],
                    "bound": max(computing, moving),
                    "reached": max(computing, moving) / block["seconds"],
                    "limit": "computing" if computing > moving else "memory",
                }
            )
    found = pd.DataFrame(rows)
    whole = found.groupby(["model", "way"])["seconds"].transform("sum")
    return found.assign(share=found["seconds"] / whole)


def _way(record: dict[Any, Any]) -> str:
    parts = [record["precision"], record["memory_format"].replace("_", " "), record["convolution"]]
    return ", ".join(part for part in parts if part != "torch")


def draw(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw FLOP/s against FLOP a byte, a point a block, numbered, under the two ceilings of each
    precision."""
    ax = ax or plt.subplots()[1]
    rows = table(frame)
    reach = np.geomspace(rows["intensity"].min() / 2, rows["intensity"].max() * 2, 100)
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for colour, record in zip(colours, frame.to_dict("records"), strict=False):
        label = _way(record)
        ceiling = np.minimum(record["ceiling_flop_per_second"], reach * record["bytes_per_second"])
        ax.plot(reach, ceiling / 1e9, "--", color=colour, linewidth=1)
        own = rows[rows["way"] == label]
        rates = own["flop_per_second"] / 1e9
        ax.plot(own["intensity"], rates, "o", color=colour, label=label)
        for block, intensity, rate in zip(own["block"], own["intensity"], rates, strict=True):
            ax.annotate(
                str(block),
                (intensity, rate),
                textcoords="offset points",
                xytext=(4, 4),
                fontsize="small",
                color=colour,
            )
    ax.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="GFLOP/s")
    ax.legend(title="block numbers; dashed: ceilings", loc="lower right")
    return ax
