"""What ranks print while they work: progress, finished records, and anything else."""

from __future__ import annotations

import html
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from nnpar_lib.records.wire import PROGRESS_PREFIX, RECORD_PREFIX

NOTEBOOK_SECONDS = 0.5
TERMINAL_SECONDS = 0.5
LOG_SECONDS = 60.0

Progress = Callable[[float, str], None]
KeepRecord = Callable[[dict[str, Any]], None]


class RankOutput:
    """Sorts the lines that ranks print: progress, records, and others, which are echoed by rank."""

    def __init__(self, *, on_progress: Progress, on_record: KeepRecord) -> None:
        self._on_progress = on_progress
        self._on_record = on_record
        self._num_read: dict[tuple[int, str], int] = {}

    def read(self, rank: int, stream: str, text: str, *, last: bool = False) -> None:
        """Take the new lines of `text`, all that a rank has printed to "stdout" or "stderr".

        A line without an end is left for later, unless this is the `last` reading.
        """
        start = self._num_read.get((rank, stream), 0)
        end = len(text) if last else text.rfind("\n", start) + 1
        if end <= start:
            return
        self._num_read[rank, stream] = end
        shown = None
        for line in text[start:end].splitlines():
            progress = _parse(line, PROGRESS_PREFIX)
            shown = progress or shown  # only the latest of several is shown
            if progress is None:
                self._take(rank, stream, line)
        if shown is not None:
            self._on_progress(float(shown["fraction"]), str(shown["text"]))

    def _take(self, rank: int, stream: str, line: str) -> None:
        record = _parse(line, RECORD_PREFIX)
        if record is not None:
            self._on_record(record)
        else:
            print(
                f"[{rank}] {line}",
                file=sys.stderr if stream == "stderr" else sys.stdout,
                flush=True,
            )


def _parse(line: str, prefix: str) -> dict[str, Any] | None:
    """Return the values of a line with this prefix, None for another or an incomplete line."""
    if not line.startswith(prefix):
        return None
    try:
        values: dict[str, Any] = json.loads(line.removeprefix(prefix))
    except json.JSONDecodeError:
        return None
    return values


class ProgressDisplay:
    """A progress bar that leaves one line of text, so that a saved notebook says what was done.

    In a notebook it is a display that is updated in place, in a terminal a line that is rewritten,
    and in a log a line a minute.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last_shown = -LOG_SECONDS
        self._handle = _notebook_display()
        self._interval = (
            NOTEBOOK_SECONDS
            if self._handle
            else TERMINAL_SECONDS
            if _is_terminal()
            else LOG_SECONDS
        )
        self._is_shown = False

    def __call__(self, fraction: float, text: str) -> None:
        """Show how far the ranks are, unless the last time was a moment ago."""
        now = time.monotonic()
        if now - self._last_shown < self._interval:
            return
        self._last_shown = now
        line = f"{100 * fraction:3.0f} % {text}"
        self._write(
            line,
            f"<progress max='1' value='{fraction:.3f}'></progress>"
            f" <code>{html.escape(line)}</code>",
        )

    def close(self, summary: str) -> None:
        """Leave the summary and the seconds it took, if any progress was shown."""
        if self._is_shown:
            line = f"{summary} in {time.monotonic() - self._start:.0f} s"
            self._write(line, html.escape(line), end="\n")

    def _write(self, line: str, markup: str, end: str = "") -> None:
        if self._handle is not None:
            content = {"text/plain": line, "text/html": markup}
            (self._handle.update if self._is_shown else self._handle.display)(content, raw=True)
        elif _is_terminal():
            print(f"\r{line:<100.100}", end=end, file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
        self._is_shown = True


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _notebook_display() -> Any:
    """Return a handle on a new display of this notebook kernel, None outside of one."""
    from IPython import get_ipython
    from IPython.display import DisplayHandle

    make_handle: Callable[[], Any] = DisplayHandle
    shell = get_ipython()
    return make_handle() if shell is not None and hasattr(shell, "kernel") else None


def silent_log() -> logging.Logger:
    """Return a logger without output: failures are reported as exceptions."""
    log = logging.getLogger(f"{__name__}.silent")
    log.addHandler(logging.NullHandler())
    log.setLevel(logging.CRITICAL)
    log.propagate = False
    return log
