"""Rules across the sections of a config: each mistake is one line with its remedy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from nnpar_lib.config.sections import OPTIONS, Sections, native_values, readers
from nnpar_lib.config.spread import BACKEND_DEVICES, OF_TORCH_DISTRIBUTED, PIPELINES
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES
from nnpar_lib.parts import BALANCES
from nnpar_lib.schedules import SPLITTING


def check(config: Sections) -> None:
    """Raise a ValueError where options of different sections do not go together."""
    _check_batch_size(config)
    _check_data_loading(config)
    if config.strategy in PIPELINES:
        _check_pipeline(config)
    if config.microbatch_size or config.tune:
        _check_accumulation(config)
    _check_recomputation(config)
    if config.strategy == "tensor":
        _check_tensor(config)
    if config.model == "resnet18":
        _check_batch_norm(config)
    if config.is_native:
        _check_native(config)
    if config.allreduce in BACKEND_DEVICES and config.strategy == "gradient_averaging":
        _check_backend(config)
    if config.record:
        _check_recording(config)
    if config.strategy in ("sharded", "torch_fsdp"):
        _check_sharded(config)


def check_given(config: Sections, given: Iterable[str]) -> None:
    """Raise a ValueError where one of the options that a user gave has no effect on the run.

    A config itself is tolerant, so that a sweep may change the strategy alone.
    """
    for name in given:
        reader = config.unread_because_of(name)
        if reader is not None:
            value = getattr(config, reader)
            readable = OPTIONS[name].read_by[reader]
            raise ValueError(
                f"{name} is not read by {reader} {value}; leave it out, or choose"
                f" {', '.join(readable)}"
            )


def needs_own_gpus(config: Sections) -> bool:
    """Return whether ranks exchange over nccl, which refuses two of them on one GPU."""
    sums_over_nccl = config.allreduce == "nccl" and config.reads("allreduce")
    return (
        config.device == "cuda"
        and config.num_ranks > 1
        and (sums_over_nccl or config.strategy in OF_TORCH_DISTRIBUTED)
    )


def shared_gpus(config: Sections, num_ranks: int, num_gpus: int) -> str:
    """Return what is wrong where ranks of a node would share GPUs and must not, else nothing.

    `num_ranks` is the number of ranks on the node and `num_gpus` that of its GPUs.
    """
    if num_ranks <= num_gpus or not needs_own_gpus(config):
        return ""
    is_torch = config.strategy in OF_TORCH_DISTRIBUTED
    who = f"strategy {config.strategy!r}" if is_torch else f"allreduce={config.allreduce!r}"
    return (
        f"{who} needs a GPU for each rank, but num_ranks={config.num_ranks} puts {num_ranks} ranks"
        f" of a node on {num_gpus}; take fewer ranks, or gradient_averaging with allreduce='mpi'"
    )


def unrecorded_on_cpu(config: Sections) -> str:
    """Return why a CPU has no record of the steps of a config, else nothing."""
    reason = ""
    if not config.record or config.device != "cpu":
        return reason
    if config.model != "mlp":
        reason = f"model={config.model!r}, whose convolutions take most of its time; choose 'mlp'"
    elif config.precision != "float32":
        reason = f"precision={config.precision!r}; use precision='float32'"
    elif config.tune:
        reason = "tune, which tries other precisions; leave one of them out"
    return f"record is not offered on device='cpu' with {reason}" if reason else ""


def _check_data_loading(config: Sections) -> None:
    if config.strategy in (*PIPELINES, "tensor") and config.data_loading == "loader":
        raise ValueError(
            f"data_loading='loader' would be read on every rank of {config.strategy!r}; use"
            " 'memory'"
        )


def _check_batch_size(config: Sections) -> None:
    divides_batch = config.strategy not in (*PIPELINES, "tensor")
    if divides_batch and config.global_batch_size < config.num_ranks:
        raise ValueError(
            f"global_batch_size={config.global_batch_size} is smaller than"
            f" num_ranks={config.num_ranks}; each rank needs at least one example: enlarge the"
            " batch or take fewer ranks"
        )


def _check_tensor(config: Sections) -> None:
    """Refuse more ranks than the narrowest layer has features to share."""
    convolutions = {"cnn": config.channels, "resnet18": (config.width,)}
    widths = (*convolutions.get(config.model, ()), *config.hidden_widths)
    if min(widths, default=config.num_ranks) < config.num_ranks:
        raise ValueError(
            f"num_ranks={config.num_ranks} is more than the {min(widths)} features of the narrowest"
            " layer, which the strategy tensor splits; take fewer ranks or wider layers"
        )


def _check_sharded(config: Sections) -> None:
    """Refuse weights of a GPU in memory that a node shares, and layouts that FSDP has not."""
    if config.strategy == "torch_fsdp":
        if config.memory_format == "channels_last" and config.reads("memory_format"):
            raise ValueError(
                "memory_format='channels_last' is not offered by strategy 'torch_fsdp', which"
                " divides contiguous weights alone; use 'contiguous', or the strategy sharded"
            )
        return
    if config.device != "cpu" and config.allreduce == "shared":
        raise ValueError(
            "allreduce='shared' keeps the parts of strategy 'sharded' in the host's memory, not on"
            f" device={config.device!r}; use allreduce='mpi'"
        )


def _check_accumulation(config: Sections) -> None:
    """Refuse micro-batches inside a rank where the strategy has none, or has its own."""
    name = "tune" if config.tune else "microbatch_size"
    shown = name if config.tune else f"microbatch_size={config.microbatch_size}"
    if not config.reads(name):
        raise ValueError(
            f"{shown} is not offered by strategy {config.strategy!r}; choose from"
            f" {', '.join(readers(name))}, or num_microbatches in a pipeline"
        )
    if config.allreduce == "overlapped":
        raise ValueError(
            f"{shown} does not go with allreduce='overlapped', which sends a gradient as soon as it"
            " is there; use allreduce='shared' or 'mpi'"
        )


def _check_recomputation(config: Sections) -> None:
    """Refuse to compute again what a record or a split backward pass has to keep."""
    if not config.recompute:
        return
    if not config.reads("recompute"):
        raise ValueError(
            f"recompute is not offered by strategy {config.strategy!r}; choose from"
            f" {', '.join(readers('recompute'))}"
        )
    if config.record:
        raise ValueError(
            "recompute does not go with record, whose steps keep their memory anyway; leave one out"
        )
    if config.strategy in PIPELINES and config.schedule in SPLITTING:
        raise ValueError(
            f"recompute does not go with schedule={config.schedule!r}: both parts of its backward"
            " passes would compute the activations again; use schedule='1f1b'"
        )


def _check_batch_norm(config: Sections) -> None:
    """Refuse parts of a batch that are too small for a variance.

    The stem imagenet ends at a single pixel, so a part needs two examples.
    """
    is_local = config.batch_norm == "local" or config.strategy in (
        "weight_averaging",
        "root_worker",
    )
    num_parts = config.pipeline.num_microbatches if config.strategy in PIPELINES else 1
    if config.microbatch_size:
        num_parts = -(-config.global_batch_size // (config.num_data_ranks * config.microbatch_size))
    if is_local:
        num_parts *= config.num_data_ranks
    batch_size = config.global_batch_size
    if config.meets_short_batch:
        batch_size = NUM_TRAINING_EXAMPLES[config.dataset] % config.global_batch_size
    smallest = batch_size // num_parts
    needed = 2 if config.stem == "imagenet" else 1
    if smallest < needed:
        raise ValueError(
            f"global_batch_size={config.global_batch_size} leaves {smallest} examples in one of"
            f" {num_parts} parts, too few for batch normalisation; take a batch whose parts, also"
            f" those of the last, short one of an epoch, have at least {needed}"
        )


def _check_pipeline(config: Sections) -> None:
    """Refuse more stages than blocks, and more micro-batches than examples."""
    pipeline = config.pipeline
    if config.schedule in SPLITTING and pipeline.num_ranks == 1:
        raise ValueError(
            f"schedule={config.schedule!r} fills the time in which a rank waits for others, and a"
            " pipeline of one rank has none; take at least 2 ranks a pipeline, or schedule='1f1b'"
        )
    if pipeline.num_stages > config.num_blocks:
        raise ValueError(
            f"{pipeline.num_stages} stages are more than the {config.num_blocks} blocks of this "
            f"{config.model}; take fewer ranks or chunks, or give it more layers with hidden or "
            "channels"
        )
    num_local = config.global_batch_size // config.num_data_ranks
    if pipeline.num_microbatches > num_local:
        raise ValueError(
            f"num_microbatches={config.num_microbatches} is more than the {num_local} examples that"
            " a pipeline gets a step; take fewer micro-batches or a larger global_batch_size"
        )
    _check_cuts(config, pipeline.num_stages)
    if config.strategy == "torch_pipelining":
        _check_torch_pipelining(config)


def _check_cuts(config: Sections, num_stages: int) -> None:
    if config.balance in BALANCES:
        return
    if not re.fullmatch(r"\d+(,\d+)*", config.balance):
        raise ValueError(
            f"balance={config.balance!r} is neither {' nor '.join(BALANCES)} nor a list of blocks; "
            "write it like 1,3"
        )
    bounds = (0, *(config.cuts or ()), config.num_blocks)
    rises = all(start < stop for start, stop in itertools.pairwise(bounds))
    if len(bounds) != num_stages + 1 or not rises:
        raise ValueError(
            f"balance={config.balance!r} does not cut {config.num_blocks} blocks into {num_stages}"
            f" stages; give {num_stages - 1} rising numbers from 1 to {config.num_blocks - 1}"
        )


def _check_torch_pipelining(config: Sections) -> None:
    """Refuse what torch's schedules do not have: unequal micro-batches among others."""
    if config.schedule == "sequential":
        raise ValueError(
            "schedule='sequential' is not among those of torch_pipelining; use gpipe with "
            "num_microbatches=1, or the strategy pipeline"
        )
    if config.global_batch_size % config.num_microbatches or config.meets_short_batch:
        raise ValueError(
            f"global_batch_size={config.global_batch_size} does not give torch_pipelining equal"
            " micro-batches in every step; take a multiple of"
            f" num_microbatches={config.num_microbatches} that divides the training set, or stop"
            " before the end of the first epoch with num_steps"
        )
    if config.schedule == "1f1b" and config.num_microbatches < config.num_stage_ranks:
        raise ValueError(
            f"num_microbatches={config.num_microbatches} is less than the"
            f" {config.num_stage_ranks} stages, which 1f1b of torch_pipelining does not offer; take"
            " at least as many, schedule='gpipe', or the strategy pipeline"
        )
    num_rounds = max(1, config.num_microbatches // config.num_stage_ranks)
    in_rounds = config.schedule in ("interleaved", "zero_bubble")
    if in_rounds and config.num_microbatches % num_rounds:
        raise ValueError(
            f"num_microbatches={config.num_microbatches} cannot be interleaved by torch_pipelining;"
            f" take a multiple of num_ranks={config.num_ranks}, or the strategy pipeline"
        )


def _check_native(config: Sections) -> None:
    """Refuse what the program in C++ does not offer."""
    if config.checkpoint is not None:
        raise ValueError(
            f"checkpoint={config.checkpoint!r} is not offered by strategy {config.strategy!r};"
            " leave it out, or choose a strategy in Python"
        )
    for name in OPTIONS:
        value = getattr(config, name)
        offered = native_values(name)
        if offered and value not in offered:
            raise ValueError(
                f"{name}={value!r} is not offered by strategy {config.strategy!r}; "
                f"choose {' or '.join(map(str, offered))}, or a strategy in Python"
            )


def _check_backend(config: Sections) -> None:
    """Refuse a backend of torch.distributed that sums tensors of another device."""
    device = BACKEND_DEVICES[config.allreduce]
    if config.device != device:
        raise ValueError(
            f"allreduce={config.allreduce!r} sums tensors on device={device!r}, not on"
            f" {config.device!r}; choose allreduce='mpi' or device={device!r}"
        )


def _check_recording(config: Sections) -> None:
    """Refuse a record of steps that wait for the host in between, or for other ranks."""
    is_parallel = config.num_ranks > 1
    reason = ""
    if not config.reads("record"):
        strategies = ", ".join(readers("record"))
        reason = f"strategy {config.strategy!r}; choose from {strategies}"
    elif config.data_loading == "loader" and config.device == "cuda":
        reason = "data_loading='loader', which makes batches on the CPU; use data_loading='memory'"
    elif config.allreduce == "overlapped" and is_parallel:
        reason = (
            "allreduce='overlapped', which sends gradients in the middle of a step; use 'shared' or"
            " 'mpi'"
        )
    elif config.optimizer == "adagrad" and config.device == "cuda":
        reason = "optimizer='adagrad', which counts its steps on the CPU; choose another optimizer"
    elif config.model == "resnet18" and config.batch_norm == "synchronised" and is_parallel:
        reason = (
            "batch_norm='synchronised', which exchanges in the middle of a step; use"
            " batch_norm='local'"
        )
    if reason:
        raise ValueError(f"record is not offered with {reason}")
