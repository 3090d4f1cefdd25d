"""The one generator of training steps: batch, strategy's step, and what they add up to.

Training, goal runs, tuning, noise measurements and comparisons with a serial run all take their
steps here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nnpar_lib.trainers.data.batches import Batch, Batches
from nnpar_lib.trainers.timeline import LOAD, Timeline


class Stepper(Protocol):
    """What takes a step on a batch: a strategy, or a part of one."""

    batches: Batches

    def step(self, batch: Batch, step: int) -> Tensor:
        """Train on this rank's part of a global batch; return the sum of its losses, a scalar."""


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step: its number, counted from 0, and this rank's examples and sum of losses.

    `num_examples` is 0 where the same examples are counted on another rank. `loss_sum` is a scalar
    tensor on the device that trains: to read it is to wait for the device.
    """

    number: int
    num_examples: int
    loss_sum: Tensor


def take_steps(
    stepper: Stepper, timeline: Timeline, start: int = 0, stop: int | None = None
) -> Iterator[Step]:
    """Take the steps from `start` up to, not including, `stop`, or without end; yield each.

    A step is taken when it is asked for, and its events are a list of their own in the timeline.
    All ranks ask for the same steps (collective).
    """
    for number in itertools.count(start) if stop is None else range(start, stop):
        yield _take_step(stepper, timeline, number)


def _take_step(stepper: Stepper, timeline: Timeline, number: int) -> Step:
    """Take a step; its batch is freed at the end, so that the next may use the same memory."""
    timeline.begin_step()
    batch = stepper.batches.batch(number)
    timeline.lap(LOAD)
    loss_sum = stepper.step(batch, number)
    return Step(number, len(batch.labels) if batch.is_counted else 0, loss_sum)


class StepSums:
    """The sums of the losses and examples of this rank's steps."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.clear()

    def clear(self) -> None:
        """Start again from nothing."""
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self._device)
        self.num_examples = 0

    def add(self, step: Step) -> None:
        """Add a step; the losses stay on the device, so that no step waits for it."""
        self.loss_sum = self.loss_sum + step.loss_sum
        self.num_examples += step.num_examples
