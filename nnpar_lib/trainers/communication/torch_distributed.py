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
    """Return the ranks, which sum tensors over torch.distributed where `allreduce` says so
    (collective).

    Where that is a library of torch.distributed, `leave_process_group` ends it.
    """
    if config.allreduce not in BACKEND_DEVICES or communicator.size == 1:
        return communicator
    join_process_group(communicator, config.allreduce, config.stall_seconds)
    return communicator.summing_by(dist.all_reduce)


def join_process_group(
    communicator: Communicator, backend: str, stall_seconds: float = 0.0
) -> None:
    """Meet at an address that rank 0 chooses and MPI spreads; an exchange longer than
    `stall_seconds` is given up.

    0 leaves the limit to torch.
    """
    alone_on_node = communicator.node.size == communicator.size
    if alone_on_node:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    address = communicator.broadcast_object(
        _free_address("127.0.0.1" if alone_on_node else socket.gethostname())
    )
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}",
        rank=communicator.rank,
        world_size=communicator.size,
        timeout=timedelta(seconds=stall_seconds) if stall_seconds else None,
    )


def leave_process_group() -> None:
    """Leave the group of torch.distributed, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_address(host: str) -> str:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
