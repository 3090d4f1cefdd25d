"""What the training loop needs of a strategy."""

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
    """How a training step is spread over ranks: each rank holds a strategy, and all take the same
    steps.

    A batch, or the test set, is divided into `data_size` parts; this rank works on part
    `data_rank`, which several ranks may share.
    """

    batches: Batches
    measures_wait: bool
    data_size: int
    data_rank: int

    def step(self, batch: Batch, step: int) -> Tensor:
        """Train on this rank's part of global batch number `step`; return its sum of losses, a
        scalar."""

    def synchronise(self) -> None:
        """Make the weights equal on all ranks (collective)."""

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits of images: [n, 10] on one of the ranks that share them, [0, 10] on the
        rest."""

    def whole_parameters(self) -> Iterable[Tensor]:
        """Yield the parameters of the whole model in its order, on all ranks (collective)."""

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield values for the whole model's parameters, joined from all ranks (collective).

        `values` are this rank's, one for each of its parameters.
        """

    def local_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """Return this rank's part of values for the whole model's parameters (collective)."""

    def state(self) -> State:
        """Return what this rank's next steps depend on: parameters, optimizer, counters
        (collective)."""

    def restore(self, state: State) -> None:
        """Go on from a state (collective)."""

    def memory_bytes(self, batch: Batch) -> dict[str, int]:
        """Return the bytes that `memory.measure` counts on this rank, {} where torch holds the
        memory (collective)."""

    def reset(self) -> None:
        """Go back to the initial weights and optimizer (collective)."""

    def close(self) -> None:
        """Free shared resources (collective)."""


class WholeModel:
    """The common part of strategies that keep a copy of the whole model on every rank."""

    model: nn.Module
    _replica: Replica | None = None
    _optimizer: torch.optim.Optimizer

    def __init__(self, communicator: Communicator) -> None:
        self.data_size = communicator.size
        self.data_rank = communicator.rank

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits [n, 10]; no two ranks share examples."""
        with networks.evaluating(self.model):
            logits: Tensor = self.model(images)
        return logits

    def whole_parameters(self) -> Iterable[Tensor]:
        """Yield the parameters of this copy."""
        return self.model.parameters()

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the values, which are those of the whole model."""
        return iter(values)

    def local_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
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
        """Return the bytes that this rank holds, {} where torch holds them."""
        replica = self._replica
        if replica is None:
            return {}
        # not the method of a recorded replica: the replay of a record saves no tensors
        return measure(replica, lambda: Replica.compute_gradient(replica, batch))
