"""What each family of MPI has to be told by its environment, each setting beside its reason.

Every setting was found out by trial with the family that it belongs to (Open MPI 4.1 and 5.0,
MPICH 5.0, Intel MPI 2021); Cray MPICH is MPICH with a launcher of the site (srun or PALS), is set
by its documentation (`man intro_mpi`) and was not tried.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnpar_lib.launch.installation import (
    INTEL,
    JOB_VARIABLES,
    LIBRARY_VARIABLE,
    MPICH,
    OPENMPI,
    UNKNOWN,
    Installation,
)


@dataclass(frozen=True)
class Setting:
    """A variable of mpiexec's environment and why it is set.

    `where` says under which circumstances: always, on one node (outside of a batch job, where the
    slots of an allocation are no question and no other node is involved), or as root.
    """

    name: str
    value: str
    reason: str
    where: str = "always"


ONE_NODE = "on one node"
AS_ROOT = "as root"
UNBOUND = "ranks bind themselves; else 1 or 2 ranks are pinned to a core each, threads included"
OVERSUBSCRIBED = "more ranks than cores start; inside an allocation its slots are the limit"
ROOT = "usual in containers"
LOCAL_FILES = "no network adapter is looked for, which takes a second"
LOOPBACK = "one machine needs no port that others can reach"

SETTINGS = {
    OPENMPI: [
        Setting("PRTE_MCA_hwloc_default_binding_policy", "none", UNBOUND),  # Open MPI 5
        Setting("OMPI_MCA_hwloc_base_binding_policy", "none", UNBOUND),  # Open MPI 4
        Setting("OMPI_MCA_mpi_yield_when_idle", "1", "a rank that waits lets others have its core"),
        Setting("OMPI_MCA_osc", "^ucx", "shared windows work without it, and it complains"),
        Setting(
            "PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", OVERSUBSCRIBED, ONE_NODE
        ),
        Setting("OMPI_MCA_rmaps_base_oversubscribe", "1", OVERSUBSCRIBED, ONE_NODE),
        Setting("OMPI_MCA_btl", "^ofi,tcp", f"{LOCAL_FILES}; {LOOPBACK}", ONE_NODE),
        Setting("OMPI_ALLOW_RUN_AS_ROOT", "1", ROOT, AS_ROOT),
        Setting("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", ROOT, AS_ROOT),
    ],
    MPICH: [
        Setting("HYDRA_BINDING", "none", UNBOUND),
        Setting("UCX_NET_DEVICES", "lo", LOOPBACK, ONE_NODE),  # MPICH over UCX, or over libfabric
        Setting("FI_PROVIDER", "tcp;ofi_rxm", LOOPBACK, ONE_NODE),
        Setting("FI_TCP_IFACE", "lo", LOOPBACK, ONE_NODE),
    ],
    INTEL: [
        Setting("I_MPI_PIN", "0", UNBOUND),
        Setting("I_MPI_THREAD_YIELD", "2", "a rank that waits lets others have its core"),
        Setting("I_MPI_FABRICS", "shm", LOOPBACK, ONE_NODE),
        Setting("I_MPI_HYDRA_BOOTSTRAP", "fork", "no ssh to this very machine", ONE_NODE),
    ],
}

# a launcher that does not say what it is: settings of another family do no harm
SETTINGS[UNKNOWN] = SETTINGS[OPENMPI]


def settings(installation: Installation, env: Mapping[str, str] = os.environ) -> list[Setting]:
    """Return what is to be added to `env` for an MPI; what `env` already sets is left alone."""
    circumstances = {"always"}
    if not any(name in env for name in JOB_VARIABLES):
        circumstances.add(ONE_NODE)
    if os.getuid() == 0:
        circumstances.add(AS_ROOT)
    wanted = [
        setting
        for setting in SETTINGS.get(installation.family, [])
        if setting.where in circumstances
    ]
    if installation.library is not None:
        reason = "mpi4py loads the library that belongs to mpiexec"
        wanted.append(Setting(LIBRARY_VARIABLE, str(installation.library), reason))
    wanted.append(Setting("HOME", home(), "Open MPI does not start without one"))
    return [setting for setting in wanted if setting.name not in env]


def home() -> str:
    """Return the user's home folder, that of temporary files for a user who has none."""
    try:
        return str(Path.home())
    except RuntimeError:
        return tempfile.gettempdir()
