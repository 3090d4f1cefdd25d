"""Doing a piece of a survey's work: on engines that start when they are needed, and after a loss
again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nnpar_lib.config import RunConfig
from nnpar_lib.experiments.measuring import FAILURES, RestartedEngines, cause
from nnpar_lib.experiments.survey.plan import Work
from nnpar_lib.launch import native, preflight
from nnpar_lib.launch.engines import Engines
from nnpar_lib.launch.tasks import TASKS
from nnpar_lib.records import store
from nnpar_lib.records.kinds import FailureRecord, Record, RunRecord
from nnpar_lib.records.provenance import provenance


class Bench:
    """Engines for all ranks of a machine; `origin` is added to the provenance of records."""

    def __init__(self, num_ranks: int, out: Path) -> None:
        self.origin: dict[str, Any] = {}
        self._out = out
        self._engines = RestartedEngines(num_ranks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engines.stop()

    def do(self, work: Work) -> FailureRecord | None:
        """Do a piece of work; its records are in the file then. Return the failure, if any.

        What fails is the first run without a record, or else the group.
        """
        if refused := _first_refused(work):
            return self._fail(work, *refused)
        try:
            ranks = self._engines.get()
            ranks.origin = self.origin
            self._do(work, ranks)
        except FAILURES as error:
            self._engines.stop()
            is_whole = work.group.measure is not None
            label = "" if is_whole else _first_missing(work, store.load(self._out))
            return self._fail(work, label, error)
        return None

    def _do(self, work: Work, ranks: Engines) -> None:
        if work.group.measure is not None:
            work.group.measure(ranks, work.group, self._out)
            return
        todo = {
            label: config
            for index, (label, config) in enumerate(work.configs.items())
            if index not in work.done
        }
        if any(config.is_native for config in todo.values()):
            self._run_each(work, todo, ranks)
        else:
            ranks.call_for_records(
                TASKS["run_interleaved"],
                [config.to_dict() for config in todo.values()],
                work.repeat + 1,
                work.experiment,
                labels=list(todo),
                done=[(r, i) for r in range(work.repeat) for i in range(len(todo))],
                results_file=self._out,
                progress=_no_progress,
            )

    def _run_each(self, work: Work, todo: dict[str, RunConfig], ranks: Engines) -> None:
        """Run programs in C++ and runs in Python one after the other."""
        for label, config in todo.items():
            record: RunRecord
            if config.is_native:
                record = native.run(config)
            else:
                record = ranks.run(config, progress=_no_progress)
            record = dataclasses.replace(
                record,
                experiment=work.experiment,
                label=label,
                repeat=work.repeat,
                provenance={**record.provenance, **self.origin},
            )
            store.append(self._out, [record])

    def _fail(self, work: Work, label: str, error: BaseException) -> FailureRecord:
        """Keep what failed and why; no label stands for the whole group."""
        failure = FailureRecord(
            cause=cause(error),
            config=work.configs[label].to_dict() if label else {},
            provenance={**provenance(), **self.origin},
            experiment=work.group.experiment,
            label=label,
        )
        store.append(self._out, [failure])
        return failure


def _first_refused(work: Work) -> tuple[str, ValueError] | None:
    """Return the first config that this machine cannot run, and why; None where there is none."""
    for index, (label, config) in enumerate(work.configs.items()):
        if index in work.done:
            continue
        try:
            preflight.check(config)
        except ValueError as error:
            return label, error
    return None


def _first_missing(work: Work, records: list[Record]) -> str:
    """Return the label of the first config without a record of this repeat."""
    there = {
        record.label
        for record in records
        if isinstance(record, RunRecord)
        and (record.experiment, record.repeat) == (work.experiment, work.repeat)
        and record.label in work.configs
        and record.config == work.configs[record.label].to_dict()
    }
    missing = [
        label
        for index, label in enumerate(work.configs)
        if index not in work.done and label not in there
    ]
    return missing[0] if missing else ""


def _no_progress(fraction: float, text: str) -> None: ...
