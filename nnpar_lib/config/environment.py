"""What this process finds around it: the rank that a launcher gave it, and a folder in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

# SLURM_PROCID is not among them: a batch script that srun did not launch carries one too.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
SIZE_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMIX_SIZE",
    "PMI_SIZE",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS",
)
MEMORY_FOLDER = "/dev/shm"
RUNTIME_BYTES = 2**25  # what Open MPI's own files of a few ranks take, with some to spare
STALL_VARIABLE = "NNPAR_STALL_SECONDS"
LAST_WORDS_VARIABLE = "NNPAR_LAST_WORDS"  # the folder in which a rank says what it died of
DEFAULT_STALL_SECONDS = 60.0


def whole_number(name: str, env: Mapping[str, str] = os.environ) -> int:
    """Return the value of a variable; a ValueError names one that is no whole number."""
    try:
        return int(env[name])
    except ValueError:
        raise ValueError(
            f"the environment variable {name}={env[name]!r} is not a whole number; unset it, or"
            " correct it"
        ) from None


def launched_rank(env: Mapping[str, str] = os.environ) -> int | None:
    """Return the rank that mpiexec or srun gave to this process, None where it was started
    alone."""
    return next((whole_number(name, env) for name in RANK_VARIABLES if name in env), None)


def launched_size(env: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of ranks that mpiexec or srun launched, None in a process alone."""
    if launched_rank(env) is None:
        return None
    return next((whole_number(name, env) for name in SIZE_VARIABLES if name in env), 1)


def start_seconds(env: Mapping[str, str] = os.environ) -> float:
    """Return how long a rank may wait for others outside of training; 0: for ever."""
    text = env.get(STALL_VARIABLE, str(DEFAULT_STALL_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"the environment variable {STALL_VARIABLE}={text!r} is not a number of seconds; unset"
            " it, or correct it"
        )
    return seconds


def memory_folder(num_bytes: int = RUNTIME_BYTES) -> str | None:
    """Return a folder in memory, through which ranks pass messages; None without so much room."""
    is_writable = os.access(MEMORY_FOLDER, os.W_OK)
    return MEMORY_FOLDER if is_writable and free_bytes(MEMORY_FOLDER) >= num_bytes else None


def free_bytes(folder: str) -> int:
    """Return how much may still be written to the file system of a folder."""
    system = os.statvfs(folder)
    return system.f_bavail * system.f_frsize
