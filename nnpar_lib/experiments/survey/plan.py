"""What a survey measures next, as a function of the records that its file holds.

Each group is measured a few times before any is measured often, and often only while a ratio is
uncertain. So a survey that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from nnpar_lib.analysis.scaling.ratio import ratio_of
from nnpar_lib.config import RunConfig
from nnpar_lib.experiments.survey import group as parts
from nnpar_lib.experiments.survey.group import Group
from nnpar_lib.records.kinds import FailureRecord, PredictionRecord, Record, RunRecord

PILOT = "pilot "  # begins the experiment of the short runs that steps are counted from
FEW_REPEATS = 3
MOST_REPEATS = 15
REPEATS = (FEW_REPEATS, 6, MOST_REPEATS)  # each group has so many before any has the next number
LEVEL_BEFORE = dict(zip(REPEATS, (0, *REPEATS), strict=False))
NARROW = 0.05  # an interval of a ratio, relative to it, that needs no more repeats
MAX_FAILURES = 2  # after which nothing tries again
MAX_STEPS = 20_000
PART_AFTER = {
    parts.PREDICTIONS: (parts.EXCHANGE, parts.BLOCKS),
    **dict.fromkeys(parts.PREDICTED, (parts.PREDICTIONS,)),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done at once: a repeat of a group, its first short runs, or all of it.

    `configs` have their numbers of steps; those whose indices are in `done` are there already.
    """

    group: Group
    experiment: str
    configs: Mapping[str, RunConfig] = field(default_factory=dict)
    repeat: int = 0
    done: tuple[int, ...] = ()

    @property
    def num_runs(self) -> int:
        """Runs that are left to do; 0 for what is no run."""
        return len(self.configs) - len(self.done)


class Plan:
    """The groups of a survey, and what is left of them once some records are there."""

    def __init__(self, all_groups: Sequence[Group], run_seconds: float) -> None:
        self._groups = all_groups
        self._run_seconds = run_seconds

    def works(self, records: Iterable[Record], slice_number: int) -> Iterator[Work]:
        """Yield all that could be done next, the most telling first."""
        done = Done(records, slice_number)
        open_parts = {group.part for group in self._groups if self._once(group, done)}
        for most in REPEATS:
            for group in self._groups:
                if open_parts.intersection(PART_AFTER.get(group.part, ())):
                    continue
                once = self._once(group, done) if most == FEW_REPEATS else None
                work = once or self._runs(group, done, most)
                if work is not None:
                    yield work

    def _once(self, group: Group, done: Done) -> Work | None:
        """Return the work of a group that is measured in one go, where it is not done."""
        is_over = group.measure is None or done.is_given_up(group, "") or done.is_measured(group)
        return None if is_over else Work(group=group, experiment=group.experiment)

    def _runs(self, group: Group, done: Done, most: int) -> Work | None:
        """Return the next repeat of a group of runs, its pilot first, up to `most` repeats."""
        labels = [label for label in group.configs if not done.is_given_up(group, label)]
        if group.measure is not None or len(labels) < 2 or group.base not in labels:
            return None
        configs = {label: group.configs[label] for label in labels}
        pilots = {label: done.runs(group, label, PILOT) for label in labels}
        if not group.given_steps and not all(pilots.values()):
            is_first = most == FEW_REPEATS
            return _work(group, PILOT, configs, 0, pilots) if is_first else None
        runs = {label: done.runs(group, label) for label in labels}
        repeat = min(len(of_label) for of_label in runs.values())
        if not LEVEL_BEFORE[most] <= repeat < most:
            return None
        if most == MOST_REPEATS and is_narrow(group.base, runs):
            return None
        if not group.given_steps:
            configs = {
                label: config.replace(num_steps=self._num_steps(config, pilots))
                for label, config in configs.items()
            }
        return _work(group, "", configs, repeat, runs)

    def _num_steps(self, config: RunConfig, pilots: Mapping[str, Sequence[RunRecord]]) -> int:
        """Return the steps that fill a run; the same for configs that are the same."""
        wanted = _wanted(config)
        same = [runs[0] for runs in pilots.values() if _without_steps(runs[0].config) == wanted]
        seconds = min(run.train_seconds / run.num_steps for run in same)
        return max(2, min(MAX_STEPS, round(self._run_seconds / max(seconds, 1e-6))))


class Done:
    """The records of a survey, by what they are of."""

    def __init__(self, records: Iterable[Record], slice_number: int) -> None:
        self._slice = slice_number
        self._runs: dict[tuple[str, str], list[RunRecord]] = {}
        self._failures: dict[tuple[str, str], list[FailureRecord]] = {}
        self._others: dict[str, list[Record]] = {}
        self._predicted: set[tuple[str, str]] = set()
        for record in records:
            self._keep(record)

    def runs(self, group: Group, label: str, prefix: str = "") -> list[RunRecord]:
        """Return the runs of a config of a group, in the order of repeats, no repeat twice."""
        wanted = _wanted(group.configs[label])
        same = self._runs.get((prefix + group.experiment, label), [])
        runs = [run for run in same if _without_steps(run.config) == wanted]
        by_repeat = {run.repeat: run for run in runs}
        return [by_repeat[repeat] for repeat in sorted(by_repeat)]

    def is_measured(self, group: Group) -> bool:
        """Return whether all is there of a group that is measured in one go.

        A prediction of a run that has been made would be none.
        """
        if group.part != parts.PREDICTIONS:
            return len(self._others.get(group.experiment, [])) >= group.num_records
        return all(
            tuple(name.split(": ", 1)) in self._predicted | set(self._runs)
            for name in group.configs
        )

    def is_given_up(self, group: Group, label: str) -> bool:
        """Return whether a config, or a whole group, failed in this slice or too often."""
        if label and self.is_given_up(group, ""):
            return True
        wanted = _wanted(group.configs[label]) if label else {}
        failures = [
            failure
            for failure in self._failures.get((group.experiment, label), [])
            if not label or _without_steps(failure.config) == wanted
        ]
        is_new = any(slice_of(failure) == self._slice for failure in failures)
        return is_new or len(failures) >= MAX_FAILURES

    def _keep(self, record: Record) -> None:
        key = (record.experiment, getattr(record, "label", ""))
        if isinstance(record, RunRecord):
            self._runs.setdefault(key, []).append(record)
        elif isinstance(record, FailureRecord):
            self._failures.setdefault(key, []).append(record)
        elif isinstance(record, PredictionRecord):
            self._predicted.add(key)
        else:
            self._others.setdefault(record.experiment, []).append(record)


def is_narrow(base: str, runs: Mapping[str, Sequence[RunRecord]]) -> bool:
    """Return whether the interval of each config's ratio to the base is narrow."""
    rates = {
        label: {run.repeat: run.samples_per_second for run in of_label}
        for label, of_label in runs.items()
    }
    for label in set(rates) - {base}:
        repeats = sorted(set(rates[label]) & set(rates[base]))
        if not repeats:
            return False
        ratio = ratio_of(np.array([rates[label][r] / rates[base][r] for r in repeats]))
        if not (ratio.ci_high - ratio.ci_low) / 2 <= NARROW * ratio.median:  # also where undefined
            return False
    return True


def slice_of(record: Record) -> int:
    """Return the number of the slice that made a record, 0 where none did."""
    return int(record.provenance.get("survey", {}).get("slice", 0))


def _work(
    group: Group,
    prefix: str,
    configs: Mapping[str, RunConfig],
    repeat: int,
    runs: Mapping[str, Sequence[RunRecord]],
) -> Work:
    done = [
        index
        for index, label in enumerate(configs)
        if any(run.repeat == repeat for run in runs[label])
    ]
    return Work(
        group=group,
        experiment=prefix + group.experiment,
        configs=configs,
        repeat=repeat,
        done=tuple(done),
    )


@cache
def _wanted(config: RunConfig) -> dict[str, Any]:
    return _without_steps(config.to_dict())


def _without_steps(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "num_steps": None}
