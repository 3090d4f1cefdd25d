"""The ladder from a first attempt at message passing: what each rung mends, and what it gains.

A frame of a ladder has the runs of all rungs, interleaved, with a column `label`. Each rung removes
one cause of lost time from the rung before. Causes that a serial program has too are not called
parallelism: the serial loop is mended as well, and the fastest serial rung is the base of speedups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnpar_lib.analysis.scaling.ratio import UNDECIDED, Band, Ratio, band
from nnpar_lib.analysis.scaling.speedups import METHOD, paired_ratio, runs_of, seconds_per_epoch
from nnpar_lib.records.kinds import CONTROL

FASTER = "faster"
SLOWER = "slower"
NO_DIFFERENT = "no different"
SECONDS = "seconds_per_epoch"
UNKNOWN_CAUSE = "no cause of this is known"


@dataclass(frozen=True)
class Rung:
    """What a rung mends, whether only ranks can gain from that, and why it may be slower.

    `after` is the rung that it changes, by default the one before it.
    """

    mends: str
    is_parallelism: bool = True
    slower: str = UNKNOWN_CAUSE
    after: str = ""


RUNGS = {
    "serial": Rung("", is_parallelism=False),
    "serial, mended": Rung(
        "every image is read again, one by one, and every tensor of weights updated by itself",
        is_parallelism=False,
        after="serial",
    ),
    "serial, recorded": Rung("a step builds a graph and forgets it", is_parallelism=False),
    "root and workers": Rung(
        "one process trains alone",
        slower="each worker goes through all images, the root through none, and the ranks start"
        " more threads than there are cores",
        after="serial",
    ),
    "+ threads and binding": Rung(
        "ranks start more threads than there are cores",
        slower="a worker that had the root's core as well, while the root waited, has one core",
    ),
    "+ shard the data": Rung(
        "each worker goes through all images, the root through none",
        slower="each rank has a part of each batch, and small batches cost more time an image",
    ),
    "+ data in memory": Rung("every image is read again, one by one", is_parallelism=False),
    "+ buffers, not pickles": Rung(
        "weights are pickled, sent to a root and updated tensor by tensor",
        slower="weights travel once an epoch, so their format matters little",
    ),
    "+ gradients, not weights": Rung(
        "the result is not that of serial training",
        slower="ranks exchange at every step, no longer once an epoch: the price of exactness",
    ),
    "+ overlap": Rung(
        "ranks wait for messages after the backward pass",
        slower="MPI moves only while it is called, so that more and smaller messages add latency,"
        " and the backward pass of this network is too short to hide it",
    ),
    "+ shared memory": Rung(
        "ranks of one machine send what they could read",
        slower="two barriers a step take longer here than the messages that they replace",
    ),
    "+ recorded steps": Rung("a step builds a graph and forgets it", is_parallelism=False),
}


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what each rung gains, one row per rung, in order of appearance.

    Columns: `label`, `mends` and `is_parallelism` of `RUNGS`, `num_ranks`, median `seconds` an
    epoch; `speedup` over the rung before with quartiles and a 95 % interval, `change` (faster,
    slower, no different where the interval reaches into the `noise`, or too few repeats) and `why`
    a slower rung is slower; `over_serial`, the speedup over the fastest serial rung, with
    `over_serial_low` and `over_serial_high`, its interval. A first rung has no speedup. Without a
    serial rung that is mended `over_serial` is NaN.
    """
    runs = runs_of(frame)
    runs = runs[runs["label"] != CONTROL].assign(**{SECONDS: seconds_per_epoch(runs)})
    around_1 = noise(frame)
    labels = list(runs["label"].unique())
    base = best_serial(runs)
    rows = []
    for i, label in enumerate(labels):
        rung = RUNGS.get(label, Rung(""))
        before = rung.after if rung.after in labels else "".join(labels[max(0, i - 1) : i])
        rows.append({**_row_of(runs, label, rung), **_change(runs, label, before, around_1)})
        rows[-1] |= _over_serial(runs, label, base)
        rows[-1]["why"] = rung.slower if rows[-1]["change"] == SLOWER else ""
    return pd.DataFrame(rows)


def noise(frame: pd.DataFrame) -> Band:
    """Return the speedups that noise explains: those of a rung over itself, run again as `control`.

    Without such runs it is 1 alone.
    """
    runs = runs_of(frame)
    again = runs[runs["label"] == CONTROL]
    if again.empty:
        return Band(1, 1)
    columns = [name for name in METHOD if name in runs]
    methods = pd.Series([str(row) for row in runs[columns].to_numpy().tolist()], index=runs.index)
    is_same = methods == methods[again.index[0]]
    once = runs.loc[is_same & (runs["label"] != CONTROL), "label"]
    return band(speedup(runs, str(once.iloc[0]), CONTROL))


def best_serial(frame: pd.DataFrame) -> str:
    """Return the label of the fastest rung of strategy serial, empty where there is none."""
    runs = frame[(frame["strategy"] == "serial") & (frame["label"] != CONTROL)]
    if runs.empty:
        return ""
    seconds = runs[SECONDS] if SECONDS in runs else seconds_per_epoch(runs)
    return str(seconds.groupby(runs["label"]).median().idxmin())


def speedup(frame: pd.DataFrame, base: str, compared: str) -> Ratio:
    """Return how many times less an epoch of one rung takes than that of a base, by repeats."""
    runs = frame.assign(**{SECONDS: seconds_per_epoch(frame)})
    return paired_ratio(runs, {"label": compared}, {"label": base}, SECONDS)


def slower_in_words(table: pd.DataFrame) -> Sequence[str]:
    """Return a sentence for each rung of `gains` that is slower than the one before, and why."""
    slower = table[table["change"] == SLOWER].to_dict("records")
    return [
        f'"{row["label"]}" takes {1 / float(row["speedup"]):.2f} times as long as the rung that it'
        f" changes: {row['why']}."
        for row in slower
    ]


def _row_of(runs: pd.DataFrame, label: str, rung: Rung) -> dict[str, Any]:
    rows = runs[runs["label"] == label]
    return {
        "label": label,
        "mends": rung.mends,
        "is_parallelism": rung.is_parallelism,
        "num_ranks": int(rows["num_ranks"].iloc[0]),
        "seconds": float(rows[SECONDS].median()),
    }


def _change(runs: pd.DataFrame, label: str, before: str, around_1: Band) -> dict[str, Any]:
    if not before:
        return {"speedup": math.nan, "change": ""}
    ratio = speedup(runs, before, label)
    return {**ratio.columns("speedup"), "change": _change_in_words(ratio, around_1)}


def _change_in_words(ratio: Ratio, around_1: Band) -> str:
    if not ratio.has_interval:
        return UNDECIDED
    if ratio.ci_low > around_1.high:
        return FASTER
    return SLOWER if ratio.ci_high < around_1.low else NO_DIFFERENT


def _over_serial(runs: pd.DataFrame, label: str, base: str) -> dict[str, Any]:
    names = ("over_serial", "over_serial_low", "over_serial_high")
    if not base:
        return dict.fromkeys(names, math.nan)
    ratio = speedup(runs, base, label)
    return dict(zip(names, (ratio.median, ratio.ci_low, ratio.ci_high), strict=True))
