"""Run a command of several processes to its end, on a lifeline, with what its ranks said last."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from nnpar_lib.config.environment import LAST_WORDS_VARIABLE
from nnpar_lib.launch import lifeline
from nnpar_lib.records import wire


def run(
    command: Sequence[str],
    folder: str,
    variables: Mapping[str, str],
    *,
    is_captured: bool = False,
    seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its exit status, with its output where that `is_captured`.

    The status is 128 + N where signal N ended it. What ranks left in `folder` as their last words
    is added to standard error. Whatever ends this process, nothing of the command stays behind.
    Raises subprocess.TimeoutExpired where the command takes longer than `seconds`.
    """
    pipe = subprocess.PIPE if is_captured else None
    environment = {**os.environ, LAST_WORDS_VARIABLE: folder, **variables}
    with subprocess.Popen(
        [*lifeline.command(folder), *command], env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException:
            process.terminate()
            raise
    status = lifeline.exit_status(process.returncode)
    words = "".join(f"{text}\n" for text in wire.last_words(folder)) if status else ""
    if not is_captured:
        sys.stderr.write(words)
        sys.stderr.flush()
    return subprocess.CompletedProcess(command, status, output, (errors or "") + words)
