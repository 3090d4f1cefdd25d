"""Data and model parallelism together: several pipelines, each on its part of the batch."""

from __future__ import annotations

from torch import Tensor, nn

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator, Request
from nnpar_lib.trainers.data.batches import Batch
from nnpar_lib.trainers.models import batch_norm, networks
from nnpar_lib.trainers.models.synchronisation import synchronise
from nnpar_lib.trainers.step.stage import OnGradient
from nnpar_lib.trainers.strategies.pipeline import Pipeline
from nnpar_lib.trainers.timeline import BACKWARD, COMMUNICATE, WEIGHT_GRADIENTS, Timeline


class Hybrid(Pipeline):
    """Neighbouring ranks form a pipeline; ranks that hold the same stages sum their gradients.

    In the backward pass of the last micro-batch, the exchange of a block's gradient starts as soon
    as it is complete, while earlier blocks and earlier stages still compute.
    """

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        size = config.num_stage_ranks
        self._copies = communicator.split([rank % size for rank in range(communicator.size)])
        self._reductions: list[Request] = []
        super().__init__(config, communicator, timeline)
        self._statistics = synchronise(self._replica.model, config, self._copies, timeline)

    def synchronise(self) -> None:
        """Give the copies of a stage the same running statistics (collective)."""
        batch_norm.average_running_(self._replica.model, self._copies)

    def close(self) -> None:
        self._statistics.free()

    def _compute_gradient(self, batch: Batch) -> None:
        self._num_backwards = dict.fromkeys(self._local_stages, 0)
        super()._compute_gradient(batch)
        for reduction in self._reductions:
            reduction.wait()
        self._reductions.clear()
        self._timeline.lap(COMMUNICATE)

    def _segments(self, module: nn.Sequential) -> list[nn.Sequential]:
        return [networks.network(self._config, block) for block in module]

    def _use_gradient(self, buffer: Tensor) -> None:
        super()._use_gradient(buffer)
        sizes = {}
        for number, stage in self._stages.items():
            for index, segment in enumerate(stage.segments):
                sizes[number, index] = networks.num_parameters(segment)
        self._slices = dict(zip(sizes, buffer.split(list(sizes.values())), strict=True))

    def _on_gradient(self, stage: int) -> OnGradient | None:
        """Return what starts an exchange, in the backward pass of the last micro-batch."""
        self._num_backwards[stage] += 1
        if self._num_backwards[stage] < self._pipeline.num_microbatches:
            return None
        return lambda segment: self._reduce(stage, segment)

    def _reduce(self, stage: int, index: int) -> None:
        """Start to sum a block's gradient over the pipelines; progress the earlier sums."""
        self._timeline.lap(WEIGHT_GRADIENTS if self._is_split else BACKWARD, stage)
        for reduction in self._reductions:
            reduction.test()
        self._reductions.append(self._copies.start_allreduce_sum_(self._slices[stage, index]))
        self._timeline.lap(COMMUNICATE, stage)
