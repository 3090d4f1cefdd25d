"""What the training loop asks of a strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import Batch, Batches
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step.memory import measure
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.step.state import (
    State,
    read_state,
    running_statistics,
    write_running_statistics,
    write_state,
)


class Strategy(Protocol):
    """How a training step is spread over ranks. Each rank holds one, and all of them take the same
    steps.

    Ranks of the same `data_rank` work on the same examples; `data_size` such parts make up a batch,
    or the test set.
    """

    batches: Batches
    measures_wait: bool
    data_size: int
    data_rank: int

    def step(self, batch: Batch, step: int) -> Tensor:
        """Train on this rank's part of global batch number `step`; return the sum of its losses, a
        scalar tensor."""

    def synchronise(self) -> None:
        """Give all ranks the same weights, where they have drifted apart (collective)."""

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits [n, 10] of images on one rank of those that share them, none [0, 10] on
        the others."""

    def whole_parameters(self) -> Iterable[Tensor]:
        """Yield the parameters of the whole model in its order, one at a time, on all ranks
        (collective)."""

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield what the ranks' values for their own parameters make for those of the whole model
        (collective)."""

    def own_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """Return what of the values for the whole model's parameters is for this rank's own
        (collective)."""

    def state(self) -> State:
        """Return what this rank's next steps depend on: its parameters, their optimizer, counters
        (collective)."""

    def restore(self, state: State) -> None:
        """Go on from a state (collective)."""

    def memory_bytes(self, batch: Batch) -> dict[str, int]:
        """Return what `memory.measure` finds on this rank; nothing where torch holds the memory
        (collective)."""

    def reset(self) -> None:
        """Go back to the initial weights and optimizer, as if no step had been taken
        (collective)."""

    def close(self) -> None:
        """Give shared resources back (collective)."""


class WholeModel:
    """What the strategies have in common that keep a copy of the whole model on every rank."""

    model: nn.Module
    _replica: Replica | None = None
    _optimizer: torch.optim.Optimizer

    def __init__(self, communicator: Communicator) -> None:
        self.data_size, self.data_rank = communicator.size, communicator.rank

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits [n, 10]; each rank has examples of its own."""
        with networks.evaluating(self.model):
            logits: Tensor = self.model(images)
        return logits

    def whole_parameters(self) -> Iterable[Tensor]:
        """Yield the parameters of this copy."""
        return self.model.parameters()

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the values: they are for the whole model."""
        return iter(values)

    def own_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """Return all values."""
        return list(whole)

    def state(self) -> State:
        """Return the parameters and the optimizer's state."""
        if self._replica is not None:
            return self._replica.state()
        state = read_state(list(self.model.parameters()), self._optimizer)
        state.running = running_statistics(self.model)
        return state

    def restore(self, state: State) -> None:
        """Go on from a state."""
        if self._replica is not None:
            self._replica.restore(state)
        else:
            write_state(state, list(self.model.parameters()), self._optimizer)
            write_running_statistics(state, self.model)

    def memory_bytes(self, batch: Batch) -> dict[str, int]:
        """Return what this rank holds in memory; nothing where torch holds it."""
        replica = self._replica
        if replica is None:
            return {}
        return measure(
            replica, lambda: Replica.compute_gradient(replica, batch)
        )  # as it is: a replay shows nothing
