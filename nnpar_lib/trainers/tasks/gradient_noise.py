"""The gradient noise scale from data-parallel steps: norms of the gradient before and after the sum
over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.data.batches import BatchSource
from nnpar_lib.trainers.data.validation import load_split
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.timeline import Timeline


def gradient_norms(config: dict[str, Any], measured_steps: Sequence[int]) -> list[dict[str, Any]]:
    """Train in parallel and return the squared norms of gradients at some steps (collective over
    the world).

    A dict a step, the same on the `num_ranks` ranks that take part: `small_square_norm` of a rank's
    own mean gradient, averaged over ranks, over `small_batch_size` examples; `big_square_norm` of
    the mean over the whole batch of `big_batch_size`; and `num_examples` of the set that they are
    drawn from. Every rank's part must be of one size: a global batch that the ranks do not divide
    is a ValueError, and a last, short batch is not measured.
    """
    parameters, ranks = RunConfig.from_parameters(config), world()
    if parameters.num_ranks < 2 or parameters.global_batch_size % parameters.num_ranks:
        raise ValueError(
            f"num_ranks={parameters.num_ranks} ranks do not divide a batch of "
            f"{parameters.global_batch_size} into equal parts of several; take 2 and an even batch"
        )
    group = ranks.first_ranks(parameters.num_ranks)
    found = [] if group is None else _train(parameters, group, set(measured_steps))
    ranks.idle_barrier()
    return found


def _train(config: RunConfig, group: Communicator, measured: set[int]) -> list[dict[str, Any]]:
    place(config, group)
    data, replica = load_split(config.dataset), Replica(config, Timeline())
    batches = BatchSource(data, config, size=group.size, rank=group.rank)
    gradient = torch.zeros_like(replica.weights)
    replica.use_gradient(gradient)
    found = []
    for step in range(max(measured, default=-1) + 1):
        batch = batches.batch(step)
        replica.compute_gradient(batch)
        own = float(gradient.double().square().sum()) if step in measured else 0.0
        group.allreduce_sum_(gradient)
        if step in measured and batch.num_global_examples == config.global_batch_size:
            found.append(
                {
                    "step": step,
                    "small_square_norm": group.sum(own * group.size**2) / group.size,
                    "big_square_norm": float(gradient.double().square().sum()),
                    "small_batch_size": config.global_batch_size // group.size,
                    "big_batch_size": config.global_batch_size,
                    "num_examples": len(data.train_labels),
                }
            )
        replica.update(step)
    return found
