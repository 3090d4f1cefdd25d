"""Which cores and which GPU a rank runs on, and with how many threads."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nnpar_lib.config import RunConfig, rules
from nnpar_lib.records.provenance import INITIAL_CORES
from nnpar_lib.trainers.communication.communicator import Communicator


@dataclass(frozen=True)
class Placement:
    """What a rank was given: threads, whether they are bound, whether the node has too few cores.

    `gpu` is empty on a CPU. Else it has the `name` of the GPU, the number of GPUs that the node's
    ranks use (`num_gpus`), the largest number of ranks on a GPU (`ranks_per_gpu`), and whether MPI
    takes tensors from it directly (`cuda_aware_mpi`) or through pinned memory of the host.
    """

    num_threads: int
    bound: bool
    oversubscribed: bool
    gpu: dict[str, Any] = field(default_factory=dict)


def place(config: RunConfig, communicator: Communicator) -> Placement:
    """Set this process's threads, cores and GPU for a run (collective); return them.

    The operating system cannot move a bound rank to the core of another. Ranks take the GPUs of
    their node in turn. Raises a ValueError, on all ranks of a node, where they would share GPUs and
    must not.
    """
    node = communicator.node
    cores = sorted(set().union(*node.allgather_objects(INITIAL_CORES)))
    num_threads = config.num_threads or max(1, len(cores) // node.size)
    fits = num_threads * node.size <= len(cores)
    bound = config.binding == "core" and fits
    first = node.rank * num_threads
    _bind(cores[first : first + num_threads] if bound else cores)
    torch.set_num_threads(num_threads)
    gpu = _take_gpu(config, node) if config.device == "cuda" else {}
    return Placement(num_threads=num_threads, bound=bound, oversubscribed=not fits, gpu=gpu)


def describe_gpu(placement: Placement, communicator: Communicator) -> dict[str, Any]:
    """Return `Placement.gpu` of the first rank, and `peak_bytes`, the most that torch's tensors
    held at a time on the GPU of a rank since it was placed; {} on a CPU (collective)."""
    gpu: dict[str, Any] = communicator.broadcast_object(placement.gpu)
    if gpu:
        gpu = {**gpu, "peak_bytes": int(communicator.max(torch.cuda.max_memory_allocated()))}
    return gpu


def _take_gpu(config: RunConfig, node: Communicator) -> dict[str, Any]:
    """Take this rank's GPU (collective over the node); ranks that share it see the same UUID."""
    torch.cuda.set_device(node.rank % torch.cuda.device_count())
    # torch's default rounds the inputs of convolutions to 10 bits: float32 means float32 here
    torch.backends.cudnn.allow_tf32 = False
    torch.cuda.reset_peak_memory_stats()
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    ranks_by_gpu = Counter(node.allgather_objects(str(gpu.uuid)))
    problem = rules.shared_gpus(config, node.size, len(ranks_by_gpu))
    if problem:
        raise ValueError(problem)
    return {
        "name": gpu.name,
        "num_gpus": len(ranks_by_gpu),
        "ranks_per_gpu": max(ranks_by_gpu.values()),
        "cuda_aware_mpi": node.takes_gpu_tensors,
    }


def _bind(cores: list[int]) -> None:
    """Bind every thread of this process: those of the thread pool outlive a run."""
    for task in Path("/proc/self/task").iterdir():
        # a thread may have ended, and a launcher may keep a core from this rank
        with suppress(OSError):
            os.sched_setaffinity(int(task.name), cores)
