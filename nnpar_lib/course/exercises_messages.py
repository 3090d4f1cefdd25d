"""Exercises on messages: an all-reduce as a ring, and by recursive doubling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nnpar_lib.course.checks import call_on_ranks, demand, judged, running
from nnpar_lib.launch.engines import Engines

LENGTHS = (12, 7, 2)  # divided evenly, unevenly, and with slices that are empty
BASE = 10.0  # rank r has 10^r everywhere, so the digits of a sum count what each rank has put in


@judged
def check_ring(function: Callable[..., Any], *, ranks: Engines | None = None) -> str:
    """Write an all-reduce as a ring: `ring(values, received, messages)` sums over ranks, in place.

    `values` is a flat tensor of any length, `received` memory of the same length. `messages` has
    `rank`, `size`, `send(tensor, target)`, `receive_(tensor, source)` and `exchange_(sent, target,
    received, source)`, which sends and receives at the same time. Divide `values` into slices,
    `nnpar_lib.parts.part(n, size, number)`; in p - 1 messages to the right the sums grow, in p - 1
    more they go round. Tried on 1, 2 and 3 ranks, or on 4 where so many are given.
    """
    with running(ranks, 3) as started:
        for num_ranks in range(1, 1 + min(4, started.num_ranks)):
            for length in LENGTHS:
                fewest = 2 * length * (num_ranks - 1) / num_ranks
                most = _most_sent(function, started, num_ranks, length)
                slack = 2 * (num_ranks - 1)  # slices are not all of the same length
                demand(
                    most <= fewest + slack,
                    f"with {length} numbers on {num_ranks} ranks the sums are right, but a rank"
                    f" sends {most} numbers; in a ring it sends 2 n (p - 1)/p = {fewest:g}",
                )
    return "the sum on every rank, with no more than 2 n (p - 1)/p numbers from each"


@judged
def check_doubling(function: Callable[..., Any], *, ranks: Engines | None = None) -> str:
    """Write an all-reduce by recursive doubling: `doubling(values, received, messages)`, in place.

    Partners at distance 1, 2, 4, ... exchange all that they have summed: after lg p exchanges every
    rank has the sum. The number of ranks is a power of two, `messages` are those of `check_ring`.
    Tried on 1, 2 and 4 ranks.
    """
    with running(ranks, 4) as started:
        for num_ranks in (1, 2, 4):
            if num_ranks > started.num_ranks:
                break
            most = _most_sent(function, started, num_ranks, LENGTHS[1])
            needed = LENGTHS[1] * (num_ranks.bit_length() - 1)
            demand(
                most <= needed,
                f"with {LENGTHS[1]} numbers on {num_ranks} ranks the sums are right, but a rank"
                f" sends {most} numbers; lg p exchanges send n lg p = {needed}",
            )
    return "the sum on every rank, in lg p exchanges"


def _most_sent(function: Callable[..., Any], ranks: Engines, num_ranks: int, length: int) -> int:
    """Check the sums on all ranks; return how many numbers the busiest one has sent."""
    places = torch.arange(1, length + 1, dtype=torch.float64)
    arguments = [
        (BASE**rank * places, torch.full((length,), torch.nan, dtype=torch.float64))
        for rank in range(num_ranks)
    ]
    outcomes = call_on_ranks(ranks, function, arguments, over="messages")
    for rank, (_, left, _) in enumerate(outcomes):
        where = f"with {length} numbers, on rank {rank} of {num_ranks}"
        _check_sum(left[0] / places, num_ranks, where)
    return max(int(num_sent) for *_, num_sent in outcomes)


def _check_sum(counts: Tensor, num_ranks: int, where: str) -> None:
    """Say whose numbers are missing or counted twice: the digits of each count tell it."""
    for place, count in enumerate(counts.tolist()):
        demand(
            math.isfinite(count) and abs(count - round(count)) < 1e-9,
            f"{where} place {place} holds numbers of another place, or what was never received:"
            " does each slice go where its numbers belong?",
        )
        digits = str(round(count)).zfill(num_ranks)[::-1]
        wrong = [
            f"rank {rank}'s number {_times(int(digit))}"
            for rank, digit in enumerate(digits[:num_ranks])
            if digit != "1"
        ]
        demand(
            not wrong and len(digits) == num_ranks,
            f"{where} the sum at place {place} has {' and '.join(wrong) or 'numbers too often'}",
        )


def _times(digit: int) -> str:
    return {0: "not at all", 2: "twice"}.get(digit, f"{digit} times")
