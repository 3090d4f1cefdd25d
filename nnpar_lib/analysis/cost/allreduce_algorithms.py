"""Predict the seconds of all-reduces from plain messages, and where the fastest changes.

The formulas are those of Thakur, Rabenseifner and Gropp (2005), section 4: a message of n bytes
costs alpha + n beta, whether its receiver sends at the same time or not, and to sum n bytes costs
n gamma. Where the ranks are no power of two, theirs fold to one as ours do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnpar_lib.analysis import scaling
from nnpar_lib.analysis.scaling.speedups import AlphaBeta, fit_alpha_beta
from nnpar_lib.records import store
from nnpar_lib.records.kinds import CONTROL, AllreduceRecord, MessageRecord, Record

ITEMSIZE = 4  # bytes of a number: float32
AGAIN = ", again"  # after the name of a way that is measured twice, as a control


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What an all-reduce pays: a message (alpha, beta), and an addition of so many bytes (gamma).

    The constant part of an addition is that of the call; Thakur's gamma has none.
    """

    message: AlphaBeta
    addition: AlphaBeta

    def step(self, num_bytes: float) -> float:
        """Return the seconds of a message and of the addition of what arrives."""
        return self.message.seconds(num_bytes) + self.addition.seconds(num_bytes)


Formula = Callable[[float, int, Prices], float]


def ring(num_bytes: float, num_ranks: int, prices: Prices) -> float:
    """Return 2(p-1) alpha + 2n(p-1)/p beta + n(p-1)/p gamma, in seconds."""
    part = num_bytes / num_ranks
    return (num_ranks - 1) * (prices.step(part) + prices.message.seconds(part))


def recursive_doubling(num_bytes: float, num_ranks: int, prices: Prices) -> float:
    """Return lg p (alpha + n beta + n gamma), in seconds."""
    rounds = num_ranks.bit_length() - 1
    return rounds * prices.step(num_bytes) + _folding(num_bytes, num_ranks, prices)


def rabenseifner(num_bytes: float, num_ranks: int, prices: Prices) -> float:
    """Return 2 lg p alpha + 2n(p-1)/p beta + n(p-1)/p gamma, in seconds."""
    rounds = num_ranks.bit_length() - 1
    halves = [num_bytes / 2**k for k in range(1, rounds + 1)]
    seconds = sum(prices.step(half) + prices.message.seconds(half) for half in halves)
    return seconds + _folding(num_bytes, num_ranks, prices)


def tree(num_bytes: float, num_ranks: int, prices: Prices) -> float:
    """Return 2 lg p (alpha + n beta) + lg p n gamma, in seconds; lg p is rounded up."""
    rounds = (num_ranks - 1).bit_length()
    return rounds * (prices.step(num_bytes) + prices.message.seconds(num_bytes))


FORMULAS: Mapping[str, Formula] = {
    "ring": ring,
    "recursive_doubling": recursive_doubling,
    "rabenseifner": rabenseifner,
    "tree": tree,
}


def two_level(
    num_bytes: float,
    num_nodes: int,
    ranks_per_node: int,
    *,
    inside: tuple[str, Prices],
    between: tuple[str, Prices],
) -> float:
    """Return the seconds of an all-reduce inside each node, one between nodes, and a broadcast.

    `inside` and `between` are each the name of an algorithm and the prices there.
    """
    rounds = (ranks_per_node - 1).bit_length()
    kind, prices = inside
    sums = FORMULAS[kind](num_bytes, ranks_per_node, prices)
    broadcast = rounds * prices.message.seconds(num_bytes)
    kind, prices = between
    return sums + FORMULAS[kind](num_bytes, num_nodes, prices) + broadcast


def prices(records: Iterable[Record]) -> Prices:
    """Return what a message and an addition cost, fitted to a sweep of messages.

    The message is an exchange, in which both ranks send. A ValueError says that none was timed.
    """
    messages = [record for record in records if isinstance(record, MessageRecord)]
    timed = [record for record in messages if record.exchange_seconds]
    if len(timed) < 2:
        raise ValueError(
            "the records hold no exchanges of two sizes or more; measure some with sweep_messages"
        )
    sizes = [record.num_bytes for record in timed]
    return Prices(
        message=fit_alpha_beta(sizes, [np.median(record.exchange_seconds) for record in timed]),
        addition=fit_alpha_beta(sizes, [np.median(record.add_seconds) for record in timed]),
    )


def predict(num_elements: Iterable[int], num_ranks: int, prices: Prices) -> pd.DataFrame:
    """Return the predicted seconds of each algorithm, one row per algorithm and size."""
    rows = [
        {
            "allreduce": kind,
            "num_ranks": num_ranks,
            "num_elements": size,
            "seconds": formula(ITEMSIZE * size, num_ranks, prices),
        }
        for kind, formula in FORMULAS.items()
        for size in num_elements
    ]
    return pd.DataFrame(rows)


def compare(records: Sequence[Record], prices: Prices) -> pd.DataFrame:
    """Return measured seconds and bandwidths of all-reduces of float32, and the seconds predicted.

    One row per way, ranks and size; `predicted` is NaN for what is no algorithm of ours, and
    `error` is predicted / measured - 1. A control, which repeats a way, has rows of its own.
    """
    sums = [record for record in records if isinstance(record, AllreduceRecord)]
    named = [
        replace(record, allreduce=record.allreduce + AGAIN) if record.label == CONTROL else record
        for record in sums
    ]
    table = scaling.bandwidth(store.frame(named))
    ways = zip(table["allreduce"], table["num_bytes"], table["num_ranks"], strict=True)
    predicted = [
        FORMULAS[kind](num_bytes, num_ranks, prices) if kind in FORMULAS else math.nan
        for kind, num_bytes, num_ranks in ways
    ]
    return table.assign(predicted=predicted, error=predicted / table["seconds"] - 1)


def crossovers(table: pd.DataFrame, seconds: str = "seconds") -> pd.DataFrame:
    """Return the numbers at which, of two ways to sum, the faster one changes: a row per change.

    The columns of `table` are those of `compare`. Between two sizes the ratio is taken to grow as a
    power of the size.
    """
    rows = []
    for num_ranks, same in _timed(table, seconds).groupby("num_ranks"):
        wide = same.pivot_table(index="num_elements", columns="allreduce", values=seconds)
        for first, second in itertools.combinations(wide.columns, 2):
            ratio = (wide[first] / wide[second]).dropna()
            for size in _crossings(ratio.index.to_numpy(float), ratio.to_numpy(float)):
                rows.append((num_ranks, first, second, size))
    columns = ["num_ranks", "first", "second", "num_elements"]
    return pd.DataFrame(rows, columns=columns)


def fastest(table: pd.DataFrame, seconds: str = "seconds") -> pd.DataFrame:
    """Return the way with the fewest seconds for each number of ranks and of elements."""
    timed = _timed(table, seconds)
    best = timed.groupby(["num_ranks", "num_elements"])[seconds].idxmin()
    return timed.loc[best, ["num_ranks", "num_elements", "allreduce"]].reset_index(drop=True)


def _timed(table: pd.DataFrame, seconds: str) -> pd.DataFrame:
    """Return the rows with a time, without controls."""
    return table[table[seconds].notna() & ~table["allreduce"].str.endswith(AGAIN)]


def _crossings(sizes: npt.NDArray[np.float64], ratio: npt.NDArray[np.float64]) -> list[float]:
    """Return the sizes at which a ratio passes 1."""
    crossings = []
    points = zip(sizes, np.log(ratio), strict=True)
    for (left, before), (right, after) in itertools.pairwise(points):
        if before * after < 0:
            share = before / (before - after)
            crossings.append(float(left * (right / left) ** share))
    return crossings


def _folding(num_bytes: float, num_ranks: int, prices: Prices) -> float:
    """Return the seconds of folding to a power of two and back: n there and summed, n back."""
    if num_ranks.bit_count() == 1:
        return 0.0
    return prices.step(num_bytes) + prices.message.seconds(num_bytes)
