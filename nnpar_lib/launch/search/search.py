"""A search of metaparameters at each batch size, spread over engines, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnpar_lib.config import RunConfig
from nnpar_lib.config.study import StudyConfig
from nnpar_lib.launch import preflight
from nnpar_lib.launch.engines import Engines
from nnpar_lib.launch.rank_output import ProgressDisplay
from nnpar_lib.launch.search.plan import Job, Outcome, Plan, is_reached
from nnpar_lib.launch.search.store import SearchStore


class Search:
    """The runs of a study: finished runs are in the storage, a file; the others are done next."""

    def __init__(self, study: StudyConfig, storage: str | Path) -> None:
        """Raise a ValueError where data are missing or the storage is that of another study."""
        self.study = study
        preflight.check(study.run_config(study.batch_sizes[0], 0.1, None, 0))
        self._plans = {size: Plan(study, size) for size in study.batch_sizes}
        self._store = SearchStore(Path(storage), study)
        self._next = {
            size: plan.next_jobs(self._store.done[size]) for size, plan in self._plans.items()
        }
        self._in_flight: set[tuple[int, str]] = set()

    @property
    def num_done(self) -> int:
        """How many runs are in the storage."""
        return sum(map(len, self._store.done.values()))

    @property
    def engine_seconds(self) -> float:
        """The seconds that engines spent on the runs in the storage."""
        return sum(
            _seconds_of(outcome) for done in self._store.done.values() for outcome in done.values()
        )

    @property
    def is_over(self) -> bool:
        """Whether no run is left to do."""
        return not any(self._next.values())

    def run(self, ranks: Engines) -> list[dict[str, Any]]:
        """Do all runs that are not done yet, each on any rank that is free; return the rows."""
        display = ProgressDisplay()
        num_before = self.num_done
        self._in_flight.clear()
        try:
            ranks.run_trials(
                self._next_job, self._arguments, self._keeper(display), self._store.save
            )
        finally:
            self._store.save()
            num_new = self.num_done - num_before
            display.close(f"{num_new} runs, {num_before} were there already")
        return self.rows()

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each goal, batch size and run; see `nnpar_lib.analysis.regimes`.

        Batch sizes that have runs left to do have no rows yet.
        """
        rows = []
        for size, plan in self._plans.items():
            if self._next[size]:
                continue
            for goal in range(len(self.study.goal_errors)):
                rows += self._rows_of(plan, self._store.done[size], goal)
        return rows

    def _next_job(self) -> Job | None:
        """Return a run of the batch size with the most seconds left to do.

        The longest work starts first, so that no rank is alone with it at the end.
        """
        ready = {}
        for size, waiting in self._next.items():
            if jobs := [job for job in waiting if (size, job.name) not in self._in_flight]:
                ready[size] = jobs[0]
        if not ready:
            return None
        job = ready[max(ready, key=self._seconds_left)]
        self._in_flight.add((job.batch_size, job.name))
        return job

    def _seconds_left(self, size: int) -> float:
        done = self._store.done[size]
        if not done:
            return float("inf")
        return sum(map(_seconds_of, done.values())) / len(done) * self._plans[size].num_left(done)

    def _arguments(self, job: Job) -> tuple[RunConfig, Sequence[float], Sequence[int]]:
        config = self.study.run_config(
            job.batch_size, job.parameters["lr"], job.parameters.get("one_minus_momentum"), job.seed
        )
        return config, self.study.goal_errors[: len(job.step_limits)], job.step_limits

    def _keeper(self, display: ProgressDisplay) -> Callable[[Job, Outcome], None]:
        def keep(job: Job, outcome: Outcome) -> None:
            size = job.batch_size
            self._store.keep(job, outcome)
            self._in_flight.discard((size, job.name))
            self._next[size] = self._plans[size].next_jobs(self._store.done[size])
            fraction = self.num_done / (self.num_done + self._num_left())
            display(fraction, f"batch size {job.batch_size}: {job.name}")

        return keep

    def _num_left(self) -> int:
        """Return about how many runs are left at all batch sizes."""
        return sum(
            self._plans[size].num_left(self._store.done[size])
            for size, jobs in self._next.items()
            if jobs
        )

    def _rows_of(self, plan: Plan, done: dict[str, Outcome], goal: int) -> list[dict[str, Any]]:
        winner = plan.winner(done, goal)
        again = {job.name for job in plan.finalists(done, goal)}
        rows = [
            self._row(job, job.name, "search", job.seed, done[job.name], goal)
            for job in plan.trials(done)
        ]
        for job in plan.trials(done):
            for stage, wanted in (("finalist", job.name in again), ("estimate", job == winner)):
                names = [
                    name for name in done if wanted and name.startswith(f"{stage}/{job.name}/")
                ]
                rows += [
                    self._row(job, name, stage, int(name.rsplit("/", 1)[1]), done[name], goal)
                    for name in sorted(names)
                ]
        edge = plan.is_at_edge(done)
        return [{**row, "at_edge": edge} for row in rows]

    def _row(
        self, job: Job, name: str, stage: str, seed: int, outcome: Outcome, goal: int
    ) -> dict[str, Any]:
        return {
            "goal_error": self.study.goal_errors[goal],
            "batch_size": job.batch_size,
            "stage": stage,
            "trial": job.name,
            "seed": seed,
            "steps": outcome["steps"][goal] if is_reached(outcome, goal) else None,
            "diverged": outcome["diverged"],
            "num_steps": outcome["num_steps"],
            "train_seconds": outcome["train_seconds"],
            **job.parameters,
        }


def _seconds_of(outcome: Outcome) -> float:
    return float(outcome["train_seconds"] + outcome["check_seconds"])
