"""The messages that MPI's own all-reduce sends, as Open MPI counts them.

MPI does not say which algorithm it takes, and it takes another one for other sizes. Open MPI's
component `monitoring` counts the messages between ranks below a collective operation, and each
algorithm has counts of its own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from nnpar_lib.launch import environment, guarded, installation
from nnpar_lib.launch.private_folder import PrivateFolder

PROGRAM = "nnpar_lib.trainers.tasks.one_allreduce"
SECONDS = 120
OF_COLLECTIVES = "I"  # the first word of a line on messages that MPI itself sends


@dataclass(frozen=True)
class Counts:
    """The messages of an all-reduce, of all ranks together, and the bytes in them."""

    num_messages: int
    num_bytes: int


def are_told() -> bool:
    """Return whether the MPI that ranks use counts its messages."""
    return installation.find().family == installation.OPENMPI


def count(num_elements: int, num_ranks: int) -> Counts:
    """Return what MPI sends to sum so many numbers of float32, by starting ranks that do so.

    A ValueError quotes mpiexec where the ranks fail, as those of an MPI do that does not tell.
    """
    command = [*environment.mpiexec_command(), "-n", str(num_ranks), sys.executable]
    with PrivateFolder() as folder:
        counted = Path(folder, "counted")
        variables = {
            **environment.mpi_environment(),
            **environment.private_files(folder),
            "OMPI_MCA_pml_monitoring_enable": "2",  # messages of MPI itself apart from a program's
            "OMPI_MCA_pml_monitoring_enable_output": "3",  # a file for each rank
            "OMPI_MCA_pml_monitoring_filename": str(counted),
        }
        process = guarded.run(
            [*command, "-m", PROGRAM, str(num_elements)],
            folder,
            variables,
            is_captured=True,
            seconds=SECONDS,
        )
        files = [Path(f"{counted}.{rank}.prof") for rank in range(num_ranks)]
        if process.returncode != 0 or not all(file.exists() for file in files):
            said = (process.stderr or process.stdout).strip()[-1000:]
            raise ValueError(f"{num_ranks} ranks counted no messages; mpiexec says: {said}")
        return _total("\n".join(file.read_text() for file in files))


def _total(text: str) -> Counts:
    """Add up lines such as `I  0  1  400 bytes  1 msgs sent  ...`."""
    words = [line.split() for line in text.splitlines() if line.startswith(OF_COLLECTIVES + "\t")]
    return Counts(
        num_messages=sum(int(line[5]) for line in words),
        num_bytes=sum(int(line[3]) for line in words),
    )
