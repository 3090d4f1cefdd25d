"""What mpiexec has to be told by its environment, and what a batch job says of itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from nnpar_lib.config.environment import RANK_VARIABLES, whole_number
from nnpar_lib.launch import installation, mpi_settings


def mpi_environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables to add to `env` for mpiexec; what `env` already sets is left alone."""
    chosen = installation.find(env)
    return {setting.name: setting.value for setting in mpi_settings.settings(chosen, env)}


def private_files(folder: str) -> dict[str, str]:
    """Return the variables that keep Open MPI's own files in `folder`: a killed mpiexec leaves them
    all over the node.

    The folder has to be on a local and fast file system: messages between ranks pass through some
    of the files.
    """
    return dict.fromkeys(
        (
            "PRTE_MCA_prte_tmpdir_base",
            "OMPI_MCA_orte_tmpdir_base",
            "OMPI_MCA_osc_sm_backing_directory",
            "OMPI_MCA_btl_sm_backing_directory",
            "OMPI_MCA_btl_vader_backing_directory",
        ),
        folder,
    )


def mpiexec_command() -> list[str]:
    """Return the command of the mpiexec that `installation.find` chooses.

    Raises a ValueError where there is none.
    """
    return [str(installation.find().mpiexec)]


def is_resuming(env: Mapping[str, str] = os.environ) -> bool:
    """Return whether what was measured before is to be taken over instead of measured again."""
    return env.get("NNPAR_RESUME") == "1"


def num_nodes(env: Mapping[str, str] = os.environ) -> int:
    """Return the number of nodes of the SLURM allocation that this process is in, 1 outside of
    any."""
    return whole_number("SLURM_JOB_NUM_NODES", env) if "SLURM_JOB_NUM_NODES" in env else 1


def job_id(env: Mapping[str, str] = os.environ) -> str:
    """Return the id of the SLURM job that this process is in, nothing outside of any."""
    return env.get("SLURM_JOB_ID", "")


def mpi_rank(env: Mapping[str, str] = os.environ) -> int:
    """Return the rank that the MPI launcher gave to this process; a RuntimeError where there was no
    launcher."""
    variables = (*RANK_VARIABLES, "SLURM_PROCID")
    for name in variables:
        if name in env:
            return whole_number(name, env)
    raise RuntimeError(
        f"this process has no MPI rank (none of {', '.join(variables)} is set); "
        "start it with mpiexec"
    )


def introduce_rank() -> tuple[int, int]:
    """Return the MPI rank and the process id of this engine.

    From now on SIGTERM ends it at once, which mpiexec notices. The handler that engines come with
    ends no more than their service: the process then waits for the other ranks to finalise MPI.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return mpi_rank(), os.getpid()
