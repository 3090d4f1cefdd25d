"""Find the fastest way to compute a config's steps on this machine.

A few combinations of options are measured, each for a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from nnpar_lib.config import RunConfig
from nnpar_lib.config.computing import MEMORY_FORMATS, PRECISIONS
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import load
from nnpar_lib.trainers.loop.steps import Step, take_steps
from nnpar_lib.trainers.timeline import Timeline

PROBE_SIZE = 32  # examples a rank while precisions and memory formats are compared
MICROBATCH_SIZES = (16, 32, 64, 128)
SECONDS = 0.3  # each combination is measured for at least this long, after a step to warm up
HOPELESS = 1.5  # a combination whose first step takes this many times the best one's is dropped
MARGIN = 1.02  # a combination must be faster than the plain one by this factor: less is noise


@dataclasses.dataclass(frozen=True)
class Measured:
    """A way to compute, as values of a config by name, and the examples a second of all ranks."""

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
    """Return the config with the fastest combination, and the measurements and the reason for it
    (collective).

    Precisions, memory formats and ways to convolve are compared at a small batch, then micro-batch
    sizes, and the whole batch at once, with the winner: a micro-batch costs what a batch of its
    size does. Plain float32 stays unless another is faster.
    """
    local = -(-config.global_batch_size // config.num_data_ranks)
    probe_size = min(PROBE_SIZE, local)
    first = _measure_all(config, communicator, [(way, probe_size) for way in _ways(config)])
    best = _fastest(first)
    sizes = [local, *(size for size in MICROBATCH_SIZES if size < local)]
    second = _measure_all(config, communicator, [(best.way, size) for size in sizes])
    chosen = _fastest(second)
    picked = {**best.way, "microbatch_size": 0 if chosen is second[0] else chosen.microbatch_size}
    return config.replace(tune=False, **picked), {
        **picked,
        "why": _reason(first, best, second, chosen),
        "measured": [measured.to_dict() for measured in first + second],
    }


def _ways(config: RunConfig) -> list[dict[str, str]]:
    """Return the ways to compute that may pay for a model, the plain one first."""
    formats = MEMORY_FORMATS if config.model != "mlp" else ("contiguous",)
    ways = [_way(*pair, "torch") for pair in itertools.product(PRECISIONS, formats)]
    if config.model == "resnet18":  # the other models have no images that are small enough
        ways += [_way(precision, "channels_last", "im2col") for precision in PRECISIONS]
    return ways


def _way(precision: str, memory_format: str, convolution: str) -> dict[str, str]:
    return {
        "precision": precision,
        "memory_format": memory_format,
        "convolution": convolution,
    }


def _fastest(measured: list[Measured]) -> Measured:
    """Return the fastest way; the first of the list where none is clearly faster."""
    first = measured[0]
    best = max(measured, key=lambda way: way.samples_per_second)
    return best if best.samples_per_second > MARGIN * first.samples_per_second else first


def _reason(first: list[Measured], best: Measured, second: list[Measured], chosen: Measured) -> str:
    gain = best.samples_per_second / first[0].samples_per_second
    cut = chosen.samples_per_second / second[0].samples_per_second
    way = ", ".join(part for part in best.way.values() if part != "torch")
    return (
        f"{way}: {gain:.2f} times the samples/s of plain float32 at a local batch of"
        f" {best.microbatch_size}; {chosen.microbatch_size} examples at a time: {cut:.2f} times"
        f" those of {second[0].microbatch_size} at once"
    )


def _measure_all(
    config: RunConfig, communicator: Communicator, candidates: Sequence[tuple[dict[str, Any], int]]
) -> list[Measured]:
    """Measure ways to compute at sizes of a batch, one after the other (collective)."""
    measured: list[Measured] = []
    for way, size in candidates:
        best = max((before.samples_per_second for before in measured), default=0.0)
        measured.append(_measure(config, communicator, way, size, best / HOPELESS))
    return measured


def _measure(
    config: RunConfig,
    communicator: Communicator,
    way: dict[str, Any],
    size: int,
    least_samples_per_second: float,
) -> Measured:
    """Take steps of `size` examples a rank for `SECONDS`; the slowest rank's time counts
    (collective).

    It is left at the step after the first if that one does not reach the least rate.
    """
    num_examples = min(size * config.num_data_ranks, len(load(config.dataset).train_labels))
    trial = config.replace(**way, tune=False, microbatch_size=0, global_batch_size=num_examples)
    timeline = Timeline()
    strategy = strategies.build(trial, communicator, timeline)
    steps = take_steps(strategy, timeline)
    _time_step(steps, communicator)  # warms up
    seconds = _time_step(steps, communicator)
    if trial.global_batch_size / seconds >= least_samples_per_second:
        num_steps = math.ceil(SECONDS / seconds)
        seconds = statistics.median(_time_step(steps, communicator) for _ in range(num_steps))
    strategy.close()  # not after an error: it is collective
    return Measured(way, size, trial.global_batch_size / seconds)


def _time_step(steps: Iterator[Step], communicator: Communicator) -> float:
    """Return the seconds of the next step, the maximum over ranks (collective)."""
    communicator.barrier()
    start = time.perf_counter()
    float(next(steps).loss_sum)  # waits for the device
    return communicator.max(time.perf_counter() - start)
