"""Calls on running ranks: a function on all of them at once, or tasks on any rank that is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from nnpar_lib.launch import calls, task_farm
from nnpar_lib.launch.cluster import Cluster
from nnpar_lib.launch.rank_output import KeepRecord, Progress, ProgressDisplay, RankOutput
from nnpar_lib.launch.task_farm import Task
from nnpar_lib.records import outputs
from nnpar_lib.records.kinds import Record


class Ranks:
    """Running ranks, and the calls of functions that have only a dotted name.

    `origin` is added to the provenance of every record that they make.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.origin: dict[str, Any] = {}
        self.num_ranks = cluster.num_ranks
        self.session = cluster.session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every process and remove every file; may be called again."""
        self._cluster.stop()

    def call(
        self, name: str, *args: Any, progress: Progress | None = None, **kwargs: Any
    ) -> list[Any]:
        """Call the function of this dotted name on every rank and return the results by rank.

        `progress` is called with a fraction and a text whenever rank 0 reports some; the default
        shows a bar. Raises RankError where a rank raises, and EnginesLost where one dies. Engines
        that hang after an error are stopped.
        """
        display = ProgressDisplay()
        try:
            return self._call(name, args, kwargs, lambda _: None, progress or display)
        finally:
            display.close(f"{name} on {self.num_ranks} ranks")

    def call_for_records(
        self,
        name: str,
        *args: Any,
        results_file: str | Path | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> list[Record]:
        """Call a function that returns its records on rank 0, as dictionaries; return the records.

        Records that rank 0 prints as it goes are appended to `results_file` at once; otherwise this
        is `call`.
        """
        outputs.check({"results_file": (results_file, outputs.RECORDS)})
        kept = calls.RecordStore(results_file, self.origin)
        display = ProgressDisplay()
        try:
            returned = self._call(name, args, kwargs, kept.keep, progress or display)
        except BaseException as error:
            if kept.records:
                error.add_note(kept.note())
            raise
        finally:
            display.close(f"{len(kept.records)} records from {self.num_ranks} ranks")
        kept.keep_missing(returned[0])
        return kept.records

    def run_tasks(
        self,
        name: str,
        next_task: Callable[[], Task | None],
        arguments: Callable[[Task], Sequence[Any]],
        on_result: Callable[[Task, Any], None],
        meanwhile: Callable[[], None],
    ) -> None:
        """Call a function for each task on any rank that is free; see `launch.task_farm.run`."""
        try:
            task_farm.run(self._cluster, name, next_task, arguments, on_result, meanwhile)
        except BaseException as error:
            self._cluster.give_up(
                f"{name} ended with {type(error).__name__} while other ranks were at work"
            )
            raise

    def _call(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        on_record: KeepRecord,
        progress: Progress,
    ) -> list[Any]:
        self._cluster.check_alive()
        output = RankOutput(on_progress=progress, on_record=on_record)
        call = calls.PendingCall(self._cluster.send(name, args, kwargs), output)
        try:
            call.wait(self._cluster.check_alive)
        except BaseException as error:
            if not call.is_over:  # ranks that are still at work can serve no other call
                self._cluster.give_up(
                    f"{name} ended with {type(error).__name__} while ranks were still in it"
                )
            raise
        return call.results
