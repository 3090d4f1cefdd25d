"""Recursive doubling: partners at distance 1, 2, 4, ... exchange all that they have summed."""

from __future__ import annotations

from torch import Tensor

from nnpar_lib.trainers.communication.algorithms.folding import fold, unfold
from nnpar_lib.trainers.communication.algorithms.messages import Messages


def recursive_doubling(values: Tensor, received: Tensor, messages: Messages) -> None:
    """Replace `values` by its sum over ranks, in lg p messages of n numbers from each rank.

    No all-reduce has fewer messages in a row, so it is fast where numbers are few (Thakur,
    Rabenseifner and Gropp 2005). All ranks read the same bits: a + b is rounded as b + a is.
    """
    team = fold(values, received, messages)
    number = team.number_of(messages.rank)
    distance = 1
    while number is not None and distance < team.size:
        partner = team.rank_of(number ^ distance)
        messages.exchange_(values, partner, received, partner)
        values += received  # of 2 * distance ranks, the same on all of them
        distance *= 2
    unfold(values, messages, team)
