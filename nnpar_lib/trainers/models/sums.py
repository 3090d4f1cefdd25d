"""What layers need of the ranks that share them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from nnpar_lib.trainers.communication.communicator import Communicator


class Sums(Protocol):
    """Sums tensors over ranks, and books the time."""

    communicator: Communicator

    def sum(self, tensor: Tensor, activity: str) -> Tensor:
        """Return the sum over ranks; the time before it belongs to `activity` (collective)."""

    def free(self) -> None:
        """Give back what it holds (collective)."""
