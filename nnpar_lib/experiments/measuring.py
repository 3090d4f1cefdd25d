"""Measuring in a limited time: groups of runs, each started only if it is expected to end in
time."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnpar_lib.config import RunConfig
from nnpar_lib.launch.engines import Engines, EnginesLost, RankError, engines
from nnpar_lib.records.kinds import Record

Measure = Callable[..., Sequence[Record]]  # a method of Engines that measures configs
FAILURES = (RankError, EnginesLost, RuntimeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Part:
    """An experiment: groups of labelled configs, run interleaved, or measured by `measure`."""

    experiment: str
    num_ranks: int
    groups: tuple[Mapping[str, RunConfig], ...]
    num_repeats: int = 3
    measure: Measure | None = None

    def num_runs(self, group: Mapping[str, RunConfig]) -> int:
        """Return how many measurements a group takes."""
        return len(group) * (self.num_repeats if self.measure is None else 1)


class Budget:
    """The seconds that are left, and how long a run took at most in each experiment.

    A run of an experiment that has not begun is expected to take as long as the slowest so far.
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._slowest: dict[str, float] = {}

    def note(self, part: Part, group: Mapping[str, RunConfig], seconds: float) -> None:
        """Learn how long a group took, the start of its engines included."""
        seconds_per_run = seconds / max(1, part.num_runs(group))
        self._slowest[part.experiment] = max(
            seconds_per_run, self._slowest.get(part.experiment, 0.0)
        )

    def allows(self, part: Part, group: Mapping[str, RunConfig]) -> bool:
        """Return whether a group is expected to end in time."""
        slowest = max(self._slowest.values(), default=0.0)
        expected = part.num_runs(group) * self._slowest.get(part.experiment, slowest)
        return time.monotonic() + expected < self._deadline


def measure(parts: Sequence[Part], out: Path, seconds: float) -> list[str]:
    """Measure part after part while there is time; return a line for each that is missing.

    A group that fails is shown with its traceback at once; the next begins on new engines.
    """
    budget = Budget(seconds)
    missing = []
    for part in parts:
        print(
            f"{part.experiment}: {sum(map(len, part.groups))} configurations on {part.num_ranks}"
            " ranks",
            flush=True,
        )
        missing += _measure(part, out, budget)
    return missing


def _measure(part: Part, out: Path, budget: Budget) -> list[str]:
    """Measure the groups of a part; return a line for each that failed and for those left out."""
    missing = []
    num_left = 0
    running = RestartedEngines(part.num_ranks)
    for number, group in enumerate(part.groups, start=1):
        if not budget.allows(part, group):
            num_left += 1
            continue
        start = time.monotonic()
        reason = _measure_group(part, group, out, running)
        budget.note(part, group, time.monotonic() - start)
        if reason:
            missing.append(f"group {number} of {part.experiment}, which failed: {reason}")
    running.stop()
    if num_left:
        missing.append(f"{num_left} of {len(part.groups)} groups of {part.experiment}: no time")
    return missing


def _measure_group(
    part: Part, group: Mapping[str, RunConfig], out: Path, running: RestartedEngines
) -> str:
    """Measure a group; return the first line of the error where it fails, else nothing."""
    try:
        ranks = running.get()
        if part.measure is None:
            ranks.run_interleaved(
                group,
                num_repeats=part.num_repeats,
                experiment=part.experiment,
                results_file=out,
            )
        else:
            configs = list(group.values())
            part.measure(ranks, configs, experiment=part.experiment, results_file=out)
    except FAILURES as error:
        traceback.print_exc()
        running.stop()
        return cause(error)
    return ""


class RestartedEngines:
    """Engines that start when they are needed, and again after they were stopped."""

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._engines: Engines | None = None

    def get(self) -> Engines:
        """Return engines that run."""
        if self._engines is None:
            self._engines = engines(self._num_ranks)
        return self._engines

    def stop(self) -> None:
        """Stop the engines that are running, if any; what their end complains of is not said."""
        with suppress(*FAILURES):
            if self._engines is not None:
                self._engines.stop()
        self._engines = None


def cause(error: BaseException) -> str:
    """Return the first line of an error, or its type where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
