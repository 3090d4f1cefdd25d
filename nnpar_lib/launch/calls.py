"""A call of a function on ranks: its output while it runs, its results, or the first error."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnpar_lib.launch.rank_output import RankOutput
from nnpar_lib.records import store
from nnpar_lib.records.kinds import KINDS, Record

POLL_SECONDS = 0.2
GRACE_SECONDS = 2.0
OUTPUT_SECONDS = 2.0
ANSI_CODES = re.compile(r"\x1b\[[0-9;]*m")


class RankError(RuntimeError):
    """A rank raised an exception with type name `ename`, text `evalue` and `traceback`."""

    def __init__(
        self, rank: int, ename: str, evalue: str, traceback: str, *, remark: str = ""
    ) -> None:
        super().__init__(f"rank {rank} raised {ename}: {evalue}{remark}\n{traceback}")
        self.rank = rank
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback


class EnginesLost(RuntimeError):
    """A rank, mpiexec or the controller died or stopped, or all were stopped after a failure."""


class PendingCall:
    """One call under way on some ranks: its output, its results, and the first rank that fails."""

    def __init__(
        self, parts: Sequence[Any], output: RankOutput, *, ranks: Sequence[int] | None = None
    ) -> None:
        self._parts = parts  # one a rank, in the order of ranks
        self._ranks = range(len(parts)) if ranks is None else ranks
        self._output = output
        self._first_error_seen: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether every rank has returned or raised."""
        return all(part.done() for part in self._parts)

    @property
    def results(self) -> list[Any]:
        """What every rank returned, in the order of ranks."""
        return [part.get()[0] for part in self._parts]

    def wait(self, check_alive: Callable[[], None]) -> None:
        """Return when all ranks have returned; raise a RankError or EnginesLost soon after a
        failure."""
        try:
            while concurrent.futures.wait(self._parts, POLL_SECONDS).not_done:
                self._read_output()
                self._check_grace()
                self._check_alive(check_alive)
        finally:  # it holds records from before a failure
            self._read_last_output(OUTPUT_SECONDS if self.is_over else 0)
        if failed := self._failed_parts():
            raise self._error(failed)

    def _check_alive(self, check_alive: Callable[[], None]) -> None:
        """Raise where engines are gone: what a rank raised before, as it is the cause."""
        try:
            check_alive()
        except EnginesLost:
            if raised := [i for i in self._failed_parts() if self._parts[i].successful()]:
                raise self._error(raised, "\n(all engines were stopped)") from None
            raise

    def _check_grace(self) -> None:
        """Raise the error of a rank when others have not returned some time after it."""
        failed = self._failed_parts()
        now = time.monotonic()
        if failed and self._first_error_seen is None:
            self._first_error_seen = now
        if self._first_error_seen is not None and now - self._first_error_seen > GRACE_SECONDS:
            raise self._error(
                failed, "\n(the other ranks were waiting for it; all engines were stopped)"
            )

    def _failed_parts(self) -> list[int]:
        return [
            i for i, part in enumerate(self._parts) if part.done() and _failure(part) is not None
        ]

    def _error(self, failed: Sequence[int], remark: str = "") -> RankError:
        """Make the exception of the first rank that failed; later errors may be consequences."""
        failures = {}
        for i in failed:
            if (failure := _failure(self._parts[i])) is not None:
                failures[self._ranks[i]] = failure
        first = min(failures, key=lambda rank: failures[rank].seconds)
        later = [str(rank) for rank in failures if rank != first]
        if later:
            remark = f"\n(so did rank {', '.join(later)}, later)" + remark
        failure = failures[first]
        return RankError(first, failure.ename, failure.evalue, failure.traceback, remark=remark)

    def _read_output(self, *, last: bool = False) -> None:
        for rank, part in zip(self._ranks, self._parts, strict=True):
            for stream in ("stdout", "stderr"):
                self._output.read(rank, stream, part[stream], last=last)

    def _read_last_output(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for part in self._parts:
            part.wait_for_output(max(0.0, deadline - time.monotonic()))
        self._read_output(last=True)


def call_by_name(
    name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...] | None]:
    """Call a function, on an engine; return its result, or else its exception as text, with the
    time."""
    import importlib
    import time
    import traceback

    module, _, function = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), function)(*args, **kwargs), None
    except BaseException as error:
        own_frame = error.__traceback__  # says nothing about the function
        text = "".join(
            traceback.format_exception(error.with_traceback(own_frame and own_frame.tb_next))
        )
        return None, (time.time(), type(error).__name__, str(error), text)


class RecordStore:
    """Records as they arrive, in memory and in a file; `origin` is added to their provenance."""

    def __init__(self, path: str | Path | None, origin: Mapping[str, Any] | None = None) -> None:
        self.records: list[Record] = []
        self._path = path
        self._origin = dict(origin or {})
        self._arrived: set[str] = set()
        self._num_written = 0

    def keep(self, values: dict[str, Any]) -> None:
        """Keep a record that has just been made."""
        arrived = KINDS[values.get("kind", "run")](**values)
        self._arrived.add(store.to_json(arrived))
        provenance = {**arrived.provenance, **self._origin}
        record = dataclasses.replace(arrived, provenance=provenance)
        self.records.append(record)
        if self._path is not None and store.append_or_print(self._path, record):
            self._num_written += 1

    def note(self) -> str:
        """Say where the records are, for the message of a later failure."""
        text = f"the {len(self.records)} records of finished runs are "
        if self._path is None:
            return text + "lost: give a results_file to keep them"
        num_printed = len(self.records) - self._num_written
        if num_printed == 0:
            return text + f"in {self._path}"
        return text + f"above ({num_printed}) and in {self._path} ({self._num_written})"

    def keep_missing(self, returned: Sequence[dict[str, Any]]) -> None:
        """Keep what was returned at the end and had not arrived before."""
        for values in returned:
            if store.to_json(KINDS[values.get("kind", "run")](**values)) not in self._arrived:
                self.keep(values)


@dataclass(frozen=True)
class _Failure:
    """An exception of a rank, as text, and the time of it."""

    seconds: float
    ename: str
    evalue: str
    traceback: str


def _failure(part: Any) -> _Failure | None:
    """Return what a rank raised whose call is over, None where it returned."""
    if (
        not part.successful()
    ):  # ipyparallel itself failed there, such as on a result that cannot be pickled
        error = part.exception()
        return _Failure(time.time(), error.ename, error.evalue, ANSI_CODES.sub("", error.traceback))
    raised = part.get()[1]
    return None if raised is None else _Failure(*raised)
