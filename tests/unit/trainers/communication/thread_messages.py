"""Ranks that are threads of one process, and messages between them that wait to be taken."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from nnpar_lib.trainers.communication.algorithms.messages import Algorithm

PATIENCE = 10.0  # seconds, after which ranks that wait for each other are an error


class Mailboxes:
    """The messages on their way from each rank to each, and the word that they have arrived."""

    def __init__(self, size: int) -> None:
        ranks = range(size)
        self.letters = {(i, j): queue.Queue[Tensor]() for i in ranks for j in ranks}
        self.receipts = {(i, j): queue.Queue[None]() for i in ranks for j in ranks}


class ThreadMessages:
    """A rank that is a thread. A send ends when its message is taken, as MPI's may.

    It counts its exchanges, sends and receives as steps, and the numbers that it sends.
    """

    def __init__(self, rank: int, size: int, boxes: Mailboxes) -> None:
        self.rank = rank
        self.size = size
        self.num_steps = 0
        self.num_sent = 0
        self._boxes = boxes

    def send(self, values: Tensor, target: int) -> None:
        self.num_steps += 1
        self._post(values, target)
        self._boxes.receipts[self.rank, target].get(timeout=PATIENCE)

    def receive_(self, values: Tensor, source: int) -> None:
        self.num_steps += 1
        self._take(values, source)

    def exchange_(self, sent: Tensor, target: int, received: Tensor, source: int) -> None:
        self.num_steps += 1
        self._post(sent, target)
        self._take(received, source)
        self._boxes.receipts[self.rank, target].get(timeout=PATIENCE)

    def _post(self, values: Tensor, target: int) -> None:
        self.num_sent += len(values)
        self._boxes.letters[self.rank, target].put(values.clone())

    def _take(self, values: Tensor, source: int) -> None:
        letter = self._boxes.letters[source, self.rank].get(timeout=PATIENCE)
        assert len(letter) == len(values)
        values.copy_(letter)
        self._boxes.receipts[source, self.rank].put(None)


def on_threads(size: int, function: Callable[[ThreadMessages], Tensor]) -> list[Tensor]:
    """Return what a function returns on each of the ranks of a group."""
    boxes = Mailboxes(size)
    groups = [ThreadMessages(rank, size, boxes) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(function, groups, timeout=2 * PATIENCE))


def summed(
    algorithm: Algorithm, addends: list[Tensor]
) -> tuple[list[Tensor], list[ThreadMessages]]:
    """Return each rank's sum of the addends, one of each rank, and its counted messages."""
    groups: list[ThreadMessages] = []

    def sum_(messages: ThreadMessages) -> Tensor:
        values = addends[messages.rank].clone()
        algorithm(values, torch.empty_like(values), messages)
        groups.append(messages)
        return values

    sums = on_threads(len(addends), sum_)
    return sums, sorted(groups, key=lambda messages: messages.rank)
