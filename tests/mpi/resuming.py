"""Run by mpiexec on 4 ranks: runs that are broken off and resumed, and one that goes from strategy
to strategy.

Rank 0 prints one JSON object: `broken_off` has for each case what became of an undisturbed run and
of one that was broken off and resumed; `changed`, for each optimizer, how far a run that changes
its strategy and number of ranks again and again ends from a serial one.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.records import checkpoint_file
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop import agreement
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.tasks.runs import abort_all_on_error

SMALL = {
    "hidden": (32, 16, 12),
    "num_threads": 1,
    "global_batch_size": 401,
    "num_steps": 40,
    "num_epochs": 2,
    "num_warmup_steps": 1,
    "lr": 0.01,
    "lr_schedule": "linear",
}
CNN = {"model": "cnn", "channels": (3, 5), "hidden": (16,)}
RESNET = {
    "model": "resnet18",
    "stem": "imagenet",
    "width": 4,
    "global_batch_size": 60,
    "hidden": None,
}
BROKEN_OFF = {
    "serial": {"optimizer": "adam"},
    "tutorial": {"strategy": "tutorial", "global_batch_size": 65},
    "shared": {"strategy": "gradient_averaging", "num_ranks": 3, "optimizer": "adam"},
    "mpi": {
        "strategy": "gradient_averaging",
        "num_ranks": 4,
        "allreduce": "mpi",
        "optimizer": "adagrad",
    },
    "overlapped": {
        "strategy": "gradient_averaging",
        "num_ranks": 2,
        "allreduce": "overlapped",
        "optimizer": "nesterov",
    },
    "sharded-optimizer": {
        "strategy": "sharded",
        "num_ranks": 2,
        "shard": "optimizer",
        "allreduce": "mpi",
        "optimizer": "adagrad",
    },
    "sharded-gradients": {"strategy": "sharded", "num_ranks": 2, "shard": "gradients"},
    "sharded-weights": {
        "strategy": "sharded",
        "num_ranks": 3,
        "allreduce": "mpi",
        "optimizer": "adam",
    },
    "averages": {"strategy": "weight_averaging", "num_ranks": 3, "average_every": 8},
    "averages-adam": {
        "strategy": "weight_averaging",
        "num_ranks": 4,
        "average_every": 8,
        "optimizer": "adam",
    },
    "root": {"strategy": "root_worker", "num_ranks": 3},
    "idle-root": {"strategy": "root_worker", "num_ranks": 3, "shard_data": False},
    "pipeline": {"strategy": "pipeline", "num_ranks": 4, "optimizer": "adam"},
    "interleaved": {"strategy": "pipeline", "num_ranks": 2, "schedule": "interleaved"},
    "zero-bubble": {
        "strategy": "hybrid",
        "num_ranks": 4,
        "pipeline_size": 2,
        "schedule": "zero_bubble",
    },
    "tensor": {"strategy": "tensor", "num_ranks": 3},
    "tensor-cnn": {"strategy": "tensor", "num_ranks": 3, **CNN},
    "hybrid-cnn": {"strategy": "hybrid", "num_ranks": 4, "pipeline_size": 2, **CNN},
    "resnet": {
        "strategy": "gradient_averaging",
        "num_ranks": 2,
        **RESNET,
        "batch_norm": "local",
        "memory_format": "channels_last",
    },
    "resnet-sharded": {
        "strategy": "sharded",
        "num_ranks": 2,
        **RESNET,
        "batch_norm": "local",
        "memory_format": "channels_last",
    },
    "resnet-tensor": {"strategy": "tensor", "num_ranks": 2, **RESNET},
    "ddp": {"strategy": "torch_ddp", "num_ranks": 2, "optimizer": "adam"},
    "ddp-tuned": {"strategy": "torch_ddp", "num_ranks": 2, "ddp_tuned": True},
    "fsdp": {"strategy": "torch_fsdp", "num_ranks": 2, "optimizer": "adam"},
    "torch-pipelining": {"strategy": "torch_pipelining", "num_ranks": 2, "global_batch_size": 400},
}
CHANGES = (  # a leg each, three steps long
    {"strategy": "pipeline", "num_ranks": 4},
    {"strategy": "gradient_averaging", "num_ranks": 2},
    {"strategy": "pipeline", "num_ranks": 2, "schedule": "zero_bubble"},
    {"strategy": "tensor", "num_ranks": 3},
    {"strategy": "sharded", "num_ranks": 3, "shard": "weights"},
    {"strategy": "sharded", "num_ranks": 2, "shard": "gradients", "allreduce": "mpi"},
    {"strategy": "hybrid", "num_ranks": 4, "pipeline_size": 2},
    {"strategy": "torch_ddp", "num_ranks": 2},
    {"strategy": "torch_fsdp", "num_ranks": 3},
    {"strategy": "serial"},
)


class BrokenOff(Exception):
    pass


def break_off(fraction, text):
    if 0.4 < fraction < 1:
        raise BrokenOff


def run(config, report=lambda fraction, text: None):
    """Train on the first ranks; return the record, None on the others."""
    group = world().first_ranks(config.num_ranks)
    record = None if group is None else train(config, group, report=report)
    world().idle_barrier()
    return record


def broken_off(path, parameters):
    config = RunConfig(**{**SMALL, **parameters})
    undisturbed = run(config)
    config = config.replace(checkpoint=str(path), checkpoint_every=0.0)
    try:
        run(config, break_off)
    except BrokenOff:
        world().idle_barrier()
    resumed = run(config)
    if world().rank == 0:
        records = (undisturbed, resumed)
        losses = [[entry["train_loss"] for entry in record.history] for record in records]
        return {
            "digests": [undisturbed.weights_sha256, resumed.weights_sha256],
            "resumed_at": resumed.resumed_at,
            "seconds": [
                [record.train_seconds, record.history[-1]["train_seconds"]] for record in records
            ],
            "num_examples": [undisturbed.num_examples, resumed.num_examples],
            "losses": losses,
        }
    return None


def changed(folder, optimizer):
    """Return the relative difference of the weights to those of a serial run."""
    common = {**SMALL, "dtype": "float64", "optimizer": optimizer}
    common["lr_schedule"] = "constant"
    for leg, parameters in enumerate(CHANGES, start=1):
        kept = {"num_steps": 3 * leg, "checkpoint": str(folder / "changed")}
        run(RunConfig(**{**common, **parameters, **kept}))
    kept = {"num_steps": 3 * len(CHANGES), "checkpoint": str(folder / "serial")}
    run(RunConfig(**{**common, **kept}))
    if world().rank > 0:
        return None
    tensors = checkpoint_file.read_tensors(folder / "changed")
    expected = checkpoint_file.read_tensors(folder / "serial")
    assert sorted(tensors) == sorted(expected)
    differences = dict.fromkeys((name.split(".")[0] for name in tensors), 0.0)
    for name, tensor in tensors.items():
        difference = float((tensor - expected[name]).norm() / expected[name].norm())
        kind = name.split(".")[0]
        differences[kind] = max(differences[kind], difference)
    return differences


def main():
    agreement.SECONDS_BETWEEN = 0.0  # a checkpoint after every step
    ranks = world()
    with tempfile.TemporaryDirectory() as local_folder:
        folder = Path(ranks.broadcast_object(local_folder))
        outcomes = {"broken_off": {}, "changed": {}}
        for name, parameters in BROKEN_OFF.items():
            outcomes["broken_off"][name] = broken_off(folder / name, parameters)
        for optimizer in ("momentum", "adam", "adagrad"):
            (folder / optimizer).mkdir(exist_ok=True)
            outcomes["changed"][optimizer] = changed(folder / optimizer, optimizer)
        ranks.idle_barrier()
    if ranks.rank == 0:
        print("\nRESULT " + json.dumps(outcomes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with abort_all_on_error():
        main()
