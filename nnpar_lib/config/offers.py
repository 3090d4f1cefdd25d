"""What each strategy offers: a config that asks it for another device, library or program is
refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnpar_lib.config import RunConfig

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


def check(config: RunConfig) -> None:
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
