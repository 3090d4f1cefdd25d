"""Whether an error is about what the user gave, and the exit statuses of the shell."""

from __future__ import annotations

import traceback

USAGE_STATUS = 2
INTERRUPT_STATUS = 130  # what shells give to a process that Ctrl-C ended
CLOSED_PIPE_STATUS = 141  # and to one whose reader was gone
EXIT_STATUSES = {
    "0": "all is done",
    "1": "a rank died or stalled, or a record could not be written; a defect shows its traceback",
    "2": "something given is wrong: one line names it and the remedy",
    "130": "interrupted by Ctrl-C",
    "128+N": "ended by signal N, such as 143 for SIGTERM",
}


def is_usage_error(error: BaseException) -> bool:
    """Return whether an error is about what the user gave, as this library says it itself.

    It is a ValueError, or a MemoryError for a budget. One that comes out of another library is a
    defect of this one, whose traceback is needed.
    """
    if not isinstance(error, (ValueError, MemoryError)):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not frames or frames[-1].f_globals.get("__name__", "").split(".")[0] == "nnpar_lib"
