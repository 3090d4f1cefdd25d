"""Run by mpiexec: model parallelism against serial training, a case a schedule, model and type;
prints what differs."""

from __future__ import annotations

import itertools
import json

import torch

from nnpar_lib.config import RunConfig, rules
from nnpar_lib.schedules import SCHEDULES, SPLITTING
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.tasks.equality import difference_from_serial
from nnpar_lib.trainers.tasks.runs import abort_all_on_error
from tests.conftest import DEVICE, selected

# 9 blocks each: 2, 4 and 8 stages do not divide them
SMALL = {
    "mlp": {"hidden": (32, 16, 24, 12, 20, 16, 12, 14)},
    "cnn": {"channels": (5, 5, 4), "hidden": (16, 12, 14, 12, 13)},
}
COMMON = {
    "num_threads": 1,
    "num_epochs": 2,
    "lr": 0.02,
    "optimizer": "momentum",
    "global_batch_size": 67,
    "device": DEVICE,
    "num_microbatches": 5,
}  # 67 examples: uneven micro-batches; the last batch of 7 leaves some of one example
RESNET = {
    "pipeline": {},
    "pipeline-interleaved": {"schedule": "interleaved", "convolution": "im2col"},
    "pipeline-zero_bubble": {"schedule": "zero_bubble", "convolution": "im2col"},
    "tensor": {"convolution": "im2col", "memory_format": "channels_last"},
    "hybrid": {"pipeline_size": 1},
}  # in one micro-batch: each normalises with statistics of its own
EACH_KIND = (
    *(f"pipeline-{schedule}-mlp-float64" for schedule in SCHEDULES),
    "tensor-mlp-float64",
    "hybrid-1-mlp-float64",
    "torch_pipelining-1f1b-mlp-float64",
)  # what is repeated under every MPI
CUTS = {1: "layers", 2: "2", 3: "1,7", 4: "3,4,8"}


def offered(num_ranks: int) -> list[str]:
    """Return the schedules of a pipeline of so many ranks."""
    return [name for name in SCHEDULES if num_ranks > 1 or name not in SPLITTING]


def cases(num_ranks: int) -> dict[str, RunConfig]:
    """Return the parallel runs, by name, that must end where a serial run does."""
    configs = {}
    for model, dtype in itertools.product(SMALL, ("float32", "float64")):
        common = {**COMMON, **SMALL[model], "model": model, "dtype": dtype, "num_ranks": num_ranks}
        for schedule in offered(num_ranks):
            configs[f"pipeline-{schedule}-{model}-{dtype}"] = RunConfig(
                strategy="pipeline", schedule=schedule, **common
            )
        configs[f"cuts-{model}-{dtype}"] = RunConfig(
            strategy="pipeline", balance=CUTS[num_ranks], **common
        )
        configs[f"recomputed-{model}-{dtype}"] = RunConfig(
            strategy="pipeline", recompute=True, **common
        )
        configs[f"empty-microbatches-{model}-{dtype}"] = RunConfig(
            strategy="pipeline", **{**common, "global_batch_size": 71}
        )
        configs[f"tensor-{model}-{dtype}"] = RunConfig(strategy="tensor", **common)
        for size in (size for size in (1, 2) if num_ranks % size == 0):
            configs[f"hybrid-{size}-{model}-{dtype}"] = RunConfig(
                strategy="hybrid", pipeline_size=size, **common
            )
        if num_ranks % 2 == 0:
            configs[f"hybrid-zero_bubble-{model}-{dtype}"] = RunConfig(
                strategy="hybrid", pipeline_size=2, schedule="zero_bubble", **common
            )
        even = {**common, "global_batch_size": 60, "num_microbatches": 4}
        for schedule in offered(num_ranks)[1:]:
            configs[f"torch_pipelining-{schedule}-{model}-{dtype}"] = RunConfig(
                strategy="torch_pipelining", schedule=schedule, **{**even, "num_steps": 100}
            )
    for strategy, more in RESNET.items():
        if more.get("schedule", "1f1b") not in offered(num_ranks):
            continue
        configs[f"{strategy}-resnet18-float64"] = RunConfig(
            strategy=strategy.split("-")[0],
            num_ranks=num_ranks,
            model="resnet18",
            stem="imagenet",
            width=4,
            dtype="float64",
            **{**COMMON, "num_microbatches": 1, **more},
        )
    configs["measured-mlp-float64"] = RunConfig(
        strategy="pipeline",
        balance="measured",
        dtype="float64",
        num_ranks=num_ranks,
        **COMMON,
        **SMALL["mlp"],
    )
    return {
        name: config
        for name, config in selected(configs, EACH_KIND).items()
        if not rules.shared_gpus(config, num_ranks, torch.cuda.device_count())
    }


def main() -> None:
    ranks = world()
    differences = {}
    for name, config in cases(ranks.size).items():
        differences[name] = difference_from_serial(config.to_dict())
    if ranks.rank == 0:
        print("\nRESULT " + json.dumps(differences))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
