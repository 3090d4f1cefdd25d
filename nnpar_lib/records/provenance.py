"""The origin of a number: commit, host, versions and load, without any path of the machine."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from nnpar_lib import __version__

PACKAGES = ("torch", "torchvision", "mpi4py", "numpy", "ipyparallel")
MPI_LIBRARY = re.compile(r"/.*/libmpi(_\w+)?\.so[.\d]*$", re.MULTILINE)
MAX_LIBRARY_VERSION = 8192  # MPI_MAX_LIBRARY_VERSION_STRING of MPICH, the longest
LIBRARY = Path(__file__).parents[1]
PROCESSORS = Path("/sys/devices/system/cpu")
# The cores that the launcher allowed, before any run binds this process.
INITIAL_CORES = frozenset(os.sched_getaffinity(0))


def provenance() -> dict[str, Any]:
    """Return what a reader needs to judge and to repeat a measurement made now on this host."""
    return {
        "version": __version__,
        "source_sha256": source_sha256(),
        **_commit(),
        "host": platform.node(),
        "cpu": _cpu_model(),
        "num_cores": num_cores(),
        "threads_per_core": threads_per_core(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": package_versions(),
        "mpi": loaded_mpi(),
        "load_average": round(os.getloadavg()[0], 2),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def num_cores() -> int:
    """Return the number of cores that were allowed at the start, before any binding."""
    return len(INITIAL_CORES)


@cache
def threads_per_core() -> int:
    """Return how many of the processors that were allowed at the start share a core, at most."""
    siblings = [PROCESSORS / f"cpu{core}/topology/thread_siblings_list" for core in INITIAL_CORES]
    cores = [path.read_text() for path in siblings if path.is_file()]
    return max((cores.count(core) for core in cores), default=1)


@cache
def source_sha256() -> str:
    """Return a digest of the library's source, which is the same for records of the same code."""
    digest = hashlib.sha256()
    for path in sorted(LIBRARY.rglob("*.py")):
        digest.update(path.relative_to(LIBRARY).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that shape a measurement."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def loaded_mpi() -> str | None:
    """Return the version that the loaded MPI library reports, None where none is loaded.

    MPI_Get_library_version may be called before MPI is initialised.
    """
    try:
        library = MPI_LIBRARY.search(Path("/proc/self/maps").read_text())
    except OSError:
        return None
    return None if library is None else library_version(library[0])


def library_version(library: str | Path) -> str:
    """Return the name and version that an MPI library reports, such as "Open MPI v5.0.11"."""
    text = ctypes.create_string_buffer(MAX_LIBRARY_VERSION)
    length = ctypes.c_int()
    ctypes.CDLL(str(library)).MPI_Get_library_version(text, ctypes.byref(length))
    words = text.value.decode(errors="replace").splitlines()[0]
    return " ".join(words.split(",")[0].split())


@cache
def _commit() -> dict[str, Any]:
    """Return the commit of the library's checkout; both values are None outside a checkout.

    A wheel that is installed in an environment within a checkout is not a part of that.
    """
    is_tracked = bool(_git("ls-files", "--", str(LIBRARY / "__init__.py")))
    commit = _git("rev-parse", "HEAD") if is_tracked else ""
    dirty = bool(_git("status", "--porcelain", "--", str(LIBRARY))) if commit else None
    return {"commit": commit or None, "dirty": dirty}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(LIBRARY), *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
