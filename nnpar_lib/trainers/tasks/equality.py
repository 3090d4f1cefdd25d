"""Shows that a parallel strategy changes nothing: the same steps, serially and in parallel, are
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
from nnpar_lib.config.sections import idle_in_serial_twin
from nnpar_lib.records.kinds import ComparisonRecord
from nnpar_lib.records.provenance import provenance
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import Communicator, SingleCommunicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.loop.steps import StepSums, take_steps
from nnpar_lib.trainers.loop.training import evaluate
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.timeline import Timeline

NUM_STEPS = 20


@dataclass(frozen=True)
class Outcome:
    """What some steps lead to: flat weights after the first and the last, mean loss, accuracy."""

    first_weights: Tensor
    last_weights: Tensor
    mean_loss: float
    accuracy: float


def difference_from_serial(config: dict[str, Any]) -> dict[str, float]:
    """Train 20 steps in parallel and serially, and compare (collective over the world).

    The steps straddle the end of the first epoch, so that its short last batch is among them.
    Return, on the first `num_ranks` ranks, relative differences (2-norms) of `first_update`, of the
    first update of the parameter where it differs most (`worst_parameter`), of `weights` and of the
    mean `loss`; the difference of `accuracy`; `moved`, the relative change of the weights by the
    steps; `num_distinct`, the number of different copies of the weights. The rest return {}.
    """
    parallel = RunConfig.from_parameters(config)
    ranks = world()
    group = ranks.first_ranks(parallel.num_ranks)
    differences = {} if group is None else _compare(parallel, group)
    ranks.idle_barrier()
    return differences


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
        parameters = RunConfig.from_parameters(config)
        origin = provenance()
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
    outcome = train(config, group)
    copies = group.gather_objects(hashlib.sha256(outcome.last_weights.numpy().data).hexdigest())
    differences = None
    if copies is not None:
        differences = {**_differences(config, outcome), "num_distinct": len(set(copies))}
    group.idle_barrier()  # the first rank trains serially meanwhile
    return dict(group.broadcast_object(differences))


def _differences(config: RunConfig, outcome: Outcome) -> dict[str, float]:
    """Train serially, and return how far from there a parallel run has ended."""
    expected = train_serially(serial_twin(config))
    initial = list(networks.build(config).parameters())
    sizes = [parameter.numel() for parameter in initial]
    start = flat(initial)
    update = outcome.first_weights - start
    expected_update = expected.first_weights - start
    return {
        "first_update": relative(update, expected_update),
        "worst_parameter": max(map(relative, update.split(sizes), expected_update.split(sizes))),
        "weights": relative(outcome.last_weights, expected.last_weights),
        "loss": abs(outcome.mean_loss - expected.mean_loss) / expected.mean_loss,
        "accuracy": abs(outcome.accuracy - expected.accuracy),
        "moved": relative(expected.last_weights, start),
    }


def serial_twin(config: RunConfig) -> RunConfig:
    """Return the serial run that a parallel one has to equal, without a checkpoint.

    It keeps its activations.
    """
    defaults = RunConfig()
    names = (*idle_in_serial_twin(), "recompute")
    return config.replace(**{name: getattr(defaults, name) for name in names})


@cache
def train_serially(config: RunConfig) -> Outcome:
    """Return the outcome of a serial run; it is kept."""
    return train(config, SingleCommunicator())


def train(config: RunConfig, group: Communicator) -> Outcome:
    """Take steps around the end of the first epoch, and return what they lead to (collective)."""
    timeline = Timeline()
    strategy = strategies.build(config, group, timeline)
    first = max(0, config.num_steps_per_epoch - NUM_STEPS // 2)
    sums = StepSums(config.device)
    for step in take_steps(strategy, timeline, first, first + NUM_STEPS):
        sums.add(step)
        if step.number == first:
            first_weights = flat(strategy.whole_parameters())
    strategy.synchronise()
    outcome = Outcome(
        first_weights,
        flat(strategy.whole_parameters()),
        group.sum(float(sums.loss_sum)) / group.sum(sums.num_examples),
        evaluate(strategy, config, group),
    )
    strategy.close()
    return outcome


def flat(parameters: Iterable[Tensor]) -> Tensor:
    """Return tensors as one flat tensor in the memory of the host."""
    return torch.cat([parameter.detach().cpu().reshape(-1) for parameter in parameters])


def relative(value: Tensor, reference: Tensor) -> float:
    """Return the 2-norm of the difference from a reference, relative to the reference's."""
    reference = reference.double()
    difference = (value.double() - reference).norm()
    return float(difference / reference.norm().clamp_min(torch.finfo().tiny))
