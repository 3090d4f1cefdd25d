"""Finds the fastest way to compute a config's steps on this machine: a few combinations, measured in some seconds."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from typing import Any

from nnpar_lib.config import MEMORY_FORMATS, PRECISIONS, RunConfig
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.data import load
from nnpar_lib.trainers.group import Communicator
from nnpar_lib.trainers.strategies.base import Strategy
from nnpar_lib.trainers.timeline import Timeline

PROBE_SIZE = 32  # examples a rank while precisions and memory formats are compared
MICROBATCH_SIZES = (16, 32, 64, 128)
SECONDS = 0.3  # that each combination is measured, at least, and one step more to warm up
MARGIN = 1.02  # another combination has to be faster than the plain one by this factor: less is noise


@dataclasses.dataclass(frozen=True)
class Measured:
    """A combination and how many examples a second all ranks together computed."""

    precision: str
    memory_format: str
    microbatch_size: int
    samples_per_second: float


def tune(config: RunConfig, communicator: Communicator) -> tuple[RunConfig, dict[str, Any]]:
    """Return the config with the fastest combination, and what was measured and why it was chosen (collective).

    Precisions and memory formats are compared at a small batch, then micro-batch sizes, and the whole batch at once,
    with the winner: a micro-batch costs what a batch of its size does. Plain float32 stays unless another is faster.
    """
    local = -(-config.global_batch_size // config.num_data_ranks)
    formats = [(precision, memory_format, min(PROBE_SIZE, local))
               for precision, memory_format in itertools.product(PRECISIONS, MEMORY_FORMATS)
               if config.model != "mlp" or memory_format == "contiguous"]
    first = [_measure(config, communicator, *one) for one in formats]
    best = _fastest(first)
    sizes = [local, *(size for size in MICROBATCH_SIZES if size < local)]
    second = [_measure(config, communicator, best.precision, best.memory_format, size) for size in sizes]
    chosen = _fastest(second)
    whole = chosen is second[0]
    found = config.replace(precision=best.precision, memory_format=best.memory_format, tune=False,
                           microbatch_size=0 if whole else chosen.microbatch_size)
    return found, {"precision": found.precision, "memory_format": found.memory_format,
                   "microbatch_size": found.microbatch_size, "why": _reason(first, best, second, chosen),
                   "measured": [dataclasses.asdict(one) for one in first + second]}


def _fastest(measured: list[Measured]) -> Measured:
    """Return the fastest, the first of the list where no other is clearly faster."""
    best = max(measured, key=lambda one: one.samples_per_second)
    return best if best.samples_per_second > MARGIN * measured[0].samples_per_second else measured[0]


def _reason(first: list[Measured], best: Measured, second: list[Measured], chosen: Measured) -> str:
    gain = best.samples_per_second / first[0].samples_per_second
    cut = chosen.samples_per_second / second[0].samples_per_second
    return (f"{best.precision}, {best.memory_format}: {gain:.2f} times the samples/s of plain float32 at a local batch "
            f"of {best.microbatch_size}; {chosen.microbatch_size} examples at a time: {cut:.2f} times those of "
            f"{second[0].microbatch_size} at once")


def _measure(config: RunConfig, communicator: Communicator, precision: str, memory_format: str, size: int) -> Measured:
    """Take steps of `size` examples a rank for a moment; the slowest rank's time counts (collective)."""
    trial = config.replace(precision=precision, memory_format=memory_format, tune=False, microbatch_size=0,
                           global_batch_size=min(size * config.num_data_ranks, len(load(config.dataset).train_labels)))
    strategy = strategies.build(trial, communicator, Timeline())
    try:
        num_steps = math.ceil(SECONDS / _time_step(strategy, communicator, 0))
        seconds = statistics.median(_time_step(strategy, communicator, 1 + step) for step in range(num_steps))
    finally:
        strategy.close()
    return Measured(precision, memory_format, size, trial.global_batch_size / seconds)


def _time_step(strategy: Strategy, communicator: Communicator, step: int) -> float:
    communicator.barrier()
    start = time.perf_counter()
    float(strategy.step(strategy.batches.batch(step), step))  # waits for the device
    return communicator.max(time.perf_counter() - start)
