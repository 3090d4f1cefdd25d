"""The time of a sweep whose trials are trained one at a time, or together as one program."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import SweepRecord
from nnpar_lib.records.provenance import provenance
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.data.batches import Batches, load
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.step.build import build_batches, build_replica
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.tasks.batched_trials import train_together
from nnpar_lib.trainers.timeline import Timeline

ALONE = "one at a time"
TOGETHER = "together"
NUM_WARMUP_TRIALS = 2
NUM_WARMUP_STEPS = 10


def measure(
    configs: Sequence[dict[str, Any]], experiment: str = "sweep", num_repeats: int = 3
) -> list[dict[str, Any]]:
    """Time the trials in both ways, in turn, on the first rank (collective over the world).

    The other ranks sleep. All trials are trained on the batches of the first. Return SweepRecords
    as dicts on rank 0, an empty list elsewhere.
    """
    ranks = world()
    records = (
        _measure([RunConfig.from_parameters(config) for config in configs], experiment, num_repeats)
        if ranks.rank == 0
        else []
    )
    ranks.idle_barrier()
    return [dataclasses.asdict(record) for record in records]


def _measure(trials: list[RunConfig], experiment: str, num_repeats: int) -> list[SweepRecord]:
    first = trials[0]
    origin = provenance()
    records = []
    gpu = place(first, SingleCommunicator()).gpu
    load(first.dataset)
    ways: dict[str, Callable[[Sequence[RunConfig]], list[float]]] = {
        ALONE: _train_alone,
        TOGETHER: _train_together,
    }
    for train in ways.values():
        train([trial.replace(num_steps=NUM_WARMUP_STEPS) for trial in trials[:NUM_WARMUP_TRIALS]])
    for repeat in range(num_repeats):
        for label, train in ways.items():
            start = time.perf_counter()
            losses = train(trials)  # floats on the host: all work that was queued on a GPU is done
            records.append(
                SweepRecord(
                    label=label,
                    num_trials=len(trials),
                    num_steps=first.total_steps,
                    seconds=time.perf_counter() - start,
                    final_losses=losses,
                    config=first.to_dict(),
                    gpu=gpu,
                    provenance=origin,
                    experiment=experiment,
                    repeat=repeat,
                )
            )
    return records


def _train_together(trials: Sequence[RunConfig]) -> list[float]:
    return [float(loss) for loss in train_together(trials).losses[-1]]


def _train_alone(trials: Sequence[RunConfig]) -> list[float]:
    """Train serially without evaluations; only the end waits for the device, so that it is fast."""
    batches = build_batches(trials[0], 1, 0)
    return [
        _last_loss(build_replica(trial, Timeline()), batches, trial.total_steps) for trial in trials
    ]


def _last_loss(replica: Replica, batches: Batches, num_steps: int) -> float:
    loss_sum = torch.zeros(())
    num_examples = 1
    for step in range(num_steps):
        batch = batches.batch(step)
        loss_sum = replica.compute_gradient(batch)
        num_examples = len(batch.labels)
        replica.update(step)
    return float(loss_sum) / num_examples
