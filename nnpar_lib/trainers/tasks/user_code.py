"""Calls functions of a user on a rank: what they raise, and where they wait for ever, is one line
of theirs."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from nnpar_lib.records.wire import leave_last_words
from nnpar_lib.trainers.communication.communicator import Communicator, Request

STALL_STATUS = 75
OTHERS_SECONDS = 0.5  # how long the other ranks have to say where they wait
AGREE_SECONDS = 2.0  # how long a rank that failed waits for the others
POLL_SECONDS = 0.01
HARD_SECONDS = 10.0  # more, where not even a thread of this process runs


class UserCodeError(RuntimeError):
    """A function of the user raised; its text is JSON: rank, error, file, line and function."""


class AgreedError(RuntimeError):
    """A function of the user raised on some ranks of a group, and all of them know."""


class UserCode:
    """The calls of a user's function on the ranks of a group; one that takes longer than `seconds`
    ends its rank."""

    def __init__(self, function: Any, group: Communicator, seconds: float) -> None:
        self._function = function
        self._group = group
        self._rank = group.rank
        self._seconds = seconds
        self._file = _file_of(function)
        self._thread = threading.get_ident()

    def run(self, *arguments: Any) -> Any:
        """Call the function and return its result; see `run_hook`."""
        return self.run_hook(self._function, *arguments)

    def run_hook(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the user on every rank of the group; return its result (collective).

        Where it raises, all ranks raise an AgreedError, and can go on together. If others do not
        return, because they wait for the rank that failed, that one raises a UserCodeError.
        """
        result = None
        text = ""
        try:
            result = self._timed(function, *arguments)
        except Exception as error:
            text = json.dumps(self._described(error))
        num_failed = torch.tensor([float(bool(text))])
        request = self._group.start_allreduce_sum_(num_failed)
        if text:
            _wait_briefly(request, text)
        request.wait()
        if num_failed.item():
            raise AgreedError(next(filter(None, self._group.allgather_objects(text))))
        return result

    def _timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        timer = threading.Timer(self._seconds, self._end)
        timer.daemon = True
        faulthandler.dump_traceback_later(self._seconds + HARD_SECONDS, exit=True, file=_errors())
        timer.start()
        try:
            return function(*arguments)
        finally:
            timer.cancel()
            faulthandler.cancel_dump_traceback_later()

    def _described(self, error: Exception) -> dict[str, Any]:
        """Return the error and the last line of the user's file that led to it."""
        steps = list(traceback.walk_tb(error.__traceback__))
        theirs = [(f, line) for f, line in steps if f.f_code.co_filename == self._file]
        frame, line = (theirs or steps)[-1]
        return {
            "rank": self._rank,
            "error": f"{type(error).__name__}: {error}".splitlines()[0],
            "file": frame.f_code.co_filename,
            "line": line,
            "function": frame.f_code.co_name,
        }

    def _end(self) -> None:
        """Say where the function waits and end this rank; the launcher then ends the others."""
        where = self._where(sys._current_frames().get(self._thread))
        leave_last_words(
            f"nnpar: stalled: rank {self._rank} has been in {where} for {self._seconds:g} s"
        )
        time.sleep(OTHERS_SECONDS)
        os._exit(STALL_STATUS)

    def _where(self, frame: FrameType | None) -> str:
        while frame is not None and frame.f_code.co_filename != self._file:
            frame = frame.f_back
        if frame is None:
            return "the function"
        return f"line {frame.f_lineno} of {frame.f_code.co_name}"


def _wait_briefly(request: Request, text: str) -> None:
    deadline = time.monotonic() + AGREE_SECONDS
    while not request.test():
        if time.monotonic() > deadline:
            raise UserCodeError(text)
        time.sleep(POLL_SECONDS)


def _file_of(function: Any) -> str:
    """Return the file, or the notebook's cell, where a function, or an object's call, is."""
    method = function if hasattr(function, "__code__") else type(function).__call__
    code = getattr(method, "__code__", None)
    return code.co_filename if code is not None else ""


def _errors() -> Any:
    """Return standard error itself, not what an engine puts in its place."""
    return sys.__stderr__ if sys.__stderr__ is not None else 2
