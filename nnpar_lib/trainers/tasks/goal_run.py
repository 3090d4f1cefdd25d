"""One training run to several goals: the number of steps until the validation error is first at or
below each of them."""

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
from nnpar_lib.trainers.loop.steps import take_steps
from nnpar_lib.trainers.timeline import Timeline

# ratio of successive steps at which the validation error is checked: their resolution
CHECK_SPACING = 1.03


def run_trial(
    config: dict[str, Any], goal_errors: Sequence[float], step_limits: Sequence[int]
) -> dict[str, Any]:
    """Train one rank until every goal is reached, or the limit of the easiest unreached goal.

    `goal_errors` are falling validation errors, `step_limits` the steps after which each goal
    counts as out of reach. Return a dict: `steps` has for each goal the first checked step whose
    error is at or below it, None where it was not reached; `diverged` says whether the loss became
    infinite or NaN; `num_steps`, `train_seconds` (without checks), `check_seconds`, `num_checks`.
    See `run_trial_on_ranks` for configs of several ranks.
    """
    return _run(RunConfig.from_parameters(config), SingleCommunicator(), goal_errors, step_limits)


def run_trial_on_ranks(
    config: dict[str, Any], goal_errors: Sequence[float], step_limits: Sequence[int]
) -> dict[str, Any]:
    """Run a trial on the first `num_ranks` ranks (collective over the world); see `run_trial`.

    The rest sleep and return {}. Local weights are checked only when they have just been averaged,
    for a check averages them.
    """
    parameters = RunConfig.from_parameters(config)
    ranks = world()
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
    """Yield the steps after which the validation error is checked.

    Early steps are all checked, later ones at a distance of 3 %. Steps are rounded up to multiples
    of `interval`.
    """
    step = 0
    while True:
        step = interval * math.ceil(max(step + 1, math.floor(step * CHECK_SPACING)) / interval)
        yield step


class _Trial:
    """A run, and the goals that it has reached so far."""

    def __init__(
        self,
        config: RunConfig,
        group: Communicator,
        goal_errors: Sequence[float],
        step_limits: Sequence[int],
    ) -> None:
        place(config, group)
        data = load_split(config.dataset)
        self._timeline = Timeline()
        self.strategy = strategies.build(config, group, self._timeline)
        self.strategy.batches = BatchSource(data, config, size=group.size, rank=group.rank)
        self._group = group
        self._validator = Validator(data, config)
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
        """Whether the loss of any rank's part of the last batch is infinite or NaN (collective)."""
        return not math.isfinite(self._group.sum(float(self._loss)))

    def _train(self, last: int) -> None:
        start = time.perf_counter()
        for step in take_steps(self.strategy, self._timeline, self._num_steps, last):
            self._loss = step.loss_sum
        float(self._loss)  # waits for the device
        self._num_steps = max(last, self._num_steps)
        self._train_seconds += time.perf_counter() - start

    def _check(self) -> None:
        """Count mistakes and note the goals that are reached.

        Ranks hold the same weights after `synchronise`, and so find the same answer.
        """
        start = time.perf_counter()
        self.strategy.synchronise()
        open_goals = self._allowed[len(self._steps) :]
        num_wrong = self._validator.mistakes(self.strategy.predict, open_goals[0])
        for num_allowed in open_goals:
            if num_wrong is not None and num_wrong <= num_allowed:
                self._steps.append(self._num_steps)
        self._num_checks += 1
        self._check_seconds += time.perf_counter() - start
