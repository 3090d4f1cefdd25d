"""torch's DistributedDataParallel in the same loop, as the alternative to compare with."""

from __future__ import annotations

import copy
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.torch_distributed import join_process_group
from nnpar_lib.trainers.data.batches import Batch, Batches, batch_source, load
from nnpar_lib.trainers.models import batch_norm, networks
from nnpar_lib.trainers.models.synchronisation import synchronise
from nnpar_lib.trainers.step.optimizer import build_optimizer, set_learning_rate
from nnpar_lib.trainers.strategies.base import WholeModel
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD, UPDATE, Timeline


class TorchDDP(WholeModel):
    """DistributedDataParallel over gloo, or nccl on GPUs, as it comes or as `ddp_tuned` sets it.

    DDP takes the mean over ranks, so the loss is scaled to give uneven parts of a batch their
    weight. Its communication is inside the backward pass and is booked as computation. Before every
    step DDP gives all ranks the running statistics of the first.
    """

    measures_wait: bool = False

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        super().__init__(communicator)
        self._config = config
        self._timeline = timeline
        self._size = communicator.size
        data = load(config.dataset)
        self.batches: Batches = batch_source(
            data, config, size=communicator.size, rank=communicator.rank
        )
        join_process_group(communicator, "nccl" if config.device == "cuda" else "gloo")
        self.model = networks.build(config).to(config.device)
        self._communicator = communicator
        self._statistics = synchronise(self.model, config, communicator, timeline)
        self._initial = copy.deepcopy(self.model.state_dict())
        self._parallel = DistributedDataParallel(
            self.model, **(_tuned(self.model) if config.ddp_tuned else {})
        )
        self.reset()

    def step(self, batch: Batch, step: int) -> Tensor:
        set_learning_rate(self._optimizer, self._config, step)
        self._optimizer.zero_grad()
        loss_sum = functional.cross_entropy(
            self._parallel(batch.images), batch.labels, reduction="sum"
        )
        self._timeline.lap(FORWARD)
        (loss_sum * (self._size / batch.num_global_examples)).backward()
        self._timeline.lap(BACKWARD)
        self._optimizer.step()
        self._timeline.lap(UPDATE)
        return loss_sum.detach()

    def synchronise(self) -> None:
        batch_norm.average_running_(self.model, self._communicator)

    def reset(self) -> None:
        # in place, so that DDP keeps the buckets that it has rebuilt in the warm-up steps
        self.model.load_state_dict(self._initial)
        self._optimizer = build_optimizer(
            self.model.parameters(), self._config, fused=self._config.ddp_tuned or None
        )

    def close(self) -> None:
        self._statistics.free()
        del self._parallel
        dist.destroy_process_group()


def _tuned(model: nn.Module) -> dict[str, Any]:
    """Return what a careful user tells DDP of a model whose graph is the same in every step.

    One bucket pays the latency of an exchange once a step, as the library's own strategies do.
    """
    num_bytes = sum(parameter.nbytes for parameter in model.parameters())
    return {
        "gradient_as_bucket_view": True,
        "static_graph": True,
        "bucket_cap_mb": num_bytes / 2**20 + 1,
    }
