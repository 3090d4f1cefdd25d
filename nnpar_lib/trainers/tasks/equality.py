"""The proof that a parallel strategy changes nothing: the same few steps, serially and in parallel,
compared."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import ComparisonRecord
from nnpar_lib.records.provenance import provenance
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import Communicator, SingleCommunicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.loop.training import evaluate
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.timeline import Timeline

NUM_STEPS = 20
PARALLEL_ONLY = (
    "data_loading",
    "average_every",
    "allreduce",
    "bucket_kib",
    "schedule",
    "num_microbatches",
    "num_chunks",
    "pipeline_size",
    "balance",
    "memory_budget_mib",
    "checkpoint",
    "checkpoint_every",
    "stall_seconds",
    "communicator",
    "cuda_graph",
)  # say how to compute, not what


@dataclass(frozen=True)
class Outcome:
    """Where a few steps lead: flat weights after the first and the last of them, mean loss, test
    accuracy."""

    first_weights: Tensor
    last_weights: Tensor
    mean_loss: float
    accuracy: float


def difference_from_serial(config: dict[str, Any]) -> dict[str, float]:
    """Train 20 steps in parallel and serially, and compare (collective over the first `num_ranks`
    ranks of the world).

    The steps straddle the end of the first epoch, so that its short last batch is among them.
    Return, on the ranks that take part, relative differences (2-norms) of `first_update`, of that
    of the parameter where it is largest (`worst_parameter`), of `weights`, of the mean `loss`, and
    of the `accuracy`; `moved`, the relative change of the weights by the steps; `num_distinct`
    copies of them among the ranks.
    """
    parallel, ranks = RunConfig.from_parameters(config), world()
    group = ranks.first_ranks(parallel.num_ranks)
    found = {} if group is None else _compare(parallel, group)
    ranks.idle_barrier()
    return found


def measure(
    configs: Sequence[dict[str, Any]], experiment: str = "comparison"
) -> list[dict[str, Any]]:
    """Compare each parallel run with a serial one, as `difference_from_serial` does (collective
    over the world).

    Return ComparisonRecords as dicts on rank 0, an empty list elsewhere.
    """
    ranks = world()
    records: list[ComparisonRecord] = []
    for config in configs:
        parameters, origin = RunConfig.from_parameters(config), provenance()
        group = ranks.first_ranks(parameters.num_ranks)
        gpu = {} if group is None else place(parameters, group).gpu
        differences = difference_from_serial(config)
        if ranks.rank == 0:
            records.append(
                ComparisonRecord(
                    differences=differences,
                    config=config,
                    gpu=gpu,
                    provenance=origin,
                    experiment=experiment,
                )
            )
    return [dataclasses.asdict(record) for record in records]


def _compare(config: RunConfig, group: Communicator) -> dict[str, float]:
    place(config, group)
    outcome = _train(config, group)
    copies = group.gather_objects(hashlib.sha256(outcome.last_weights.numpy().data).hexdigest())
    found = (
        None
        if copies is None
        else {**_differences(config, outcome), "num_distinct": len(set(copies))}
    )
    group.idle_barrier()  # the others sleep while the first rank trains serially
    return dict(group.broadcast_object(found))


def _differences(config: RunConfig, outcome: Outcome) -> dict[str, float]:
    """Train serially, and return how far a parallel run has ended from there."""
    expected, initial = (
        _train_serially(serial_twin(config)),
        list(networks.build(config).parameters()),
    )
    sizes, start = [parameter.numel() for parameter in initial], _flat(initial)
    update, expected_update = outcome.first_weights - start, expected.first_weights - start
    return {
        "first_update": _relative(update, expected_update),
        "worst_parameter": max(map(_relative, update.split(sizes), expected_update.split(sizes))),
        "weights": _relative(outcome.last_weights, expected.last_weights),
        "loss": abs(outcome.mean_loss - expected.mean_loss) / expected.mean_loss,
        "accuracy": abs(outcome.accuracy - expected.accuracy),
        "moved": _relative(expected.last_weights, start),
    }


def serial_twin(config: RunConfig) -> RunConfig:
    """Return the serial run that a parallel one has to equal, without a checkpoint."""
    defaults = RunConfig()
    return config.replace(
        strategy="serial", num_ranks=1, **{name: getattr(defaults, name) for name in PARALLEL_ONLY}
    )


@cache
def _train_serially(config: RunConfig) -> Outcome:
    return _train(config, SingleCommunicator())


def _train(config: RunConfig, group: Communicator) -> Outcome:
    strategy = strategies.build(config, group, Timeline())
    first = max(0, config.num_steps_per_epoch - NUM_STEPS // 2)
    loss_sum, num_examples = 0.0, 0
    for step in range(first, first + NUM_STEPS):
        batch = strategy.batches.batch(step)
        loss_sum += float(strategy.step(batch, step))
        num_examples += len(batch.labels) if batch.is_counted else 0
        if step == first:
            first_weights = _flat(strategy.whole_parameters())
    strategy.synchronise()
    outcome = Outcome(
        first_weights,
        _flat(strategy.whole_parameters()),
        group.sum(loss_sum) / group.sum(num_examples),
        evaluate(strategy, config, group),
    )
    strategy.close()
    return outcome


def _flat(parameters: Iterable[Tensor]) -> Tensor:
    return torch.cat([parameter.detach().cpu().reshape(-1) for parameter in parameters])


def _relative(one: Tensor, other: Tensor) -> float:
    return float(
        (one.double() - other.double()).norm() / other.double().norm().clamp_min(torch.finfo().tiny)
    )
