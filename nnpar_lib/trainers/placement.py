"""Which cores a rank runs on, and with how many threads."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.group import Communicator

INITIAL_CORES = frozenset(os.sched_getaffinity(0))  # as the launcher left them, before any run binds this process


@dataclass(frozen=True)
class Placement:
    """What a rank was given: threads, whether it has cores of its own, and whether its node has too few of them."""

    num_threads: int
    bound: bool
    oversubscribed: bool


def place(config: RunConfig, communicator: Communicator) -> Placement:
    """Set this process's threads and cores for a run (collective); return the same answer on all ranks of a node.

    A rank that is bound cannot be moved onto another's core by the operating system, which a launcher that binds
    nothing allows.
    """
    node = communicator.node
    cores = sorted(set().union(*node.allgather_objects(INITIAL_CORES)))
    num_threads = config.num_threads or max(1, len(cores) // node.size)
    fits = num_threads * node.size <= len(cores)
    bound = config.binding == "core" and fits
    first = node.rank * num_threads
    _bind(cores[first:first + num_threads] if bound else cores)
    torch.set_num_threads(num_threads)
    if config.device == "cuda":
        torch.cuda.set_device(node.rank % torch.cuda.device_count())
    return Placement(num_threads=num_threads, bound=bound, oversubscribed=not fits)


def _bind(cores: list[int]) -> None:
    """Bind every thread of this process, for those of the thread pool outlive a run."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has just ended, or a core that the launcher keeps from this rank
            os.sched_setaffinity(int(task.name), cores)
