"""Rabenseifner's algorithm: halve the buffer while it is summed, double it while it is spread."""

from __future__ import annotations

from torch import Tensor

from nnpar_lib.trainers.communication.algorithms.folding import Team, fold, unfold
from nnpar_lib.trainers.communication.algorithms.messages import Messages


def rabenseifner(values: Tensor, received: Tensor, messages: Messages) -> None:
    """Replace `values` by its sum over ranks, in 2 lg p messages of n/2, n/4, ... numbers.

    It sends as little as a ring, in fewer messages (Rabenseifner 2004; Thakur, Rabenseifner and
    Gropp 2005). All ranks read the same bits, for each number is summed once and then copied.
    """
    team = fold(values, received, messages)
    number = team.number_of(messages.rank)
    if number is not None:
        sum_by_halves(values, received, messages, team, number)
    unfold(values, messages, team)


def sum_by_halves(
    values: Tensor, received: Tensor, messages: Messages, team: Team, number: int
) -> None:
    """Sum over a team of 2^k ranks, of which this one has a number."""
    kept = slice(0, len(values))
    exchanges = []

    # Reduce-scatter: of what is left, keep and sum one half, and give the other to the partner.
    distance = team.size // 2
    while distance:
        partner = team.rank_of(number ^ distance)
        middle = (kept.start + kept.stop) // 2
        halves = (slice(kept.start, middle), slice(middle, kept.stop))
        is_upper = bool(number & distance)
        kept = halves[is_upper]
        given = halves[not is_upper]
        messages.exchange_(values[given], partner, received[kept], partner)
        values[kept] += received[kept]
        exchanges.append((partner, kept, given))
        distance //= 2

    # All-gather: the same way back, with finished sums.
    for partner, kept, given in reversed(exchanges):
        messages.exchange_(values[kept], partner, values[given], partner)
