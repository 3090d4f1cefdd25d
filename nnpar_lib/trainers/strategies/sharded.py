"""Sharded data parallelism: ranks divide what they would otherwise all hold.

The three stages of ZeRO (Rajbhandari et al. 2020) divide the optimizer state, then the gradients
too, then the weights too, which is fully sharded data parallelism (Zhao et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import slot_sizes
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import Batch, Batches, batch_source, load
from nnpar_lib.trainers.models import batch_norm
from nnpar_lib.trainers.models.synchronisation import synchronise
from nnpar_lib.trainers.step.memory import optimizer_bytes, peak_activations
from nnpar_lib.trainers.step.optimizer import build_optimizer, set_learning_rate
from nnpar_lib.trainers.step.sharded_model import ShardedModel
from nnpar_lib.trainers.step.state import (
    State,
    read_state,
    running_statistics,
    write_running_statistics,
    write_state,
)
from nnpar_lib.trainers.timeline import UPDATE, Timeline


class Sharded:
    """Each rank trains on its part of the batch and updates its parts of all blocks.

    The update is that of a serial run with the whole batch, up to the rounding of the summation
    order, for any number of ranks and for uneven or empty parts.
    """

    measures_wait: bool = False

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        self.data_size = communicator.size
        self.data_rank = communicator.rank
        self._config = config
        self._communicator = communicator
        self._timeline = timeline
        self._model = ShardedModel(config, communicator, timeline)
        self._modules = torch.nn.Sequential(*self._model.blocks)
        self._statistics = synchronise(self._modules, config, communicator, timeline)
        self.batches: Batches = batch_source(
            load(config.dataset), config, communicator.size, communicator.rank
        )
        self.reset()

    def step(self, batch: Batch, step: int) -> Tensor:
        """Train on this rank's part of a global batch; return its sum of losses (collective)."""
        loss_sum = self._model.compute_gradient(batch)
        set_learning_rate(self._optimizer, self._config, step)
        self._optimizer.step()
        self._timeline.lap(UPDATE)
        self._model.publish()
        return loss_sum

    def synchronise(self) -> None:
        """Average the running statistics; weights are equal on all ranks (collective)."""
        batch_norm.average_running_(self._modules, self._communicator)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the logits [n, 10]; all ranks call it equally often (collective)."""
        return self._model.predict(images)

    def whole_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters, each joined from the ranks' pieces (collective)."""
        return self.whole_values(self.state().parameters)

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the values of all parameters, joined from the ranks' pieces (collective).

        Values that do not add up to the parameters, such as running statistics, are whole already.
        """
        group = self._model.shards.group
        layouts = list(self._model.layouts())
        lengths = group.allgather_objects([value.numel() for value in values])
        counts = [list(of_ranks) for of_ranks in zip(*lengths, strict=True)]
        sizes = [layout.size.numel() for layout in layouts]
        if [sum(of_ranks) for of_ranks in counts] != sizes:
            yield from values
            return
        for value, layout, of_ranks in zip(values, layouts, counts, strict=True):
            whole = value.new_empty(sum(of_ranks))
            whole.split(of_ranks)[group.rank].copy_(value)
            group.start_allgather_(whole, of_ranks).wait()
            yield layout.view(whole)

    def local_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """Return this rank's pieces of values for all parameters; others stay whole."""
        layouts = list(self._model.layouts())
        if [value.numel() for value in whole] != [layout.size.numel() for layout in layouts]:
            return list(whole)
        return [
            layout.flat(value)[layout.local_part]
            for value, layout in zip(whole, layouts, strict=True)
        ]

    def state(self) -> State:
        """Return this rank's piece of each parameter, and the optimizer's state of it."""
        state = read_state(list(self._model.weights), self._optimizer)
        tensors = {name: self._model.pieces(parts) for name, parts in state.optimizer.items()}
        return State(
            self._model.pieces(state.parameters),
            tensors,
            state.numbers,
            running=running_statistics(self._modules),
        )

    def restore(self, state: State) -> None:
        """Go on from a state (collective)."""
        self._model.publish()  # no rank may still read what another overwrites
        tensors = {name: self._model.joined(pieces) for name, pieces in state.optimizer.items()}
        parts = State(self._model.joined(state.parameters), tensors, state.numbers)
        write_state(parts, list(self._model.weights), self._optimizer)
        write_running_statistics(state, self._modules)
        self._model.publish()

    def memory_bytes(self, batch: Batch) -> dict[str, int]:
        """Return the bytes that this rank holds, with the slots of whole blocks as `blocks`
        (collective)."""
        shards = self._model.shards
        activations = peak_activations(lambda: self._model.compute_gradient(batch), *shards.wholes)
        weights = _num_bytes(self._model.weights)
        slots = 0
        gradients = weights
        if self._config.shard == "weights":
            slots += _slot_bytes(shards.wholes, shards.num_slots)
        else:
            weights = _num_bytes(shards.wholes)
        if self._config.shard == "optimizer":
            gradients = _num_bytes(shards.addends)
        else:
            slots += _slot_bytes(shards.addends, shards.num_addend_slots)
        return {
            "parameters": weights,
            "gradients": gradients,
            "optimizer": optimizer_bytes(self._optimizer),
            "activations": activations,
            "blocks": slots,
        }

    def reset(self) -> None:
        """Go back to the initial weights and a fresh optimizer (collective)."""
        self._model.reset()
        self._optimizer = build_optimizer(self._model.weights, self._config)

    def close(self) -> None:
        """Free shared memory (collective)."""
        del self._optimizer
        self._statistics.free()
        self._model.close()


def _num_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _slot_bytes(buffers: Sequence[Tensor], num_slots: int) -> int:
    """Return the bytes of slots, on which buffers take turns."""
    return sum(slot_sizes([buffer.nbytes for buffer in buffers], num_slots))
