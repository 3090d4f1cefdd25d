"""What there is on this machine: processors, caches, memory, GPUs, MPI and BLAS; and its name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnpar_lib.config.environment import whole_number
from nnpar_lib.launch import environment, installation
from nnpar_lib.records.provenance import library_version, num_cores, provenance

SYSTEM = Path("/sys/devices/system")
NOT_NAMES = ("r", "tm", "processor", "cpu", "core", "with", "graphics", "nvidia", "amd", "intel")
# what must agree for records to be of the same machine; hosts of one kind in a job may differ
IDENTITY = ("cpu", "num_cores", "num_nodes", "num_node_cores", "threads_per_core", "gpus")


def describe(env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return what is there, with counts of what this process, or its SLURM job, may use."""
    import torch

    num_nodes = environment.num_nodes(env)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": provenance()["cpu"],
        "num_cores": _num_job_cores(env),
        "num_node_cores": num_cores(),
        "num_nodes": num_nodes,
        "threads_per_core": provenance()["threads_per_core"],
        "numa_nodes": max(1, len(list((SYSTEM / "node").glob("node[0-9]*")))),
        "caches": _caches(),
        "memory_gib": provenance()["memory_gib"],
        "gpus": gpus,
        "mpi": _mpi(),
        "blas": _blas(torch.__config__.show()),
        "load_average": provenance()["load_average"],
    }


def name_of(description: Mapping[str, Any]) -> str:
    """Return a short name of a machine, such as `xeon-16-cores-h200`."""
    words = [*_words(description["cpu"])[:1], str(description["num_cores"])]
    words.append("core" if description["num_cores"] == 1 else "cores")
    gpus = description["gpus"]
    if gpus:
        words += [*([str(len(gpus))] if len(gpus) > 1 else []), *_words(gpus[0])[:1]]
    if description["num_nodes"] > 1:
        words += [str(description["num_nodes"]), "nodes"]
    return "-".join(words)


def in_words(description: Mapping[str, Any]) -> str:
    """Return what is there in one line."""
    gpus = ", ".join(description["gpus"]) or "no GPU"
    return (
        f"{description['num_cores']} cores of an {description['cpu']}"
        f" on {description['num_nodes']} node(s), {description['threads_per_core']} thread(s) a"
        f" core, {description['numa_nodes']} NUMA node(s), {description['memory_gib']} GiB;"
        f" {gpus}; {description['mpi']}; BLAS {description['blas']}; load"
        f" {description['load_average']}"
    )


def _num_job_cores(env: Mapping[str, str]) -> int:
    """Return the processes that a job has places for; the cores of this process outside of one."""
    if "SLURM_NTASKS" in env and "SLURM_JOB_ID" in env:
        return whole_number("SLURM_NTASKS", env)
    return num_cores() * environment.num_nodes(env)


def _caches() -> dict[str, str]:
    """Return the sizes of the caches of the first core by level, such as {"L2": "1024K"}."""
    caches = {}
    for index in sorted((SYSTEM / "cpu" / "cpu0" / "cache").glob("index*")):
        if _read(index / "type") != "Instruction":
            caches[f"L{_read(index / 'level')}"] = _read(index / "size")
    return caches


def _mpi() -> str:
    chosen = installation.find()
    return library_version(chosen.library) if chosen.library else chosen.name


def _blas(text: str) -> str:
    named = re.search(r"BLAS_INFO=(\w+)", text)
    return named[1] if named else "unknown"


def _words(text: str) -> list[str]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    kept = [word for word in words if word not in NOT_NAMES and not word.isdigit()]
    return kept or words[:1] or ["machine"]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
