"""torch.distributed beside MPI, for the strategies of torch that are compared with."""

from __future__ import annotations

import os
import socket

import torch.distributed as dist

from nnpar_lib.trainers.group import Communicator


def join_process_group(communicator: Communicator, backend: str) -> None:
    """Meet at an address that rank 0 chooses and MPI spreads."""
    alone_on_node = communicator.node.size == communicator.size
    if alone_on_node:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    address = communicator.broadcast_object(_free_address("127.0.0.1" if alone_on_node else socket.gethostname()))
    dist.init_process_group(backend, init_method=f"tcp://{address}", rank=communicator.rank,
                            world_size=communicator.size)


def _free_address(host: str) -> str:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
