"""torch.distributed, started through MPI: for gradient averaging over nccl or gloo, and for torch's
strategies."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import torch.distributed as dist

from nnpar_lib.config import RunConfig
from nnpar_lib.config.spread import BACKEND_DEVICES
from nnpar_lib.trainers.communication.communicator import Communicator


def summing_as_configured(communicator: Communicator, config: RunConfig) -> Communicator:
    """Return the same ranks; they sum tensors with torch.distributed where `allreduce` says so
    (collective).

    `leave_process_group` then ends its process group.
    """
    if config.allreduce not in BACKEND_DEVICES or communicator.size == 1:
        return communicator
    join_process_group(communicator, config.allreduce, config.stall_seconds)
    return communicator.summing_by(dist.all_reduce)


def join_process_group(
    communicator: Communicator, backend: str, stall_seconds: float = 0.0
) -> None:
    """Initialise torch.distributed at an address that rank 0 chooses (collective).

    An exchange that takes longer than `stall_seconds` fails; 0 leaves the limit to torch.
    """
    alone_on_node = communicator.node.size == communicator.size
    if alone_on_node:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    address = communicator.broadcast_object(
        _free_address("127.0.0.1" if alone_on_node else socket.gethostname())
    )
    if dist.is_initialized():  # by a run that ended in an error, which closes nothing
        dist.destroy_process_group()
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}",
        rank=communicator.rank,
        world_size=communicator.size,
        timeout=timedelta(seconds=stall_seconds) if stall_seconds else None,
    )


def leave_process_group() -> None:
    """Leave the process group of torch.distributed, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_address(host: str) -> str:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
