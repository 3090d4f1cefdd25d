"""A rank that has waited too long for others ends the run, and says which rank is missing and what
it waits in."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from nnpar_lib.config.environment import launched_rank
from nnpar_lib.records.wire import leave_last_words

CHECK_SECONDS = 0.5
ANSWER_SECONDS = 2.5  # how long the others have to say whether they wait too
TURN_SECONDS = 3.0  # how long a waiting rank leaves the word to a lower one
EXIT_STATUS = 75
QUESTION = 1
ANSWER = 2
TAG = 32767  # the largest that every MPI has; no other message of the world uses it


@dataclass(frozen=True)
class Limit:
    """How long a rank may wait, and for which ranks of the world.

    In training a rank that is busy elsewhere counts as missing; outside of it ranks may well take
    their time, and only one that does not answer is missing.
    """

    seconds: float
    ranks: Sequence[int] = ()
    is_training: bool = False


class StallWatch:
    """Knows what this rank waits in, `with watch("a barrier"): ...`; once started, a thread looks
    at it.

    The threads of the ranks talk to each other, so that a rank that computes, or waits for
    something else, can say so; one that has stopped cannot. The thread also ends a rank whose
    launcher is gone.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._limit = Limit(seconds)
        self._operation = ""
        self._since = 0.0
        self._comm: Any = None
        self._can_ask = True
        self._sent: list[Any] = []  # buffers on their way must stay
        self._answers: dict[int, str] = {}
        self._asked: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._launcher = os.getppid()

    def __call__(self, operation: str) -> Self:
        """Take note of what is waited in from now on."""
        self._since = time.monotonic()
        self._operation = operation
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._operation = ""

    def start(self) -> None:
        """Look from now on; until the ranks can talk, a wait that is too long just ends."""
        self._thread.start()

    def connect(self, comm: Any) -> None:
        """Let the threads of the ranks talk over `comm`, the mpi4py communicator of the world."""
        self._limit = Limit(self._limit.seconds, range(comm.Get_size()))
        self._comm = comm

    def cannot_ask(self) -> None:
        """Judge by time alone, in training alone: MPI lets no second thread of a rank talk."""
        self._can_ask = False

    def stop(self) -> None:
        """Look no longer."""
        self._stop.set()
        self._thread.join()

    @contextmanager
    def training(self, ranks: Sequence[int], seconds: float) -> Iterator[None]:
        """Meanwhile, these ranks of the world may wait for each other for so long; 0: for ever."""
        before = self._limit
        self._limit = Limit(seconds, ranks, is_training=True)
        try:
            yield
        finally:
            self._limit = before

    def _look(self) -> None:
        while not self._stop.wait(CHECK_SECONDS):
            if os.getppid() != self._launcher:
                self._end(f"rank {launched_rank()} ends: its launcher is gone")
            if self._comm is not None:
                self._listen()
            self._check(self._limit, self._operation)

    def _check(self, limit: Limit, operation: str) -> None:
        """Ask the other ranks where this one has waited for too long; end where one is missing."""
        now = time.monotonic()
        waited = now - self._since
        if not operation or limit.seconds <= 0 or waited < limit.seconds:
            self._asked = None
        elif not self._can_ask:
            self._judge_by_time(limit, operation, waited)
        elif self._comm is None:
            self._end(
                f"stalled: rank {launched_rank()} has waited {waited:.0f} s in {operation};"
                " missing: a rank that does not start. If a start may take that long, raise"
                " stall_seconds"
            )
        elif self._asked is None:
            self._ask(limit)
        elif now - self._asked > ANSWER_SECONDS + TURN_SECONDS * self._has_lower_waiting():
            self._judge(limit, operation, waited)

    def _judge_by_time(self, limit: Limit, operation: str, waited: float) -> None:
        """End a training that waits too long; elsewhere a rank may be busy and take its time."""
        if limit.is_training:
            self._end(
                f"stalled: rank {launched_rank()} has waited {waited:.0f} s in {operation};"
                " missing: a rank that cannot be named, as this MPI lets no threads talk"
                " (MPI_THREAD_MULTIPLE). If a step may take that long, raise stall_seconds"
            )

    def _ask(self, limit: Limit) -> None:
        self._answers = {}
        self._asked = time.monotonic()
        for rank in limit.ranks:
            if rank != self._comm.rank:
                self._send(rank, QUESTION, "")

    def _judge(self, limit: Limit, operation: str, waited: float) -> None:
        """End the run, unless outside of training a rank is busy and none is missing."""
        answers = {
            number: self._answers[rank]
            for number, rank in enumerate(limit.ranks)
            if rank in self._answers
        }
        is_busy = "" in answers.values()
        if not limit.is_training and is_busy and len(answers) == len(limit.ranks) - 1:
            self._since += limit.seconds  # ask again later
            self._asked = None
        else:
            rank = list(limit.ranks).index(self._comm.rank)
            self._end(describe(rank, len(limit.ranks), operation, waited, answers))

    def _has_lower_waiting(self) -> bool:
        return any(
            rank < self._comm.rank and operation for rank, operation in self._answers.items()
        )

    def _listen(self) -> None:
        """Answer what others ask, and take note of what they answer."""
        while self._comm.iprobe(tag=TAG):
            sender, kind, text = self._comm.recv(tag=TAG)
            if kind == QUESTION:
                self._send(sender, ANSWER, self._operation)
            else:
                self._answers[sender] = text

    def _send(self, rank: int, kind: int, text: str) -> None:
        self._sent.append(self._comm.isend((self._comm.rank, kind, text), rank, tag=TAG))

    def _end(self, message: str) -> None:
        """Say what is wrong and leave at once: the launcher then ends the others."""
        sys.stderr.flush()
        leave_last_words(f"nnpar: {message}")
        os._exit(EXIT_STATUS)


def describe(rank: int, size: int, operation: str, waited: float, answers: dict[int, str]) -> str:
    """Return one line on a stall, seen by `rank`; `answers` are the operations that others wait in,
    "" for none."""
    missing = [
        f"rank {peer} ({'is busy elsewhere' if peer in answers else 'does not answer'})"
        for peer in range(size)
        if peer != rank and not answers.get(peer)
    ]
    waiting = [f"rank {peer} in {text}" for peer, text in sorted(answers.items()) if text]
    whom = ", ".join(missing) or "none, the ranks wait for each other"
    too = f"; waiting too: {', '.join(waiting)}" if waiting else ""
    return (
        f"stalled: rank {rank} has waited {waited:.0f} s in {operation}; missing: {whom}{too}."
        " If a step may take that long, raise stall_seconds"
    )
