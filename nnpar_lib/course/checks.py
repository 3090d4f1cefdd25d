"""What the checks of exercises have in common: a verdict in words, and calls of a student's
function."""

from __future__ import annotations

import functools
import linecache
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from nnpar_lib import verify
from nnpar_lib.launch.engines import Engines, engines

UNWRITTEN = "NotImplementedError"
STALL_SECONDS = 10.0


@dataclass(frozen=True)
class Verdict:
    """Whether a solution is right, and what is to be said of it."""

    is_right: bool
    text: str

    def __repr__(self) -> str:
        """Return the text, so that a notebook shows it."""
        return self.text


class Wrong(Exception):
    """Something is wrong with a student's function; the text says what."""


def judged(check: Callable[..., str]) -> Callable[..., Verdict]:
    """Make a check of a function that returns praise or raises `Wrong`: it returns a Verdict."""

    @functools.wraps(check)
    def judge(function: Callable[..., Any], **options: Any) -> Verdict:
        if is_unwritten(function):
            return Verdict(False, f"{function.__name__} is not written yet")
        try:
            return Verdict(True, f"Right: {check(function, **options)}")
        except Wrong as wrong:
            return Verdict(False, f"Not yet: {wrong}")

    return judge


def is_unwritten(function: Callable[..., Any]) -> bool:
    """Return whether the line `raise NotImplementedError` is still in a function."""
    code = getattr(function, "__code__", None)
    return code is not None and UNWRITTEN in code.co_names


def wrong(text: str) -> NoReturn:
    """Say what is wrong."""
    raise Wrong(text)


def demand(condition: object, text: str) -> None:
    """Say what is wrong, unless a condition holds."""
    if not condition:
        raise Wrong(text)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a student's function here; what it raises is one line with the line of their code."""
    with _told(function):
        return function(*arguments)


def items(function: Callable[..., Any], *arguments: Any, limit: int = 10_000) -> list[Any]:
    """Return what a student's generator yields, or say that it does not end."""
    with _told(function):
        yielded = function(*arguments)
        collected = []
        for item in yielded:
            collected.append(item)
            demand(len(collected) < limit, f"your function yields more than {limit} items")
    return collected


@contextmanager
def _told(function: Callable[..., Any]) -> Iterator[None]:
    try:
        yield
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(_one_line(function, error)) from None


def _one_line(function: Callable[..., Any], error: Exception) -> str:
    """Return an exception and the last line of the student's code that led to it."""
    steps = list(traceback.walk_tb(error.__traceback__))
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    theirs = [(frame, line) for frame, line in steps if frame.f_code.co_filename == file]
    if not theirs:
        return f"your function raised {type(error).__name__}: {error}"
    frame, line = theirs[-1]
    source = linecache.getline(file, line).strip()
    where = f"line {line} of {frame.f_code.co_name}" + (f": {source}" if source else "")
    return f"your function raised {type(error).__name__}: {error}, in {where}"


@contextmanager
def running(ranks: Engines | None, num_ranks: int) -> Iterator[Engines]:
    """Yield engines: those that are given, or new ones that are stopped afterwards."""
    if ranks is not None:
        yield ranks
        return
    with engines(num_ranks) as started:
        yield started


def call_on_ranks(
    ranks: Engines,
    function: Callable[..., Any],
    arguments: list[tuple[Any, ...]],
    over: str = "mpi4py",
) -> list[Any]:
    """Call a student's function on the first ranks, each with its arguments and a communicator.

    Return for each rank the result, the arguments as the function left them, and how many numbers
    it has sent, where it is given `messages`.
    """
    results, error = verify.call_on(
        ranks,
        "call_user_function",
        {"function": function, "arguments": arguments, "over": over, "seconds": STALL_SECONDS},
    )
    if not error and (told := next((r["error"] for r in results if r["error"]), "")):
        error = verify.told(told)
    if error:
        raise Wrong(explained(error))
    return [(*result["outcome"], result["num_sent"]) for result in results[: len(arguments)]]


def explained(error: str) -> str:
    """Add to the line on a function that does not end what that means."""
    if " has been in " in error:
        return (
            f"{error}: the ranks wait for each other. Does every rank, with no examples too, call"
            " the same operations in the same order, and every send meet a receive?"
        )
    return error
