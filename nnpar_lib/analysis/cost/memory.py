"""The bytes of memory that ranks need, from the sizes of a model's blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pandas as pd

from nnpar_lib import schedules
from nnpar_lib.analysis.cost import cost_model
from nnpar_lib.analysis.cost.calibration import ITEMSIZE
from nnpar_lib.analysis.cost.cost_model import Block, Model
from nnpar_lib.analysis.scaling.speedups import AlphaBeta
from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import IMAGE_SIZE
from nnpar_lib.config.training import OPTIMIZER_VALUES
from nnpar_lib.datasets.files import NUM_CLASSES
from nnpar_lib.parts import slot_sizes
from nnpar_lib.records.kinds import BY_INPUT, BY_OUTPUT, WHOLE, RunRecord

NUM_COPIES = 3  # weights, gradient, momentum


def sharded_bytes(config: RunConfig, model: Model) -> dict[str, float]:
    """Return the bytes of a rank of the strategy sharded, by the names of `RunRecord.memory`.

    Of P bytes of weights a rank holds P for weights, P for gradients and K P for the optimizer's
    state, each divided by the number of ranks where ranks divide it (Rajbhandari et al. 2020).
    `blocks` are the places of whole blocks that are gathered, or whose gradient is summed.
    """
    num_bytes = model.parameter_bytes
    optimizer_bytes = OPTIMIZER_VALUES[config.optimizer] * num_bytes
    sizes = cost_model.exchanged_together(config, model)
    blocks = 0
    if config.shard == "weights":
        blocks += sum(slot_sizes(sizes, cost_model.num_weight_slots(config, model)))
    if config.shard != "optimizer":
        num_slots = 2 if config.allreduce == "shared" else 1 + config.prefetches
        blocks += sum(slot_sizes(sizes, num_slots))
    return {
        "parameters": num_bytes / config.num_owners("weights"),
        "gradients": num_bytes / config.num_owners("gradients"),
        "optimizer": optimizer_bytes / config.num_owners("optimizer"),
        "blocks": blocks,
    }


def memory_bytes(config: RunConfig, model: Model) -> float:
    """Return the bytes of the fullest rank: weights, gradient, momentum and kept inputs."""
    p = config.num_ranks
    size = config.global_batch_size
    if config.strategy == "tensor":
        outputs = sum(block.output_bytes_per_example for block in model.blocks)
        shared = sum(
            block.output_bytes_per_example for block in model.blocks if block.split == BY_OUTPUT
        )
        held = sum(
            block.parameter_bytes / (1 if block.split == WHOLE else p) for block in model.blocks
        )
        return NUM_COPIES * held + size * (outputs - shared + shared / p)
    if config.num_stage_ranks == 1:
        whole = slice(0, len(model.blocks))
        kept = cost_model.activation_bytes(config, model, whole, size / p)
        return NUM_COPIES * model.parameter_bytes + kept
    return _pipeline_memory_bytes(config, model)


def _pipeline_memory_bytes(config: RunConfig, model: Model) -> float:
    bounds = cost_model.stage_bounds(config, model)
    pipeline = config.pipeline
    size = (
        config.global_batch_size
        / (config.num_ranks // pipeline.num_ranks)
        / pipeline.num_microbatches
    )
    held_by = cost_model.bytes_of_ranks(model, bounds, pipeline)
    kept = []
    for rank in range(pipeline.num_ranks):
        num_live = schedules.peak_live_microbatches(config.schedule, pipeline, rank)
        kept.append(cost_model.activation_bytes(config, model, bounds[rank], size, num_live))
    return max(
        NUM_COPIES * held + kept_bytes for held, kept_bytes in zip(held_by, kept, strict=True)
    )


def of_large_models(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return what it takes to train an mlp in parts, one row a run.

    `seconds` are those of a step, `memory_bytes` those of the fullest rank, as measured;
    `exchanged_bytes` is what all ranks hand on in a step.
    """
    rows = []
    for record in records:
        config = RunConfig.from_parameters(record.config)
        rows.append(
            {
                "strategy": config.strategy,
                "num_ranks": config.num_ranks,
                "seconds": record.train_seconds / record.num_steps,
                "memory_bytes": max(sum(rank.values()) for rank in record.memory),
                "exchanged_bytes": cost_model.exchanged_bytes(config, mlp_sizes(config)),
            }
        )
    return pd.DataFrame(rows)


def mlp_sizes(config: RunConfig) -> Model:
    """Return the bytes of an mlp's blocks; a pass costs a second for each byte of weights."""
    widths = (IMAGE_SIZE**2, *config.hidden_widths, NUM_CLASSES)
    itemsize = ITEMSIZE[config.dtype]
    num_layers = len(widths) - 1
    splits = [BY_OUTPUT, BY_INPUT] * (num_layers // 2) + [WHOLE] * (num_layers % 2)
    blocks = []
    for (num_in, num_out), split in zip(itertools.pairwise(widths), splits, strict=True):
        num_bytes = itemsize * (num_in + 1) * num_out
        blocks.append(
            Block(
                forward=AlphaBeta(0, num_bytes),
                backward=AlphaBeta(0, 2 * num_bytes),
                parameter_bytes=num_bytes,
                output_bytes_per_example=itemsize * num_out,
                layer_bytes_per_example=itemsize * num_out,
                split=split,
            )
        )
    return Model(blocks=blocks)
