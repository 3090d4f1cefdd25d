"""What each block of a model costs, alone and while the other ranks compute too: what predictions
are made from."""

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
    """Profile the models of `configs`, each with its batch sizes, on one rank alone and on all
    ranks at once.

    The profile is a run like any other: a pipeline on one rank whose every block is a stage. At
    once means that every rank has a run of its own and no message passes between them (collective
    over the world). Return the records as dicts on rank 0, an empty list elsewhere.
    """
    ranks, listener = world(), listener or PrintingListener()
    own = ranks.split(range(ranks.size))
    todo = [
        (repeat, RunConfig.from_parameters(config), size, num_ranks)
        for repeat in range(num_repeats)
        for config, sizes in zip(configs, batch_sizes, strict=True)
        for size in sizes
        for num_ranks in sorted({1, ranks.size})
    ]
    records = []
    for done, (repeat, config, size, num_ranks) in enumerate(todo):
        takes_part = ranks.rank < num_ranks
        run = train(_one_block_a_stage(config, size), own) if takes_part else None
        found = ranks.gather_objects(_median_seconds(run.events[0]) if run is not None else None)
        if run is not None and found is not None:
            run = dataclasses.replace(run, repeat=repeat, experiment=experiment)
            records.append(
                _profile_record(run, size, [seconds for seconds in found if seconds is not None])
            )
            listener.record(records[-1])
            listener.progress(
                (done + 1) / len(todo), f"profile of the {config.model}, batch {size}"
            )
        ranks.idle_barrier()
    return [dataclasses.asdict(record) for record in records]


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


def _profile_record(run: RunRecord, batch_size: int, found: Sequence[StepSeconds]) -> ProfileRecord:
    config, layers = (
        RunConfig.from_parameters(run.config),
        list(networks.blocks(RunConfig.from_parameters(run.config))),
    )

    def mean(activity: str, block: int = -1) -> float:
        return statistics.fmean(seconds[activity, block] for seconds in found)

    return ProfileRecord(
        model=run.model,
        num_ranks=len(found),
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
        oversubscribed=len(found) > run.provenance["num_cores"],
    )


def _layer_elements(config: RunConfig, blocks: Sequence[nn.Sequential]) -> Iterator[int]:
    """Yield the outputs of each block's layer for one example, before activation and pooling."""
    for block, shape in zip(blocks, networks.boundary_shapes(config), strict=False):
        output, num_elements = (
            torch.zeros(1, *shape, dtype=getattr(torch, config.dtype), device=config.device),
            0,
        )
        for layer in block:
            output = layer(output)
            if isinstance(layer, nn.Linear | nn.Conv2d):
                num_elements = output.numel()
        yield num_elements


def _median_seconds(events: Sequence[Sequence[Any]]) -> StepSeconds:
    """Return the seconds of each activity of each stage in a step: medians over steps."""
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
