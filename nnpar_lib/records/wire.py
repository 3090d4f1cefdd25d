"""What a rank tells its launcher: lines with a known beginning, and what it died of."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nnpar_lib.config.environment import LAST_WORDS_VARIABLE, launched_rank

# JSON follows each of them
PROGRESS_PREFIX = "NNPAR-PROGRESS "
RECORD_PREFIX = "NNPAR-RECORD "
LAST_WORDS_SUFFIX = ".last-words"
FORWARDING_SECONDS = 0.5  # mpiexec drops what it has not passed on when its ranks are aborted


def leave_last_words(text: str) -> None:
    """Tell the launcher what this process dies of, or standard error where no launcher reads it.

    A file is sure to arrive: mpiexec may end before it has passed on what a rank printed last.
    """
    folder = os.environ.get(LAST_WORDS_VARIABLE, "/dev/null")
    name = f"{time.time_ns()}-{launched_rank()}"
    try:
        part = Path(folder, name)
        part.write_text(text)
        part.rename(part.with_suffix(LAST_WORDS_SUFFIX))
    except OSError:  # no such folder on this node
        os.write(2, f"{text}\n".encode())
        time.sleep(FORWARDING_SECONDS)


def last_words(folder: str) -> list[str]:
    """Return what ranks left, the earliest first, without repetition."""
    files = sorted(Path(folder).glob(f"*{LAST_WORDS_SUFFIX}"))
    return list(dict.fromkeys(path.read_text() for path in files))
