"""The gradient noise scale from data-parallel steps: norms of the gradient before and after the sum
over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.data.batches import Batch, Batches, BatchSource
from nnpar_lib.trainers.data.validation import load_split
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.loop.steps import take_steps
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.timeline import Timeline


def gradient_norms(config: dict[str, Any], measured_steps: Sequence[int]) -> list[dict[str, Any]]:
    """Train in parallel and return squared norms of the gradient at some steps (collective over the
    world).

    Return a dict for each measured step, the same on the first `num_ranks` ranks, an empty list on
    the rest: `step`; `small_square_norm` of a rank's mean gradient over `small_batch_size`
    examples, averaged over ranks; `big_square_norm` of the mean gradient over the global batch of
    `big_batch_size`; and `num_examples`, the size of the training set. A global batch that the
    ranks do not divide evenly is a ValueError; a short last batch is not measured.
    """
    parameters = RunConfig.from_parameters(config)
    ranks = world()
    if parameters.num_ranks < 2 or parameters.global_batch_size % parameters.num_ranks:
        raise ValueError(
            f"num_ranks={parameters.num_ranks} ranks do not divide a batch of "
            f"{parameters.global_batch_size} into equal parts of several; take 2 and an even batch"
        )
    group = ranks.first_ranks(parameters.num_ranks)
    norms = [] if group is None else _train(parameters, group, set(measured_steps))
    ranks.idle_barrier()
    return norms


def _train(config: RunConfig, group: Communicator, measured: set[int]) -> list[dict[str, Any]]:
    place(config, group)
    timeline = Timeline()
    averaging = _MeasuredAveraging(config, group, timeline, measured)
    for _ in take_steps(averaging, timeline, 0, max(measured, default=-1) + 1):
        pass
    return averaging.norms


class _MeasuredAveraging:
    """Gradient averaging that looks at the gradient before and after the sum over ranks."""

    def __init__(
        self, config: RunConfig, group: Communicator, timeline: Timeline, measured: set[int]
    ) -> None:
        self._config = config
        self._group = group
        self._measured = measured
        self._replica = Replica(config, timeline)
        self._gradient = torch.zeros_like(self._replica.weights)
        self._replica.use_gradient(self._gradient)
        data = load_split(config.dataset)
        self._num_examples = len(data.train_labels)
        self.batches: Batches = BatchSource(data, config, size=group.size, rank=group.rank)
        self.norms: list[dict[str, Any]] = []

    def step(self, batch: Batch, step: int) -> Tensor:
        """Take a step of gradient averaging; keep the norms where the step is measured."""
        loss_sum = self._replica.compute_gradient(batch)
        is_whole = batch.num_global_examples == self._config.global_batch_size
        is_measured = step in self._measured and is_whole
        local_square_norm = self._square_norm() if is_measured else 0.0
        self._group.allreduce_sum_(self._gradient)
        if is_measured:
            self.norms.append(self._entry(step, local_square_norm))
        self._replica.update(step)
        return loss_sum

    def _entry(self, step: int, local_square_norm: float) -> dict[str, Any]:
        """Return the norms of a step (collective).

        A rank's addend is its mean gradient divided by the number of ranks, hence the square.
        """
        size = self._group.size
        return {
            "step": step,
            "small_square_norm": self._group.sum(local_square_norm * size**2) / size,
            "big_square_norm": self._square_norm(),
            "small_batch_size": self._config.global_batch_size // size,
            "big_batch_size": self._config.global_batch_size,
            "num_examples": self._num_examples,
        }

    def _square_norm(self) -> float:
        return float(self._gradient.double().square().sum())
