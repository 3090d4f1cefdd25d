"""Finds the fastest way to compute a config's steps on this machine: a few combinations, measured
in some seconds."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from typing import Any

from nnpar_lib.config import RunConfig
from nnpar_lib.config.run import MEMORY_FORMATS, PRECISIONS
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import load
from nnpar_lib.trainers.strategies.base import Strategy
from nnpar_lib.trainers.timeline import Timeline

PROBE_SIZE = 32  # examples a rank while precisions and memory formats are compared
MICROBATCH_SIZES = (16, 32, 64, 128)
SECONDS = 0.3  # that each combination is measured, at least, and one step more to warm up
MARGIN = (
    1.02  # another combination has to be faster than the plain one by this factor: less is noise
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A way to compute, values of a config by name, and how many examples a second all ranks
    together computed."""

    way: dict[str, Any]
    microbatch_size: int
    samples_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Return all of it by name."""
        return {
            **self.way,
            "microbatch_size": self.microbatch_size,
            "samples_per_second": self.samples_per_second,
        }


def tune(config: RunConfig, communicator: Communicator) -> tuple[RunConfig, dict[str, Any]]:
    """Return the config with the fastest combination, and what was measured and why it was chosen
    (collective).

    Precisions, memory formats and ways to convolve are compared at a small batch, then micro-batch
    sizes, and the whole batch at once, with the winner: a micro-batch costs what a batch of its
    size does. Plain float32 stays unless another is faster.
    """
    local = -(-config.global_batch_size // config.num_data_ranks)
    first = [_measure(config, communicator, way, min(PROBE_SIZE, local)) for way in _ways(config)]
    best = _fastest(first)
    sizes = [local, *(size for size in MICROBATCH_SIZES if size < local)]
    second = [_measure(config, communicator, best.way, size) for size in sizes]
    chosen = _fastest(second)
    picked = {**best.way, "microbatch_size": 0 if chosen is second[0] else chosen.microbatch_size}
    return config.replace(tune=False, **picked), {
        **picked,
        "why": _reason(first, best, second, chosen),
        "measured": [one.to_dict() for one in first + second],
    }


def _ways(config: RunConfig) -> list[dict[str, str]]:
    """Return the ways to compute that may pay for a model, the plain one first."""
    formats = MEMORY_FORMATS if config.model != "mlp" else ("contiguous",)
    ways = [(*one, "torch") for one in itertools.product(PRECISIONS, formats)]
    if config.model == "resnet18":  # the others have no images small enough
        ways += [(precision, "channels_last", "im2col") for precision in PRECISIONS]
    return [
        dict(zip(("precision", "memory_format", "convolution"), way, strict=True)) for way in ways
    ]


def _fastest(measured: list[Measured]) -> Measured:
    """Return the fastest, the first of the list where no other is clearly faster."""
    best = max(measured, key=lambda one: one.samples_per_second)
    return (
        best if best.samples_per_second > MARGIN * measured[0].samples_per_second else measured[0]
    )


def _reason(first: list[Measured], best: Measured, second: list[Measured], chosen: Measured) -> str:
    gain = best.samples_per_second / first[0].samples_per_second
    cut = chosen.samples_per_second / second[0].samples_per_second
    way = ", ".join(part for part in best.way.values() if part != "torch")
    return (
        f"{way}: {gain:.2f} times the samples/s of plain float32 at a local batch of"
        f" {best.microbatch_size}; {chosen.microbatch_size} examples at a time: {cut:.2f} times"
        f" those of {second[0].microbatch_size} at once"
    )


def _measure(
    config: RunConfig, communicator: Communicator, way: dict[str, Any], size: int
) -> Measured:
    """Take steps of `size` examples a rank for a moment; the slowest rank's time counts
    (collective)."""
    num_examples = min(size * config.num_data_ranks, len(load(config.dataset).train_labels))
    trial = config.replace(**way, tune=False, microbatch_size=0, global_batch_size=num_examples)
    strategy = strategies.build(trial, communicator, Timeline())
    num_steps = math.ceil(SECONDS / _time_step(strategy, communicator, 0))
    seconds = statistics.median(
        _time_step(strategy, communicator, 1 + step) for step in range(num_steps)
    )
    strategy.close()  # not after an error: it is collective
    return Measured(way, size, trial.global_batch_size / seconds)


def _time_step(strategy: Strategy, communicator: Communicator, step: int) -> float:
    communicator.barrier()
    start = time.perf_counter()
    float(strategy.step(strategy.batches.batch(step), step))  # waits for the device
    return communicator.max(time.perf_counter() - start)
