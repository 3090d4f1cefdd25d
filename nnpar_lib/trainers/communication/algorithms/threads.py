"""Ranks that are threads of one process: to look at an all-reduce, and to test it without MPI."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from nnpar_lib.trainers.communication.algorithms.messages import Algorithm

PATIENCE = 10.0  # seconds, after which ranks that wait for each other are an error


@dataclass(frozen=True, order=True)
class Sent:
    """A message: the step of its sender, from which rank to which, and how many numbers."""

    step: int
    source: int
    target: int
    num_elements: int


class Mailboxes:
    """The messages on their way from each rank to each, and the word that they have arrived."""

    def __init__(self, size: int) -> None:
        ranks = range(size)
        self.letters = {(i, j): queue.Queue[Tensor]() for i in ranks for j in ranks}
        self.receipts = {(i, j): queue.Queue[None]() for i in ranks for j in ranks}


class ThreadMessages:
    """A rank that is a thread. A send ends when its message is taken, as MPI's may.

    `num_steps` counts its sends, receives and exchanges; `sent` lists its messages. A wait of more
    than ten seconds raises `queue.Empty`.
    """

    def __init__(self, rank: int, size: int, boxes: Mailboxes) -> None:
        self.rank = rank
        self.size = size
        self.num_steps = 0
        self.sent: list[Sent] = []
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
        self.sent.append(Sent(self.num_steps, self.rank, target, len(values)))
        self._boxes.letters[self.rank, target].put(values.clone())

    def _take(self, values: Tensor, source: int) -> None:
        letter = self._boxes.letters[source, self.rank].get(timeout=PATIENCE)
        self._boxes.receipts[source, self.rank].put(None)
        if len(letter) != len(values):
            raise ValueError(
                f"rank {self.rank} expects {len(values)} numbers from rank {source}, which sent"
                f" {len(letter)}; both sides of a message must be of one length"
            )
        values.copy_(letter)


def on_threads(size: int, function: Callable[[ThreadMessages], Tensor]) -> list[Tensor]:
    """Return what a function returns on each of the ranks of a group."""
    boxes = Mailboxes(size)
    groups = [ThreadMessages(rank, size, boxes) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(function, groups))


def allreduce(
    algorithm: Algorithm, addends: Sequence[Tensor]
) -> tuple[list[Tensor], list[ThreadMessages]]:
    """Return each rank's sum of the addends, of which each rank has one, and the ranks.

    The addends stay as they are. What a rank raises is raised here.
    """
    groups: dict[int, ThreadMessages] = {}

    def sum_(messages: ThreadMessages) -> Tensor:
        groups[messages.rank] = messages
        values = addends[messages.rank].clone()
        algorithm(values, torch.empty_like(values), messages)
        return values

    sums = on_threads(len(addends), sum_)
    return sums, [groups[rank] for rank in range(len(addends))]


def messages_of(algorithm: Algorithm, num_ranks: int, num_elements: int) -> list[Sent]:
    """Return the messages of an all-reduce, in the order of their senders' steps."""
    _, groups = allreduce(algorithm, [torch.ones(num_elements)] * num_ranks)
    return sorted(sent for messages in groups for sent in messages.sent)
