"""Cuts of a model over ranks: what a config can get wrong, each mistake one line with its remedy;
the best cuts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnpar_lib.config import RunConfig

PIPELINES = ("pipeline", "hybrid", "torch_pipelining")  # cut the model into stages
ACCUMULATING = (
    "serial",
    "gradient_averaging",
    "weight_averaging",
    "tensor",
)  # may compute a batch in micro-batches
BALANCES = ("layers", "measured")


def check(config: RunConfig, num_examples: int) -> None:
    """Raise a ValueError where the model, or a batch, cannot be cut as the config says."""
    if config.strategy in (*PIPELINES, "tensor") and config.data_loading == "loader":
        raise ValueError(
            f"data_loading='loader' would be read on every rank of {config.strategy!r}; use"
            " 'memory'"
        )
    if config.strategy in PIPELINES:
        _check_pipeline(config, num_examples)
    if config.microbatch_size or config.tune:
        _check_accumulation(config)
    if config.strategy == "tensor":
        _check_tensor(config)
    if config.model == "resnet18":
        _check_batch_norm(config, num_examples)


def _check_tensor(config: RunConfig) -> None:
    """Refuse more ranks than features to share; neighbouring layers of a kind are split in
    pairs."""
    widths = (
        *{"cnn": config.channels, "resnet18": (config.width,)}.get(config.model, ()),
        *config.hidden_widths,
    )
    if min(widths, default=config.num_ranks) < config.num_ranks:
        raise ValueError(
            f"num_ranks={config.num_ranks} is more than the {min(widths)} features of the narrowest"
            " layer, which the strategy tensor splits; take fewer ranks or wider layers"
        )


def _check_accumulation(config: RunConfig) -> None:
    """Refuse micro-batches inside a rank where the strategy has none, or has its own."""
    name = "tune" if config.tune else f"microbatch_size={config.microbatch_size}"
    if config.strategy not in ACCUMULATING:
        raise ValueError(
            f"{name} is not offered by strategy {config.strategy!r}; choose from"
            f" {', '.join(ACCUMULATING)}, or num_microbatches in a pipeline"
        )
    if config.allreduce == "overlapped":
        raise ValueError(
            f"{name} does not go with allreduce='overlapped', which sends a gradient as soon as it"
            " is there; use allreduce='shared' or 'mpi'"
        )


def _check_batch_norm(config: RunConfig, num_examples: int) -> None:
    """Refuse parts of a batch that are too small for a variance; the stem imagenet ends at a single
    pixel."""
    short = num_examples % config.global_batch_size
    meets_short = short and config.total_steps >= config.num_steps_per_epoch
    is_local = config.batch_norm == "local" or config.strategy in (
        "weight_averaging",
        "root_worker",
    )
    num_parts = config.pipeline.num_microbatches if config.strategy in PIPELINES else 1
    if config.microbatch_size:
        num_parts = -(-config.global_batch_size // (config.num_data_ranks * config.microbatch_size))
    if is_local:
        num_parts *= config.num_data_ranks
    smallest = (short if meets_short else config.global_batch_size) // num_parts
    needed = 2 if config.stem == "imagenet" else 1
    if smallest < needed:
        raise ValueError(
            f"global_batch_size={config.global_batch_size} leaves {smallest} examples in one of"
            f" {num_parts} parts, too few for batch normalisation; take a batch whose parts, also"
            f" those of the last, short one of an epoch, have at least {needed}"
        )


def _check_pipeline(config: RunConfig, num_examples: int) -> None:
    size, pipeline = config.num_stage_ranks, config.pipeline
    if config.strategy != "hybrid" and size != config.num_ranks:
        raise ValueError(
            f"pipeline_size={config.pipeline_size} is not num_ranks={config.num_ranks}, and"
            f" {config.strategy!r} has one pipeline; leave pipeline_size out, or use the strategy"
            " hybrid"
        )
    if config.num_ranks % size:
        raise ValueError(
            f"pipeline_size={size} does not divide num_ranks={config.num_ranks}; choose from "
            + ", ".join(str(n) for n in range(1, config.num_ranks + 1) if config.num_ranks % n == 0)
        )
    if pipeline.num_stages > config.num_blocks:
        raise ValueError(
            f"{pipeline.num_stages} stages are more than the {config.num_blocks} blocks of this "
            f"{config.model}; take fewer ranks or chunks, or give it more layers with hidden or "
            "channels"
        )
    num_local = config.global_batch_size // (config.num_ranks // size)
    if pipeline.num_microbatches > num_local:
        raise ValueError(
            f"num_microbatches={config.num_microbatches} is more than the {num_local} examples that"
            " a pipeline gets a step; take fewer micro-batches or a larger global_batch_size"
        )
    _check_cuts(config, pipeline.num_stages)
    if config.strategy == "torch_pipelining":
        _check_torch_pipelining(config, num_examples)


def _check_cuts(config: RunConfig, num_stages: int) -> None:
    if config.balance in BALANCES:
        return
    if not re.fullmatch(r"\d+(,\d+)*", config.balance):
        raise ValueError(
            f"balance={config.balance!r} is neither {' nor '.join(BALANCES)} nor a list of blocks; "
            "write it like 1,3"
        )
    bounds = (0, *(config.cuts or ()), config.num_blocks)
    if len(bounds) != num_stages + 1 or any(
        one >= other for one, other in itertools.pairwise(bounds)
    ):
        raise ValueError(
            f"balance={config.balance!r} does not cut {config.num_blocks} blocks into {num_stages}"
            f" stages; give {num_stages - 1} rising numbers from 1 to {config.num_blocks - 1}"
        )


def _check_torch_pipelining(config: RunConfig, num_examples: int) -> None:
    if config.schedule == "sequential":
        raise ValueError(
            "schedule='sequential' is not among those of torch_pipelining; use gpipe with "
            "num_microbatches=1, or the strategy pipeline"
        )
    short = num_examples % config.global_batch_size
    meets_short = short and config.total_steps >= config.num_steps_per_epoch
    if config.global_batch_size % config.num_microbatches or meets_short:
        raise ValueError(
            f"global_batch_size={config.global_batch_size} does not give torch_pipelining equal"
            " micro-batches in every step; take a multiple of"
            f" num_microbatches={config.num_microbatches} that divides the training set, or stop"
            " before the end of the first epoch with num_steps"
        )
    num_rounds = max(1, config.num_microbatches // config.num_stage_ranks)
    if config.schedule == "interleaved" and config.num_microbatches % num_rounds:
        raise ValueError(
            f"num_microbatches={config.num_microbatches} cannot be interleaved by torch_pipelining;"
            f" take a multiple of num_ranks={config.num_ranks}, or the strategy pipeline"
        )


def partition(seconds: Sequence[float], num_stages: int) -> list[slice]:
    """Return consecutive, non-empty parts whose largest sum is the smallest there is: the slowest
    stage sets the pace.

    Every cut is tried, for models have few blocks.
    """
    num_blocks = len(seconds)
    candidates = (
        (0, *cuts, num_blocks)
        for cuts in itertools.combinations(range(1, num_blocks), num_stages - 1)
    )
    best = min(
        candidates,
        key=lambda bounds: max(
            sum(seconds[start:stop]) for start, stop in itertools.pairwise(bounds)
        ),
    )
    return [slice(start, stop) for start, stop in itertools.pairwise(best)]
