"""A group whose size is no power of two, folded to one whose size is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nnpar_lib.trainers.communication.algorithms.messages import Messages


@dataclass(frozen=True)
class Team:
    """The ranks that go on: the most that are a power of two.

    Of the first 2 `num_extra` ranks, each even one gives its numbers to the next and rests.
    """

    size: int
    num_extra: int

    def number_of(self, rank: int) -> int | None:
        """Return the number of a rank in the team; None where it rests."""
        if rank >= 2 * self.num_extra:
            return rank - self.num_extra
        return rank // 2 if rank % 2 else None

    def rank_of(self, number: int) -> int:
        """Return the rank that has this number in the team."""
        return 2 * number + 1 if number < self.num_extra else number + self.num_extra


def fold(values: Tensor, received: Tensor, messages: Messages) -> Team:
    """Add the numbers of the ranks that rest to those of their neighbours; return the team."""
    rank = messages.rank
    size = 1 << (messages.size.bit_length() - 1)
    team = Team(size, messages.size - size)
    if rank < 2 * team.num_extra:
        if rank % 2 == 0:
            messages.send(values, rank + 1)
        else:
            messages.receive_(received, rank - 1)
            values += received
    return team


def unfold(values: Tensor, messages: Messages, team: Team) -> None:
    """Give the sum to the ranks that rested."""
    rank = messages.rank
    if rank < 2 * team.num_extra:
        if rank % 2 == 0:
            messages.receive_(values, rank + 1)
        else:
            messages.send(values, rank - 1)
