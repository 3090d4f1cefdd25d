"""One training run to several goals: how many steps until the validation error is first at or below
each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import Communicator, SingleCommunicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.data.batches import BatchSource
from nnpar_lib.trainers.data.validation import Validator, load_split
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.timeline import Timeline

# ratio of two steps at which the validation error is looked at: the resolution of the steps
CHECK_SPACING = 1.03


def run_trial(
    config: dict[str, Any], goal_errors: Sequence[float], step_limits: Sequence[int]
) -> dict[str, Any]:
    """Train until the hardest goal is reached, and no further than the limit of the easiest that is
    not.

    `goal_errors` are validation errors that fall, `step_limits` the steps at which a goal counts as
    out of reach. Return `steps`: for each goal the first checked step at which the error is at or
    below it, None where it was not reached; whether the run `diverged`; `num_steps` taken,
    `train_seconds` without the checks, `check_seconds` and `num_checks`. The config is one of a
    single rank; see `run_trial_on_ranks` for others.
    """
    return _run(RunConfig.from_parameters(config), SingleCommunicator(), goal_errors, step_limits)


def run_trial_on_ranks(
    config: dict[str, Any], goal_errors: Sequence[float], step_limits: Sequence[int]
) -> dict[str, Any]:
    """Run a trial on the first ranks while the others sleep, with an empty answer (collective over
    the world).

    Weights that are averaged now and then are looked at when they are averaged, and at no other
    time: a look would average them. See `run_trial`.
    """
    parameters, ranks = RunConfig.from_parameters(config), world()
    group = ranks.first_ranks(parameters.num_ranks)
    outcome = {} if group is None else _run(parameters, group, goal_errors, step_limits)
    ranks.idle_barrier()
    return outcome


def _run(
    config: RunConfig, group: Communicator, goal_errors: Sequence[float], step_limits: Sequence[int]
) -> dict[str, Any]:
    trial = _Trial(config, group, goal_errors, step_limits)
    trial.run()
    trial.strategy.close()  # not after an error: it is collective
    return trial.outcome


def check_steps(interval: int = 1) -> Iterator[int]:
    """Yield the steps after which the validation error is looked at: each of the first, then 3 %
    apart.

    They are rounded up to multiples of an interval.
    """
    step = 0
    while True:
        step = interval * math.ceil(max(step + 1, math.floor(step * CHECK_SPACING)) / interval)
        yield step


class _Trial:
    """A run and which goals it has reached so far."""

    def __init__(
        self,
        config: RunConfig,
        group: Communicator,
        goal_errors: Sequence[float],
        step_limits: Sequence[int],
    ) -> None:
        place(config, group)
        data = load_split(config.dataset)
        self.strategy = strategies.build(config, group, Timeline())
        self.strategy.batches = BatchSource(data, config, size=group.size, rank=group.rank)
        self._group, self._validator = group, Validator(data, config)
        self._allowed = [
            math.floor(goal * self._validator.num_examples + 1e-9) for goal in goal_errors
        ]
        self._limits = list(step_limits)
        is_local = config.strategy == "weight_averaging"
        self._interval = (config.average_every or config.num_steps_per_epoch) if is_local else 1
        self._steps: list[int] = []  # one a goal reached
        self._num_steps = self._num_checks = 0
        self._train_seconds = self._check_seconds = 0.0
        self._loss = torch.zeros(())

    @property
    def outcome(self) -> dict[str, Any]:
        missing = len(self._allowed) - len(self._steps)
        return {
            "steps": [*self._steps, *[None] * missing],
            "diverged": self._diverged,
            "num_steps": self._num_steps,
            "train_seconds": self._train_seconds,
            "check_seconds": self._check_seconds,
            "num_checks": self._num_checks,
        }

    def run(self) -> None:
        for step in check_steps(self._interval):
            self._train(min(step, self._limits[len(self._steps)]))
            self._check()
            if self._is_over:
                break

    @property
    def _is_over(self) -> bool:
        num_reached = len(self._steps)
        return (
            num_reached == len(self._allowed)
            or self._diverged
            or self._num_steps >= self._limits[num_reached]
        )

    @property
    def _diverged(self) -> bool:
        """Whether the loss is not a number any more; on several ranks, that of any part of the
        batch."""
        return not math.isfinite(self._group.sum(float(self._loss)))

    def _train(self, last: int) -> None:
        start = time.perf_counter()
        for step in range(self._num_steps, last):
            self._loss = self.strategy.step(self.strategy.batches.batch(step), step)
        float(self._loss)  # waits for the device
        self._num_steps = max(last, self._num_steps)
        self._train_seconds += time.perf_counter() - start

    def _check(self) -> None:
        """Every rank of a synchronous strategy holds the same weights, and so comes to the same
        answer."""
        start = time.perf_counter()
        self.strategy.synchronise()
        wrong = self._validator.mistakes(self.strategy.predict, self._allowed[len(self._steps)])
        for allowed in self._allowed[len(self._steps) :]:
            if wrong is not None and wrong <= allowed:
                self._steps.append(self._num_steps)
        self._num_checks += 1
        self._check_seconds += time.perf_counter() - start
