"""torch's fully sharded data parallelism (FSDP2) in the same loop, as the alternative to compare
with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.torch_distributed import join_process_group
from nnpar_lib.trainers.data.batches import Batch, Batches, batch_source, load
from nnpar_lib.trainers.models import batch_norm, networks
from nnpar_lib.trainers.models.synchronisation import synchronise
from nnpar_lib.trainers.step.optimizer import build_optimizer, set_learning_rate
from nnpar_lib.trainers.step.state import (
    State,
    read_state,
    running_statistics,
    write_running_statistics,
    write_state,
)
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD, UPDATE, Timeline


class TorchFSDP:
    """`fully_shard` for each block and for the model, over gloo, or nccl on GPUs.

    Each rank holds rows of each parameter. FSDP takes the mean over ranks, so the loss is scaled to
    give uneven parts of a batch their weight. Its communication is inside the passes and is booked
    as computation.
    """

    measures_wait: bool = False

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        self.data_size = communicator.size
        self.data_rank = communicator.rank
        self._config = config
        self._communicator = communicator
        self._timeline = timeline
        self.batches: Batches = batch_source(
            load(config.dataset), config, communicator.size, communicator.rank
        )
        join_process_group(communicator, "nccl" if config.device == "cuda" else "gloo")
        self._model = networks.build(config)
        self._statistics = synchronise(self._model, config, communicator, timeline)
        mesh = init_device_mesh(config.device, (communicator.size,))
        for block in self._model:
            fully_shard(block, mesh=mesh)
        fully_shard(self._model, mesh=mesh)
        self._parameters = list(self._model.parameters())
        self._initial = [value.detach().clone() for value in self._values()]
        self.reset()

    def step(self, batch: Batch, step: int) -> Tensor:
        """Train on this rank's part of a global batch; return its sum of losses (collective)."""
        set_learning_rate(self._optimizer, self._config, step)
        self._optimizer.zero_grad()
        loss_sum = functional.cross_entropy(
            self._model(batch.images), batch.labels, reduction="sum"
        )
        self._timeline.lap(FORWARD)
        (loss_sum * (self.data_size / batch.num_global_examples)).backward()
        self._timeline.lap(BACKWARD)
        self._optimizer.step()
        self._timeline.lap(UPDATE)
        return loss_sum.detach()

    def synchronise(self) -> None:
        """Average the running statistics; weights are equal on all ranks (collective)."""
        batch_norm.average_running_(self._model, self._communicator)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the logits [n, 10]; all ranks call it equally often (collective)."""
        with networks.evaluating(self._model):
            logits: Tensor = self._model(images)
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return logits

    def whole_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters, each joined from the ranks' rows (collective)."""
        return self.whole_values([parameter.detach() for parameter in self._parameters])

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the values, joined where they are divided (collective)."""
        for value in values:
            yield value.full_tensor() if isinstance(value, DTensor) else value

    def local_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """Return this rank's rows of values for all parameters; others stay whole (collective)."""
        if [value.shape for value in whole] != [value.shape for value in self._parameters]:
            return list(whole)
        return [
            distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
            for value, like in zip(whole, self._values(), strict=True)
        ]

    def state(self) -> State:
        """Return this rank's rows of each parameter, and the optimizer's state of them."""
        state = read_state(self._parameters, self._optimizer)
        state.running = running_statistics(self._model)
        return state

    def restore(self, state: State) -> None:
        """Go on from a state."""
        write_state(state, self._parameters, self._optimizer)
        write_running_statistics(state, self._model)

    def memory_bytes(self, batch: Batch) -> dict[str, int]:
        """Return nothing: torch holds the memory."""
        return {}

    def reset(self) -> None:
        """Go back to the initial weights and a fresh optimizer."""
        with torch.no_grad():
            for value, initial in zip(self._values(), self._initial, strict=True):
                value.copy_(initial)
        self._optimizer = build_optimizer(self._parameters, self._config, fused=None)

    def close(self) -> None:
        """Free shared memory and leave the process group (collective)."""
        self._statistics.free()
        dist.destroy_process_group()

    def _values(self) -> list[DTensor]:
        values = [parameter.data for parameter in self._parameters]
        return [value for value in values if isinstance(value, DTensor)]
