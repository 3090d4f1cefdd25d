"""What this process finds around it: the rank that a launcher gave it, and a folder in memory."""

from __future__ import annotations

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


def launched_rank(env: Mapping[str, str] = os.environ) -> int | None:
    """Return the rank that mpiexec or srun gave to this process, None where it was started
    alone."""
    return next((int(env[name]) for name in RANK_VARIABLES if name in env), None)


def launched_size(env: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of ranks that mpiexec or srun launched, None in a process alone."""
    if launched_rank(env) is None:
        return None
    return next((int(env[name]) for name in SIZE_VARIABLES if name in env), 1)


def memory_folder() -> str | None:
    """Return a writable folder in memory, through which ranks pass messages, None without one."""
    return MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else None
