"""Work that is done many times on the same tensors: rehearsed, recorded once, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

NUM_REHEARSALS = 3
Work = Callable[[], object]


class Recorder(Protocol):
    """Does work, and records it."""

    def rehearse(self, work: Work) -> None:
        """Do the work as it will be recorded."""

    def record(self, work: Work) -> Work:
        """Do the work, and return a function that does it again on the same tensors."""


class Recorded:
    """Work that is rehearsed a few times, then recorded, and replayed from then on.

    A record reads and writes fixed addresses. Where one of the tensors that `tensors` returns has
    moved, as those of a restored optimizer do, the work is rehearsed and recorded again.
    """

    def __init__(
        self, recorder: Recorder, work: Work, tensors: Callable[[], Iterable[Tensor]]
    ) -> None:
        self._recorder = recorder
        self._work = work
        self._tensors = tensors
        self._addresses: list[int] = []
        self._num_rehearsals = 0
        self._replay: Work | None = None

    def __call__(self) -> None:
        """Do the work."""
        addresses = [tensor.data_ptr() for tensor in self._tensors()]
        if addresses != self._addresses:
            self._addresses = addresses
            self._num_rehearsals = 0
            self._replay = None
        if self._replay is None and self._num_rehearsals < NUM_REHEARSALS:
            self._num_rehearsals += 1
            self._recorder.rehearse(self._work)
            return
        if self._replay is None:
            self._replay = self._recorder.record(self._work)
        else:
            self._replay()


def state_tensors(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    """Yield the tensors of an optimizer's state, such as momenta."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
