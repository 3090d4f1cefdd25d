"""Rules across the sections of a config: each mistake is one line with its remedy."""

from __future__ import annotations

import itertools
import re
from typing import Any

from nnpar_lib.parts import BALANCES

RunConfig = Any

PIPELINES = ("pipeline", "hybrid", "torch_pipelining")  # cut the model into stages
ACCUMULATING = (
    "serial",
    "gradient_averaging",
    "weight_averaging",
    "tensor",
)  # may compute a batch in micro-batches
NATIVE_OFFERS = {
    "model": ("mlp",),
    "optimizer": ("sgd", "momentum"),
    "dtype": ("float32",),
    "device": ("cpu",),
    "data_loading": ("memory",),
    "precision": ("float32",),
    "memory_format": ("contiguous",),
    "convolution": ("torch",),
}
CARRIED_DEVICE = {
    "nccl": "cuda",
    "gloo": "cpu",
}  # whose tensors a communicator of torch.distributed sums
OF_TORCH_DISTRIBUTED = ("torch_ddp", "torch_pipelining")
RECORDING = ("serial", "gradient_averaging")  # may take recorded steps


def check_cuts(config: RunConfig, num_examples: int) -> None:
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


def check_offers(config: RunConfig) -> None:
    """Raise a ValueError where a strategy has not what the config asks for."""
    if config.is_native:
        _check_native(config)
    if config.communicator != "mpi":
        _check_communicator(config)
    if config.cuda_graph:
        _check_recording(config)


def needs_own_gpus(config: RunConfig) -> bool:
    """Return whether ranks exchange over nccl, which refuses two of them on one GPU."""
    return (
        config.device == "cuda"
        and config.num_ranks > 1
        and (config.communicator == "nccl" or config.strategy in OF_TORCH_DISTRIBUTED)
    )


def shared_gpus(config: RunConfig, num_ranks: int, num_gpus: int) -> str:
    """Return what is wrong where so many ranks of a node would share so many GPUs and must not,
    else nothing."""
    if num_ranks <= num_gpus or not needs_own_gpus(config):
        return ""
    who = (
        f"strategy {config.strategy!r}"
        if config.communicator == "mpi"
        else f"communicator={config.communicator!r}"
    )
    return (
        f"{who} needs a GPU for each rank, but num_ranks={config.num_ranks} puts {num_ranks} ranks"
        f" of a node on {num_gpus}; take fewer ranks, or gradient_averaging with communicator='mpi'"
    )


def _check_native(config: RunConfig) -> None:
    if config.checkpoint is not None:
        raise ValueError(
            f"checkpoint={config.checkpoint!r} is not offered by strategy {config.strategy!r};"
            " leave it out, or choose a strategy in Python"
        )
    for name, choices in NATIVE_OFFERS.items():
        if getattr(config, name) not in choices:
            raise ValueError(
                f"{name}={getattr(config, name)!r} is not offered by strategy {config.strategy!r}; "
                f"choose {' or '.join(choices)}, or a strategy in Python"
            )


def _check_communicator(config: RunConfig) -> None:
    name, device = config.communicator, CARRIED_DEVICE[config.communicator]
    if config.strategy != "gradient_averaging":
        raise ValueError(
            f"communicator={name!r} is not used by strategy {config.strategy!r}; leave it out, or"
            " choose gradient_averaging"
        )
    if config.device != device:
        raise ValueError(
            f"communicator={name!r} sums tensors on device={device!r}, not on {config.device!r};"
            f" choose communicator='mpi' or device={device!r}"
        )
    if config.allreduce == "overlapped":
        raise ValueError(
            f"allreduce='overlapped' is done by MPI, not by communicator={name!r}; leave one of"
            " them out"
        )


def _check_recording(config: RunConfig) -> None:
    """Refuse a graph of steps that wait for the host in between, or for other ranks."""
    num_ranks, reason = config.num_ranks, ""
    if config.strategy not in RECORDING:
        reason = f"strategy {config.strategy!r}; choose from {', '.join(RECORDING)}"
    elif config.data_loading == "loader":
        reason = "data_loading='loader', which makes batches on the CPU; use data_loading='memory'"
    elif config.allreduce == "overlapped" and num_ranks > 1:
        reason = (
            "allreduce='overlapped', which sends gradients in the middle of a step; use 'shared' or"
            " 'mpi'"
        )
    elif config.optimizer == "adagrad":
        reason = "optimizer='adagrad', which counts its steps on the CPU; choose another optimizer"
    elif config.model == "resnet18" and config.batch_norm == "synchronised" and num_ranks > 1:
        reason = (
            "batch_norm='synchronised', which exchanges in the middle of a step; use"
            " batch_norm='local'"
        )
    if reason:
        raise ValueError(f"cuda_graph is not offered with {reason}")
