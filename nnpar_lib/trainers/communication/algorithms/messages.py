"""What an all-reduce from plain messages needs of a group of ranks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Messages(Protocol):
    """Blocking messages between the ranks 0 to size - 1 of a group.

    The messages of two ranks arrive in the order in which they were sent. Nothing is buffered: a
    send may wait until its receiver is there, so two ranks that send to each other use `exchange_`.
    """

    rank: int
    size: int

    def send(self, values: Tensor, target: int) -> None:
        """Send a tensor to a rank."""

    def receive_(self, values: Tensor, source: int) -> None:
        """Fill a tensor with what a rank sends, of the same shape and type."""

    def exchange_(self, sent: Tensor, target: int, received: Tensor, source: int) -> None:
        """Send a tensor to one rank and, at the same time, receive from one: it may be another."""


class Algorithm(Protocol):
    """An all-reduce from plain messages."""

    def __call__(self, values: Tensor, received: Tensor, messages: Messages) -> None:
        """Replace a flat tensor by its sum over ranks (collective).

        `received` is memory for a message: as long as `values`, of the same type and device.
        """
