"""A rank that has waited too long for others ends the run, and says who is missing and what it
waits in."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

CHECK_SECONDS = 0.5
ANSWER_SECONDS = 2.5  # how long the others have to say whether they wait too
TURN_SECONDS = 3.0  # how long a waiting rank leaves the word to a lower one
EXIT_STATUS = 75
QUESTION, ANSWER = 1, 2


class StallWatch:
    """Knows what this rank waits in, `with watch("a barrier"): ...`; while it is started, a thread
    looks at it.

    The threads of the ranks talk to each other in a group of their own, so that a rank that
    computes, or waits for something else, can say so; one that has stopped cannot.
    """

    def __init__(self) -> None:
        self._operation, self._since = "", 0.0

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

    def start(self, comm: Any, seconds: float) -> None:
        """Look from now on; `comm` is an mpi4py communicator that nothing else uses."""
        self._comm, self._seconds = comm, seconds
        self._sent: list[Any] = []  # buffers on their way must stay
        self._answers: dict[int, str] = {}
        self._asked: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(CHECK_SECONDS):
            self._listen()
            waited = time.monotonic() - self._since if self._operation else 0.0
            if waited < self._seconds:
                self._asked = None
            elif self._asked is None:
                self._answers, self._asked = {}, time.monotonic()
                self._send_to_others(QUESTION, "")
            elif time.monotonic() - self._asked > ANSWER_SECONDS + (
                TURN_SECONDS if self._has_lower_waiting else 0.0
            ):
                self._end(waited)

    @property
    def _has_lower_waiting(self) -> bool:
        return any(
            rank < self._comm.rank and operation for rank, operation in self._answers.items()
        )

    def _listen(self) -> None:
        """Answer what others ask, and take note of what they answer."""
        while self._comm.iprobe():
            sender, kind, text = self._comm.recv()
            if kind == QUESTION:
                self._sent.append(
                    self._comm.isend((self._comm.rank, ANSWER, self._operation), sender)
                )
            else:
                self._answers[sender] = text

    def _send_to_others(self, kind: int, text: str) -> None:
        self._sent += [
            self._comm.isend((self._comm.rank, kind, text), rank)
            for rank in range(self._comm.size)
            if rank != self._comm.rank
        ]

    def _end(self, waited: float) -> None:
        """Say who is missing and leave at once: the launcher then ends the others."""
        message = describe(self._comm.rank, self._comm.size, self._operation, waited, self._answers)
        sys.stderr.flush()
        os.write(
            2, f"\nnnpar: {message}\n".encode()
        )  # not sys.stderr, which an engine sends elsewhere, and later
        os._exit(EXIT_STATUS)


def describe(rank: int, size: int, operation: str, waited: float, answers: dict[int, str]) -> str:
    """Return one line on a stall, seen by `rank`; `answers` are the operations that others wait in,
    "" for none."""
    missing = [
        f"rank {other} ({'is busy elsewhere' if other in answers else 'does not answer'})"
        for other in range(size)
        if other != rank and not answers.get(other)
    ]
    too = [f"rank {other} in {text}" for other, text in sorted(answers.items()) if text]
    whom = ", ".join(missing) or "none, the ranks wait for each other"
    also = f"; waiting too: {', '.join(too)}" if too else ""
    return (
        f"stalled: rank {rank} has waited {waited:.0f} s in {operation}; missing: {whom}{also}."
        " If a step may take that long, raise stall_seconds"
    )
