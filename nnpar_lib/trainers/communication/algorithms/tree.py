"""The tree: sums climb a binomial tree to rank 0, and the total comes down again."""

from __future__ import annotations

from torch import Tensor

from nnpar_lib.trainers.communication.algorithms.messages import Messages


def tree(values: Tensor, received: Tensor, messages: Messages) -> None:
    """Replace `values` by its sum over ranks, in 2 lg p steps of n numbers.

    A rank that has sent its sum waits for the total, so half of the ranks rest after the first
    step. All ranks read the same bits: those of rank 0.
    """
    reduce(values, received, messages)
    broadcast(values, messages)


def reduce(values: Tensor, received: Tensor, messages: Messages) -> None:
    """Sum over ranks on rank 0; on the others, `values` is a part of the sum."""
    rank = messages.rank
    distance = 1
    while distance < messages.size and not rank & distance:
        if rank + distance < messages.size:
            messages.receive_(received, rank + distance)
            values += received
        distance *= 2
    if rank:
        messages.send(values, rank - distance)


def broadcast(values: Tensor, messages: Messages) -> None:
    """Replace `values` by those of rank 0, which reach twice as many ranks in each step."""
    rank = messages.rank
    distance = 1
    while distance < messages.size and not rank & distance:
        distance *= 2
    if rank:
        messages.receive_(values, rank - distance)
    while distance > 1:
        distance //= 2
        if rank + distance < messages.size:
            messages.send(values, rank + distance)
