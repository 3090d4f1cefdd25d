"""The cost of each block of a model, on one rank alone and on all ranks at once, for
predictions."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import ProfileRecord, RunRecord
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.models import networks, sharding
from nnpar_lib.trainers.tasks.runs import Listener, PrintingListener
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD, LOAD, OTHER, UPDATE

NUM_STEPS = 6
StepSeconds = dict[tuple[str, int], float]


def profile_blocks(
    configs: Sequence[dict[str, Any]],
    batch_sizes: Sequence[Sequence[int]],
    num_repeats: int = 3,
    experiment: str = "profile",
    *,
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """Profile the models of `configs`, each with its batch sizes, on one rank and on all at once.

    The profile is an ordinary run: a pipeline on one rank, each of whose stages is a block. At once
    means that each rank runs it for itself, without messages (collective over the world). Return
    the records as dicts on rank 0, an empty list elsewhere.
    """
    ranks = world()
    listener = listener or PrintingListener()
    alone = ranks.split(range(ranks.size))
    todo = _todo(configs, batch_sizes, num_repeats, ranks.size)
    records = []
    for done, (repeat, config, size, num_ranks) in enumerate(todo):
        takes_part = ranks.rank < num_ranks
        run = train(_one_block_a_stage(config, size), alone) if takes_part else None
        gathered = ranks.gather_objects(None if run is None else _median_seconds(run.events[0]))
        if run is not None and gathered is not None:
            run = dataclasses.replace(run, repeat=repeat, experiment=experiment)
            rank_seconds = [seconds for seconds in gathered if seconds is not None]
            records.append(_profile_record(run, size, rank_seconds))
            listener.record(records[-1])
            listener.progress(
                (done + 1) / len(todo), f"profile of the {config.model}, batch {size}"
            )
        ranks.idle_barrier()
    return [dataclasses.asdict(record) for record in records]


def _todo(
    configs: Sequence[dict[str, Any]],
    batch_sizes: Sequence[Sequence[int]],
    num_repeats: int,
    num_ranks: int,
) -> list[tuple[int, RunConfig, int, int]]:
    """Return (repeat, config, batch size, number of ranks) of each profile, in order."""
    cases = []
    for parameters, sizes in zip(configs, batch_sizes, strict=True):
        config = RunConfig.from_parameters(parameters)
        cases += [(config, size, count) for size in sizes for count in sorted({1, num_ranks})]
    return [(repeat, *case) for repeat in range(num_repeats) for case in cases]


def _one_block_a_stage(config: RunConfig, batch_size: int) -> RunConfig:
    return config.replace(
        strategy="pipeline",
        num_ranks=1,
        schedule="interleaved",
        num_chunks=config.num_blocks,
        num_microbatches=1,
        balance="layers",
        global_batch_size=batch_size,
        num_steps=NUM_STEPS,
        num_epochs=1000,
        num_traced_steps=NUM_STEPS,
        num_warmup_steps=3,
        num_threads=1,
        evaluate_every=0,
        binding="none",
    )


def _profile_record(
    run: RunRecord, batch_size: int, rank_seconds: Sequence[StepSeconds]
) -> ProfileRecord:
    config = RunConfig.from_parameters(run.config)
    layers = list(networks.blocks(config))

    def mean(activity: str, block: int = -1) -> float:
        return statistics.fmean(seconds[activity, block] for seconds in rank_seconds)

    return ProfileRecord(
        model=run.model,
        num_ranks=len(rank_seconds),
        batch_size=batch_size,
        forward_seconds=[mean(FORWARD, block) for block in range(config.num_blocks)],
        backward_seconds=[mean(BACKWARD, block) for block in range(config.num_blocks)],
        load_seconds=mean(LOAD),
        update_seconds=mean(UPDATE),
        clear_seconds=mean(OTHER),
        num_parameters=[networks.num_parameters(block) for block in layers],
        num_output_elements=[
            torch.Size(shape).numel() for shape in networks.boundary_shapes(config)[1:]
        ],
        num_layer_elements=list(_layer_elements(config, layers)),
        splits=sharding.splits(config),
        config=run.config,
        provenance=run.provenance,
        experiment=run.experiment,
        repeat=run.repeat,
        oversubscribed=len(rank_seconds) > run.provenance["num_cores"],
    )


def _layer_elements(config: RunConfig, blocks: Sequence[nn.Sequential]) -> Iterator[int]:
    """Yield the outputs of each block's layer for one example, before activation and pooling."""
    for block, shape in zip(blocks, networks.boundary_shapes(config), strict=False):
        num_elements = 0
        output = torch.zeros(1, *shape, dtype=getattr(torch, config.dtype), device=config.device)
        for layer in block.eval():  # batch normalisation has no statistics of one example
            output = layer(output)
            if isinstance(layer, nn.Linear | nn.Conv2d):
                num_elements = output.numel()
        yield num_elements


def _median_seconds(events: Sequence[Sequence[Any]]) -> StepSeconds:
    """Return the seconds of each activity and stage in a step, medians over steps."""
    steps = list(_steps(events))
    keys = {key for step in steps for key in step}
    return {key: statistics.median(step.get(key, 0.0) for step in steps) for key in keys}


def _steps(events: Sequence[Sequence[Any]]) -> Iterator[StepSeconds]:
    """Yield the seconds of each activity and stage, step by step; loading a batch begins a step."""
    step: defaultdict[tuple[str, int], float] = defaultdict(float)
    for activity, stage, _, start, end in events:
        if activity == LOAD and step:
            yield step
            step = defaultdict(float)
        step[activity, stage] += end - start
    yield step
