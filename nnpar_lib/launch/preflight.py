"""What depends on this machine and can be checked before an engine is started: data, GPU, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnpar_lib.config import RunConfig, rules
from nnpar_lib.config.environment import launched_rank
from nnpar_lib.datasets import files as data_files
from nnpar_lib.launch import environment, memory_need
from nnpar_lib.records import checkpoint_file, outputs

MAX_REPEATS = 100_000


def check(config: RunConfig) -> None:
    """Raise a ValueError of one line, with the remedy, where this machine cannot run the config.

    A data set that is missing is downloaded here, once, and not by every rank.
    """
    if config.checkpoint is not None:
        _check_checkpoint(Path(config.checkpoint), config)
    if config.device == "cuda":
        _check_gpu()
        _check_gpus_of_ranks(config)
    elif problem := rules.unrecorded_on_cpu(config):
        raise ValueError(problem)
    memory_need.check(config, environment.num_nodes())
    data_files.ensure(config.dataset)


def check_results_file(results_file: str | Path | None, configs: Sequence[RunConfig]) -> None:
    """Raise a ValueError where records cannot be appended to a file, or where it is a checkpoint's.

    The file is made if it is not there.
    """
    for config in configs:
        outputs.check(
            {
                "results_file": (results_file, outputs.RECORDS),
                "checkpoint": (config.checkpoint, outputs.CHECKPOINT),
            }
        )


def check_repeats(configs: Sequence[RunConfig], num_repeats: int) -> None:
    """Raise a ValueError for no repeats, and for runs that would share a checkpoint."""
    if num_repeats < 1:
        raise ValueError(f"num_repeats={num_repeats} is too small; it must be at least 1")
    if num_repeats > MAX_REPEATS:
        raise ValueError(
            f"num_repeats={num_repeats} is too large; it must be at most {MAX_REPEATS}"
        )
    paths = [config.checkpoint for config in configs if config.checkpoint is not None]
    if paths and (num_repeats > 1 or len(set(paths)) < len(paths)):
        raise ValueError(
            f"checkpoint={paths[0]!r} is for one run: the next would go on where it ended; take "
            "num_repeats=1, and a file for each run"
        )


def _check_checkpoint(path: Path, config: RunConfig) -> None:
    """Refuse a checkpoint that the run cannot continue from, or that another run is using."""
    outputs.check({"checkpoint": (path, outputs.CHECKPOINT)})
    with checkpoint_file.locked(path):
        checkpoint_file.check(path, config)


def _check_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        build = "is built for the CPU only" if torch.version.cuda is None else "finds none"
        raise ValueError(
            f"device='cuda' needs a GPU, but torch {torch.__version__} {build}; use device='cpu',"
            " or a machine with an NVIDIA GPU and a CUDA build of torch"
        )


def _check_gpus_of_ranks(config: RunConfig) -> None:
    """Refuse what needs a GPU for each rank where the ranks of a node would have to share some.

    Ranks that run already know better which GPUs each of them was given;
    `trainers.loop.placement` asks them.
    """
    import torch

    if not rules.needs_own_gpus(config):
        return
    if not torch.distributed.is_nccl_available():
        raise ValueError(
            f"torch {torch.__version__} is built without nccl; use gradient_averaging with "
            "allreduce='mpi'"
        )
    num_ranks = -(-config.num_ranks // environment.num_nodes())
    problem = (
        ""
        if launched_rank() is not None
        else rules.shared_gpus(config, num_ranks, torch.cuda.device_count())
    )
    if problem:
        raise ValueError(problem)
