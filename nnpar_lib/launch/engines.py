"""MPI ranks for a notebook, and a method for each task that they can be given.

A kernel process never initialises MPI: mpiexec starts the ranks as engines. The methods take
configs and return records or plain results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nnpar_lib.config import RunConfig
from nnpar_lib.launch import environment, preflight
from nnpar_lib.launch.calls import EnginesLost, RankError
from nnpar_lib.launch.cluster import Cluster
from nnpar_lib.launch.rank_output import Progress
from nnpar_lib.launch.ranks import Ranks
from nnpar_lib.launch.task_farm import Task
from nnpar_lib.launch.tasks import (
    TASKS,
    Classification,
    GoalOutcome,
    GradientNorms,
    RankDescription,
)
from nnpar_lib.records import store
from nnpar_lib.records.kinds import (
    AllreduceRecord,
    BarrierRecord,
    ComparisonRecord,
    MessageRecord,
    ProfileRecord,
    Record,
    RooflineRecord,
    RunRecord,
    SweepRecord,
)
from nnpar_lib.records.provenance import provenance

__all__ = ["Engines", "EnginesLost", "RankError", "engines"]

Kind = TypeVar("Kind", bound=Record)


def engines(num_ranks: int) -> Engines:
    """Start `num_ranks` engines, which serve every smaller number of ranks too.

    They run until `stop` is called, their `with` block ends or this process ends. Raises a
    ValueError for an impossible number, and a RuntimeError that quotes mpiexec where they do not
    start.
    """
    if not isinstance(num_ranks, int) or isinstance(num_ranks, bool) or num_ranks < 1:
        raise ValueError(
            f"num_ranks={num_ranks!r} is not a number of ranks; give a whole number of at least 1"
        )
    cluster = Cluster(num_ranks)
    try:
        cluster.start()
    except BaseException:
        cluster.stop()
        raise
    return Engines(cluster)


class Engines(Ranks):
    """Running engines, one a rank; made by `engines`.

    Every method checks its configs before anything runs: a wrong config is a ValueError.
    Measurements are appended to `results_file`, if there is one, as soon as they are made.
    """

    def run(
        self,
        config: RunConfig,
        *,
        experiment: str = "",
        results_file: str | Path | None = None,
        progress: Progress | None = None,
    ) -> RunRecord:
        """Do one training run and return its record."""
        return self.run_interleaved(
            [config],
            num_repeats=1,
            experiment=experiment,
            results_file=results_file,
            progress=progress,
        )[0]

    def run_interleaved(
        self,
        configs: Sequence[RunConfig] | Mapping[str, RunConfig],
        *,
        num_repeats: int = 5,
        experiment: str = "",
        labels: Sequence[str] = (),
        results_file: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[RunRecord]:
        """Run all configs in turn, `num_repeats` times, and return the records in this order.

        The records are labelled by `labels`, or by the keys of a mapping. A later failure loses no
        record that is in `results_file`. Where the variable NNPAR_RESUME is 1, runs that
        `results_file` holds are not done again.
        """
        if isinstance(configs, Mapping):
            labels = list(configs)
            configs = list(configs.values())
        if labels:
            _check_same_length("labels", labels, configs)
        preflight.check_repeats(configs, num_repeats)
        self._check(configs)
        preflight.check_results_file(results_file, configs)
        known = results_file if environment.is_resuming() else None
        done = store.find_repeats(known, configs, num_repeats, experiment, provenance(), labels)
        new_records = self._measure(
            "run_interleaved",
            RunRecord,
            _dictionaries(configs),
            num_repeats,
            experiment,
            labels=list(labels),
            done=list(done),
            results_file=results_file,
            progress=progress,
        )
        new = iter(new_records)
        places = [(repeat, i) for repeat in range(num_repeats) for i in range(len(configs))]
        return [done[place] if place in done else next(new) for place in places]

    def sweep_messages(
        self,
        sizes: Sequence[int],
        *,
        num_repeats: int = 7,
        experiment: str = "messages",
        results_file: str | Path | None = None,
    ) -> list[MessageRecord]:
        """Time messages of `sizes` bytes between the first two ranks."""
        self._check_num_ranks(2)
        return self._measure(
            "sweep_messages",
            MessageRecord,
            list(sizes),
            num_repeats,
            experiment,
            results_file=results_file,
        )

    def sweep_barriers(
        self,
        rank_counts: Sequence[int],
        *,
        num_repeats: int = 7,
        experiment: str = "barriers",
        results_file: str | Path | None = None,
    ) -> list[BarrierRecord]:
        """Time barriers of the first ranks, for each number of them."""
        self._check_num_ranks(max(rank_counts))
        return self._measure(
            "sweep_barriers",
            BarrierRecord,
            list(rank_counts),
            num_repeats,
            experiment,
            results_file=results_file,
        )

    def sweep_allreduces(
        self,
        kinds: Sequence[str],
        sizes: Sequence[int],
        *,
        num_ranks: int | None = None,
        num_repeats: int = 7,
        experiment: str = "allreduce",
        results_file: str | Path | None = None,
    ) -> list[AllreduceRecord]:
        """Time all-reduces of `sizes` numbers by each kind, on the first ranks (default: all)."""
        num_ranks = self.num_ranks if num_ranks is None else num_ranks
        self._check_num_ranks(num_ranks)
        return self._measure(
            "sweep_allreduces",
            AllreduceRecord,
            list(kinds),
            list(sizes),
            num_ranks,
            num_repeats,
            experiment=experiment,
            results_file=results_file,
        )

    def profile_blocks(
        self,
        configs: Sequence[RunConfig],
        batch_sizes: Sequence[Sequence[int]],
        *,
        num_repeats: int = 3,
        experiment: str = "profile",
        results_file: str | Path | None = None,
    ) -> list[ProfileRecord]:
        """Profile the model of each config at its batch sizes, on one rank and on all at once."""
        _check_same_length("lists of batch sizes", batch_sizes, configs)
        self._check(configs)
        return self._measure(
            "profile_blocks",
            ProfileRecord,
            _dictionaries(configs),
            [list(sizes) for sizes in batch_sizes],
            num_repeats,
            experiment,
            results_file=results_file,
        )

    def measure_rooflines(
        self,
        configs: Sequence[RunConfig],
        *,
        experiment: str = "roofline",
        results_file: str | Path | None = None,
    ) -> list[RooflineRecord]:
        """Time the blocks of each config's model on the first rank, and the two ceilings."""
        self._check(configs)
        return self._measure(
            "measure_rooflines",
            RooflineRecord,
            _dictionaries(configs),
            experiment,
            results_file=results_file,
        )

    def time_trials(
        self,
        trials: Sequence[RunConfig],
        *,
        num_repeats: int = 3,
        experiment: str = "sweep",
        results_file: str | Path | None = None,
    ) -> list[SweepRecord]:
        """Time a sweep whose trials are trained one at a time, and together as one program."""
        self._check(trials)
        return self._measure(
            "time_trials",
            SweepRecord,
            _dictionaries(trials),
            experiment,
            num_repeats,
            results_file=results_file,
        )

    def compare_with_serial(
        self,
        configs: Sequence[RunConfig],
        *,
        experiment: str = "comparison",
        results_file: str | Path | None = None,
    ) -> list[ComparisonRecord]:
        """Return a record of `difference_from_serial` for each config."""
        self._check(configs)
        return self._measure(
            "compare_with_serial",
            ComparisonRecord,
            _dictionaries(configs),
            experiment,
            results_file=results_file,
        )

    def difference_from_serial(self, config: RunConfig) -> dict[str, float]:
        """Train 20 steps in parallel and serially, and return the relative differences.

        They are those of the `first_update`, of the parameter where that is largest
        (`worst_parameter`), of the `weights`, of the mean `loss` and of the `accuracy`; `moved` is
        the relative change of the weights, `num_distinct` the number of distinct copies of them.
        """
        self._check([config])
        differences: dict[str, float] = self._call_task("difference_from_serial", config.to_dict())
        return differences

    def gradient_norms(self, config: RunConfig, steps: Sequence[int]) -> list[GradientNorms]:
        """Train in parallel and return the squared norms of the gradient at these steps."""
        self._check([config])
        norms: list[GradientNorms] = self._call_task(
            "gradient_norms", config.to_dict(), list(steps)
        )
        return norms

    def run_to_goals(
        self,
        config: RunConfig,
        goal_errors: Sequence[float],
        step_limits: Sequence[int],
        *,
        progress: Progress | None = None,
    ) -> GoalOutcome:
        """Train until the hardest goal is reached, or the limit of the easiest that is not."""
        self._check([config])
        outcome: GoalOutcome = self._call_task(
            "run_to_goals",
            config.to_dict(),
            list(goal_errors),
            list(step_limits),
            progress=progress,
        )
        return outcome

    def run_trial(
        self, config: RunConfig, goal_errors: Sequence[float], step_limits: Sequence[int]
    ) -> list[GoalOutcome]:
        """Run the same trial to goals on every rank at once, each by itself."""
        self._check([config])
        return self.call(TASKS["run_trial"], config.to_dict(), list(goal_errors), list(step_limits))

    def run_trials(
        self,
        next_trial: Callable[[], Task | None],
        arguments: Callable[[Task], tuple[RunConfig, Sequence[float], Sequence[int]]],
        on_result: Callable[[Task, GoalOutcome], None],
        meanwhile: Callable[[], None],
    ) -> None:
        """Run trials to goals, each on any rank that is free; see `launch.task_farm.run`.

        `arguments` returns a trial's config, goal errors and step limits, as `run_to_goals` takes
        them.
        """

        def as_sent(trial: Task) -> Sequence[Any]:
            config, goal_errors, step_limits = arguments(trial)
            return config.to_dict(), list(goal_errors), list(step_limits)

        self.run_tasks(TASKS["run_trial"], next_trial, as_sent, on_result, meanwhile)

    def classify_test_images(
        self, networks: Sequence[tuple[RunConfig, str | Path]], num_images: int
    ) -> Classification:
        """Return the first test images, and the probabilities that each trained network gives.

        A network is the config of its run and the file of its weights: a checkpoint, or what the
        program in C++ has written.
        """
        runs = [(config.to_dict(), str(file)) for config, file in networks]
        classification: Classification = self._call_task("classify_test_images", runs, num_images)
        return classification

    def describe_ranks(self) -> list[RankDescription]:
        """Return who each rank is and what it may use."""
        return self.call(TASKS["describe_rank"])

    def seconds_per_event(self) -> float:
        """Return what the booking of one event of a traced run takes, on the slowest rank."""
        return max(map(float, self.call(TASKS["seconds_per_event"])))

    def summarize_blocks(self, config: RunConfig) -> list[dict[str, Any]]:
        """Return the parameters, operations and bytes of each block for a step of the batch."""
        self._check([config])
        blocks: list[dict[str, Any]] = self._call_task("summarize_blocks", config)
        return blocks

    def _measure(self, task: str, kind: type[Kind], *args: Any, **kwargs: Any) -> list[Kind]:
        """Call a task that returns records of one kind."""
        records = self.call_for_records(TASKS[task], *args, **kwargs)
        return [record for record in records if isinstance(record, kind)]

    def _call_task(self, task: str, *args: Any, progress: Progress | None = None) -> Any:
        """Call a task and return the result of rank 0."""
        return self.call(TASKS[task], *args, progress=progress)[0]

    def _check(self, configs: Sequence[RunConfig]) -> None:
        for config in configs:
            self._check_num_ranks(config.num_ranks)
            if config.is_native:
                raise ValueError(
                    f"strategy {config.strategy!r} starts ranks of its own; use"
                    " launch.native.run(config)"
                )
            preflight.check(config)

    def _check_num_ranks(self, num_ranks: int) -> None:
        if num_ranks > self.num_ranks:
            raise ValueError(
                f"num_ranks={num_ranks} is more than the {self.num_ranks} engines that run; start"
                f" more with engines({num_ranks}) or ask for fewer ranks"
            )


def _check_same_length(name: str, items: Sequence[Any], configs: Sequence[RunConfig]) -> None:
    if len(items) != len(configs):
        raise ValueError(
            f"there are {len(items)} {name} for {len(configs)} configs; give as many as configs"
        )


def _dictionaries(configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    return [config.to_dict() for config in configs]
