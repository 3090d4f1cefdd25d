"""The next run of a search at a batch size, as a function of the finished runs alone.

Each run depends only on runs before it in a fixed order, whichever engine it is on and whenever
that engine finishes. So a search gives the same table on any number of engines, and after it was
killed and started again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from nnpar_lib.config.study import MOMENTUM_RANGE, StudyConfig

EARLY_STOP_FACTOR = 3.0  # a trial of the search stops at this multiple of the best steps so far
ESTIMATE_STOP_FACTOR = 6.0  # a run of a finalist stops at this multiple of the best of all trials
NUM_IN_FLIGHT = 2  # trials of a batch size that run at once: each knows all but the last before it
MAX_ROUNDS = 3
OUTER_SHARE = 0.1  # a best point in this outer share of a range means that the range is too narrow
WIDEN_FACTOR = 10.0

# the first seed of each stage
SEARCH_SEED = 0
FINALIST_SEED = 1_000
ESTIMATE_SEED = 2_000

Ranges = dict[str, tuple[float, float]]
Outcome = Mapping[str, Any]  # what a trial returns
Done = Mapping[str, Outcome]  # by the name of a job


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run: `name` is unique at its batch size, `trial` names the point that is run."""

    name: str
    trial: str
    stage: str
    batch_size: int
    seed: int
    parameters: dict[str, float]
    step_limits: tuple[int, ...]  # a limit for each goal that the run is to reach
    distributions: Ranges


def is_reached(outcome: Outcome, goal: int) -> bool:
    """Return whether a run reached goal number `goal`, and stayed finite until then."""
    return goal < len(outcome["steps"]) and outcome["steps"][goal] is not None


def steps_to(outcome: Outcome, goal: int) -> float:
    """Return the steps to a goal, infinite where it was not reached."""
    return float(outcome["steps"][goal]) if is_reached(outcome, goal) else math.inf


class Plan:
    """The runs of a batch size: rounds of trials, finalists and the winner on other seeds."""

    def __init__(self, study: StudyConfig, batch_size: int) -> None:
        self._study = study
        self._batch_size = batch_size
        self._num_goals = len(study.goal_errors)
        self._cap = study.step_cap(batch_size)
        self._trials_made: dict[tuple[Any, ...], list[Job]] = {}  # by round and ranges

    def next_jobs(self, done: Done) -> list[Job]:
        """Return the runs that are not done and may start now; none means that all are done."""
        for stage in (self._search, self._finalists, self._estimates):
            if waiting := [job for job in stage(done) if job.name not in done]:
                return waiting
        return []

    def num_left(self, done: Done) -> int:
        """Return about how many runs are left, so that the longest work can start first."""
        expected = self._study.num_trials + 2 * (
            self._study.num_finalists * self._study.num_finalist_seeds + self._study.num_seeds
        )
        return max(1, expected - len(done))

    def trials(self, done: Done) -> list[Job]:
        """Return the trials of the last round of the search, in the order of their points."""
        return self._rounds(done)[-1]

    def is_at_edge(self, done: Done) -> bool:
        """Return whether the best point lies near an end of the ranges of the last round."""
        return bool(self._edges(self.trials(done), done))

    def finalists(self, done: Done, goal: int) -> list[Job]:
        """Return the best trials for a goal, the best first, among those that reached it."""
        reached = [job for job in self.trials(done) if is_reached(done[job.name], goal)]
        return sorted(reached, key=lambda job: steps_to(done[job.name], goal))[
            : self._study.num_finalists
        ]

    def winner(self, done: Done, goal: int) -> Job | None:
        """Return the finalist with the smallest median of steps, None where no trial reached the
        goal."""

        def median(job: Job) -> float:
            return statistics.median(
                steps_to(done[name], goal) for name in self._finalist_names(job)
            )

        finalists = self.finalists(done, goal)
        return min(finalists, key=median) if finalists else None

    def _search(self, done: Done) -> Iterator[Job]:
        """Yield the trials that may start: those whose predecessors, except the last, are done.

        A trial depends on the earlier rounds, and on the trials of its round that cannot run at
        the same time.
        """
        *before, trials = self._rounds(done)
        earlier = [job for jobs in before for job in jobs]
        first = next((i for i, job in enumerate(trials) if job.name not in done), len(trials))
        for index, job in enumerate(trials[first : first + NUM_IN_FLIGHT], start=first):
            known = [*earlier, *trials[: max(0, index - NUM_IN_FLIGHT + 1)]]
            yield dataclasses.replace(
                job, step_limits=self._search_limits([done[trial.name] for trial in known])
            )

    def _search_limits(self, known: Sequence[Outcome]) -> tuple[int, ...]:
        """Return for each goal the cap, or three times the best of the known outcomes."""
        bests = (
            min((steps_to(outcome, goal) for outcome in known), default=math.inf)
            for goal in range(self._num_goals)
        )
        return tuple(int(min(self._cap, EARLY_STOP_FACTOR * best)) for best in bests)

    def _rounds(self, done: Done) -> list[list[Job]]:
        """Return the trials of each round; a next round follows where the best is at an edge."""
        ranges = self._study.search_ranges(self._batch_size)
        rounds = [self._trials(0, ranges)]
        while len(rounds) < MAX_ROUNDS and all(job.name in done for job in rounds[-1]):
            edges = self._edges(rounds[-1], done)
            if not edges:
                break
            ranges = widen(ranges, edges)
            rounds.append(self._trials(len(rounds), ranges))
        return rounds

    def _trials(self, number: int, ranges: Ranges) -> list[Job]:
        key = number, *ranges.items()
        if key not in self._trials_made:
            self._trials_made[key] = self._make_trials(number, ranges)
        return self._trials_made[key]

    def _make_trials(self, number: int, ranges: Ranges) -> list[Job]:
        points = quasi_random_points(self._study.num_trials, len(ranges))
        return [
            self._job(
                "search",
                f"search/{number}/{i}",
                f"search/{number}/{i}",
                SEARCH_SEED,
                _scale(point, ranges),
                ranges,
            )
            for i, point in enumerate(points)
        ]

    def _edges(self, trials: Sequence[Job], done: Done) -> dict[str, int]:
        """Return the ranges at whose end (-1 or 1) the best trial for the hardest goal lies."""
        for goal in reversed(range(self._num_goals)):
            reached = [job for job in trials if is_reached(done[job.name], goal)]
            if reached:
                best = min(reached, key=lambda job: steps_to(done[job.name], goal))
                return outer_ends(best.parameters, best.distributions)
        return {}

    def _finalists(self, done: Done) -> list[Job]:
        """Return the runs of all goals' finalists; a finalist for several goals runs to the
        hardest."""
        hardest = {
            job.name: (job, goal)
            for goal in range(self._num_goals)
            for job in self.finalists(done, goal)
        }
        return [
            self._again("finalist", job, goal, FINALIST_SEED + k, done)
            for job, goal in hardest.values()
            for k in range(self._study.num_finalist_seeds)
        ]

    def _estimates(self, done: Done) -> list[Job]:
        winners = [(self.winner(done, goal), goal) for goal in range(self._num_goals)]
        hardest = {job.name: (job, goal) for job, goal in winners if job is not None}
        return [
            self._again("estimate", job, goal, ESTIMATE_SEED + k, done)
            for job, goal in hardest.values()
            for k in range(self._study.num_seeds)
        ]

    def _finalist_names(self, job: Job) -> list[str]:
        return [
            f"finalist/{job.name}/{FINALIST_SEED + k}"
            for k in range(self._study.num_finalist_seeds)
        ]

    def _again(self, stage: str, trial: Job, goal: int, seed: int, done: Done) -> Job:
        best = steps_to(done[self.finalists(done, goal)[0].name], goal)
        limit = int(min(self._cap, ESTIMATE_STOP_FACTOR * best))
        job = self._job(
            stage,
            f"{stage}/{trial.name}/{seed}",
            trial.name,
            seed,
            trial.parameters,
            trial.distributions,
        )
        return dataclasses.replace(job, step_limits=(limit,) * (goal + 1))

    def _job(
        self,
        stage: str,
        name: str,
        trial: str,
        seed: int,
        parameters: dict[str, float],
        ranges: Ranges,
    ) -> Job:
        return Job(
            name=name,
            trial=trial,
            stage=stage,
            batch_size=self._batch_size,
            seed=seed,
            parameters=parameters,
            step_limits=(),
            distributions=ranges,
        )


@cache
def quasi_random_points(num_points: int, num_dimensions: int) -> list[list[float]]:
    """Return the first points of Sobol's sequence in the unit cube, from its centre on."""
    import optuna

    names = [f"x{i}" for i in range(num_dimensions)]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=False, seed=0)
    sequence = optuna.create_study(sampler=sampler)
    space: dict[str, Any] = {name: optuna.distributions.FloatDistribution(0, 1) for name in names}
    points = []
    for _ in range(num_points + 2):
        trial = sequence.ask(space)
        points.append([float(trial.params[name]) for name in names])
        sequence.tell(trial, 0.0)
    # The first point is random, drawn before the sampler knows the space; the second is a corner.
    return points[2:]


def outer_ends(parameters: Mapping[str, float], ranges: Ranges) -> dict[str, int]:
    """Return the end (-1 or 1) of each parameter in the outer tenth of its logarithmic range.

    A momentum of zero is an end that cannot be passed.
    """
    ends = {}
    for name, (low, high) in ranges.items():
        place = math.log(parameters[name] / low) / math.log(high / low)
        if place < OUTER_SHARE:
            ends[name] = -1
        elif place > 1 - OUTER_SHARE and not (
            name == "one_minus_momentum" and high >= MOMENTUM_RANGE[1]
        ):
            ends[name] = 1
    return ends


def widen(ranges: Ranges, ends: Mapping[str, int]) -> Ranges:
    """Return the ranges, ten times longer at these ends."""
    factors = {-1: (WIDEN_FACTOR, 1.0), 1: (1.0, WIDEN_FACTOR), 0: (1.0, 1.0)}
    return {
        name: (low / factors[ends.get(name, 0)][0], high * factors[ends.get(name, 0)][1])
        for name, (low, high) in ranges.items()
    }


def _scale(point: Sequence[float], ranges: Ranges) -> dict[str, float]:
    return {
        name: low * (high / low) ** x
        for x, (name, (low, high)) in zip(point, ranges.items(), strict=True)
    }
