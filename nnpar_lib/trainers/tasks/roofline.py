"""The time of a step, block by block, against two ceilings measured in the same run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import RooflineRecord
from nnpar_lib.records.provenance import provenance
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.step import block_seconds
from nnpar_lib.trainers.tasks.block_work import summarize

GEMM_SIZE = 1024  # rows and columns of the matrix product whose rate is the compute ceiling
COPIED_BYTES = 2**27  # many times the size of a cache
NUM_REPEATS = 7


def measure(
    configs: Sequence[dict[str, Any]], experiment: str = "roofline"
) -> list[dict[str, Any]]:
    """Time each block's passes over a batch, and both ceilings, on the first rank (collective).

    The other ranks sleep. Return RooflineRecords as dicts on rank 0, an empty list elsewhere. The
    update of the weights is not timed, and its bytes are not counted.
    """
    ranks = world()
    records = (
        [_measure(RunConfig.from_parameters(config), experiment) for config in configs]
        if ranks.rank == 0
        else []
    )
    ranks.idle_barrier()
    return [dataclasses.asdict(record) for record in records]


def _measure(parameters: RunConfig, experiment: str) -> RooflineRecord:
    batch_size = parameters.global_batch_size
    origin = provenance()  # of the machine before this rank is bound
    place(parameters, SingleCommunicator())
    gemm = gemm_rate(parameters)
    copy = copy_rate(parameters)
    profiles = block_seconds.profile(parameters, batch_size, NUM_REPEATS)
    rows = summarize(parameters, batch_size, with_update=False)
    blocks = [
        {**row, "seconds": profile.seconds} for row, profile in zip(rows, profiles, strict=True)
    ]
    return RooflineRecord(
        model=parameters.model,
        precision=parameters.precision,
        memory_format=parameters.memory_format,
        batch_size=batch_size,
        num_threads=torch.get_num_threads(),
        ceiling_flop_per_second=gemm,
        bytes_per_second=copy,
        blocks=blocks,
        config=parameters.to_dict(),
        provenance=origin,
        experiment=experiment,
    )


def gemm_rate(config: RunConfig) -> float:
    """Return the FLOP/s of a large matrix product in the config's precision."""
    dtype = torch.bfloat16 if config.precision == "bf16" else getattr(torch, config.dtype)
    left = torch.ones(GEMM_SIZE, GEMM_SIZE, dtype=dtype, device=config.device)
    right = torch.ones_like(left)
    return 2 * GEMM_SIZE**3 / _fastest(lambda: torch.mm(left, right), config.device)


def copy_rate(config: RunConfig) -> float:
    """Return the bytes per second that a copy of a large buffer reads and writes."""
    source = torch.ones(COPIED_BYTES // 4, dtype=torch.float32, device=config.device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / _fastest(lambda: target.copy_(source), config.device)


def _fastest(operation: Callable[[], object], device: str) -> float:
    """Return the seconds of the fastest repeat: a ceiling is the best that the machine can do."""
    times = []
    for _ in range(NUM_REPEATS + 2):
        start = time.perf_counter()
        operation()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[2:])
