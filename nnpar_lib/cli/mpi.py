"""`mpi`: which MPI the ranks use, what it is told and why, and a first all-reduce."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from nnpar_lib.launch import environment, guarded, installation, mpi_settings
from nnpar_lib.launch.private_folder import PrivateFolder
from nnpar_lib.records.provenance import library_version

FIRST_EXCHANGE = "nnpar_lib.trainers.tasks.first_exchange"
SECONDS = 120


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--num-ranks", type=int, default=2, metavar="N", help="ranks that try it (default: 2)"
    )


def version() -> str:
    """Return one line about the MPI that ranks use: the library's own word, and its launcher."""
    try:
        chosen = installation.find()
    except ValueError as error:
        return f"no MPI: {error}"
    library = chosen.library
    return f"{library_version(library) if library else chosen.name} ({chosen.mpiexec})"


def run(arguments: argparse.Namespace) -> int:
    """Print the installation and its settings, then what the ranks say; return the exit status."""
    if arguments.num_ranks < 1:
        raise ValueError(f"--num-ranks {arguments.num_ranks} is too small; take at least 1")
    chosen = installation.find()
    print(describe(chosen))
    outcome = first_exchange(arguments.num_ranks)
    num_ranks = outcome["num_ranks"]
    print(
        f"{num_ranks} ranks summed {outcome['sum']:g} in {1e6 * outcome['seconds']:.0f}"
        f" microseconds over {outcome['library']}"
    )
    expected = num_ranks * (num_ranks + 1) / 2
    return int(num_ranks != arguments.num_ranks or outcome["sum"] != expected)


def describe(chosen: installation.Installation) -> str:
    """Return a few lines: launcher, library, and each variable that is set with its reason."""
    lines = [
        f"mpiexec: {chosen.mpiexec} ({chosen.name}), {chosen.reason}",
        f"library: {chosen.library or 'none beside mpiexec: mpi4py looks for one'}",
    ]
    for setting in mpi_settings.settings(chosen):
        lines.append(f"  {setting.name}={setting.value}  ({setting.reason})")
    return "\n".join(lines)


def first_exchange(num_ranks: int) -> dict[str, float]:
    """Return what ranks say that were started for one all-reduce.

    Raises a ValueError that quotes mpiexec where they do not come to an end.
    """
    command = [*environment.mpiexec_command(), "-n", str(num_ranks), sys.executable]
    with PrivateFolder() as folder:
        variables = {**environment.mpi_environment(), **environment.private_files(folder)}
        try:
            process = guarded.run(
                [*command, "-m", FIRST_EXCHANGE],
                folder,
                variables,
                is_captured=True,
                seconds=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"{num_ranks} ranks did not end an all-reduce within {SECONDS} s; try"
                f" `{' '.join(command[:-1])} hostname`"
            ) from None
    lines = [line for line in process.stdout.splitlines() if line.startswith("{")]
    if process.returncode != 0 or len(lines) != 1:
        said = (process.stderr or process.stdout).strip()[-1000:]
        raise ValueError(f"{num_ranks} ranks cannot do an all-reduce; mpiexec says: {said}")
    outcome: dict[str, float] = json.loads(lines[0])
    return outcome
