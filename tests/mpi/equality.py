"""Run by mpiexec: train the same few steps serially and in parallel on these ranks, print how far
apart they end.

Rank 0 prints one JSON object: for each case what `difference_from_serial` finds.
"""

from __future__ import annotations

import itertools
import json

import torch

from nnpar_lib.config import RunConfig, rules
from nnpar_lib.config.spread import OF_MESSAGES, SHARDS
from nnpar_lib.config.training import OPTIMIZERS
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.step import build, cuda_graph
from nnpar_lib.trainers.tasks.equality import difference_from_serial
from nnpar_lib.trainers.tasks.runs import abort_all_on_error
from tests.conftest import DEVICE, selected
from tests.tape import TapeRecorder

SMALL = {
    "mlp": {"hidden": (32, 16)},
    "cnn": {"channels": (3, 5), "hidden": (16,)},
    "resnet18": {"width": 4},
}
RESNET = (
    ("gradient_averaging", "mpi", "im2col"),
    ("gradient_averaging", "overlapped", "torch"),
    ("torch_ddp", "shared", "im2col"),
)
SHARDED_BY = ("mpi", "shared") if DEVICE == "cpu" else ("mpi",)
BACKEND = {"cpu": "gloo", "cuda": "nccl"}[DEVICE]
RECOMPUTED = (
    ("cnn", {"allreduce": "shared", "global_batch_size": 71}),
    ("resnet18", {"allreduce": "overlapped"}),  # statistics are exchanged again
)
SHARDED = {
    # a block of 2 parameters, so that parts are empty; with this seed its units stay alive
    "mlp-momentum-float64": {"hidden": (16, 1, 1), "seed": 16},
    "cnn-adam-float32": {"global_batch_size": 71},  # a last batch of 1
}
RECORDED = (
    ("shared", "momentum", {}),
    ("mpi", "adam", {"allreduce": "mpi"}),
    (BACKEND, "nesterov", {"allreduce": BACKEND}),
)
EACH_KIND = (
    "gradient_averaging-shared-mlp-momentum-float64",
    "gradient_averaging-mpi-mlp-momentum-float64",
    "gradient_averaging-overlapped-mlp-momentum-float64",
    "torch_ddp-mlp-float64",
    "operations-shared-momentum-float64",
    "weight_averaging-each-step-mlp-float64",
    "nearly-empty-batch-mlp-float64",
    *(f"sharded-{shard}-mpi-mlp-momentum-float64" for shard in SHARDS),
    "sharded-weights-shared-mlp-momentum-float64",
    f"{BACKEND}-cnn-float64",
)  # what is repeated under every MPI
UNEVEN = 67  # leaves a last batch of 7: uneven parts on 2, 3 and 4 ranks
NEARLY_EMPTY = 71  # leaves a last batch of 1: ranks without any example


def cases(num_ranks: int) -> dict[str, RunConfig]:
    """Return the parallel runs, by name, that must end where a serial run does."""
    configs = {}
    for model, optimizer, dtype, allreduce in itertools.product(
        ("mlp", "cnn"), OPTIMIZERS, ("float32", "float64"), ("shared", "mpi", "overlapped")
    ):
        configs[f"gradient_averaging-{allreduce}-{model}-{optimizer}-{dtype}"] = _config(
            num_ranks,
            "gradient_averaging",
            model,
            optimizer,
            dtype,
            allreduce=allreduce,
            bucket_kib=4,
        )
    for model, dtype in itertools.product(("mlp", "cnn"), ("float32", "float64")):
        configs[f"torch_ddp-{model}-{dtype}"] = _config(
            num_ranks, "torch_ddp", model, "momentum", dtype
        )
        configs[f"torch_ddp-tuned-{model}-{dtype}"] = _config(
            num_ranks, "torch_ddp", model, "momentum", dtype, ddp_tuned=True
        )
        configs[f"weight_averaging-each-step-{model}-{dtype}"] = _config(
            num_ranks, "weight_averaging", model, "sgd", dtype, average_every=1
        )
        configs[f"nearly-empty-batch-{model}-{dtype}"] = _config(
            num_ranks,
            "gradient_averaging",
            model,
            "momentum",
            dtype,
            global_batch_size=NEARLY_EMPTY,
        )
    for strategy, allreduce, convolution in RESNET:
        configs[f"{strategy}-{allreduce}-resnet18-{convolution}-float64"] = _config(
            num_ranks,
            strategy,
            "resnet18",
            "momentum",
            "float64",
            allreduce=allreduce,
            convolution=convolution,
        )
    configs["nearly-empty-batch-resnet18-float64"] = _config(
        num_ranks,
        "gradient_averaging",
        "resnet18",
        "momentum",
        "float64",
        global_batch_size=NEARLY_EMPTY,
        stem="small",
        convolution="im2col",
    ).replace(lr=0.005)  # statistics of a single example amplify rounding more
    for model, dtype in (("mlp", "float32"), ("cnn", "float64")):
        configs[f"{BACKEND}-{model}-{dtype}"] = _config(
            num_ranks, "gradient_averaging", model, "momentum", dtype, allreduce=BACKEND
        )
    for model, how in RECOMPUTED:
        configs[f"recomputed-{model}-float64"] = _config(
            num_ranks, "gradient_averaging", model, "momentum", "float64", **how, recompute=True
        )
    for name, optimizer, how in RECORDED:  # a rate that falls would lie on the device in float32
        configs[f"recorded-{name}-{optimizer}-float64"] = _config(
            num_ranks,
            "gradient_averaging",
            "mlp",
            optimizer,
            "float64",
            **how,
            record=True,
            lr_schedule="constant",
        )
    for optimizer in OPTIMIZERS if DEVICE == "cpu" else ():
        for allreduce, microbatch_size in (("shared", 0), ("mpi", 13)):
            configs[f"operations-{allreduce}-{optimizer}-float64"] = _config(
                num_ranks,
                "gradient_averaging",
                "mlp",
                optimizer,
                "float64",
                allreduce=allreduce,
                microbatch_size=microbatch_size,
                global_batch_size=NEARLY_EMPTY,
                record=True,
                lr_schedule="constant",
            )
    if num_ranks == 2:
        configs["torch_ddp-tuned-resnet18-float64"] = _config(
            num_ranks, "torch_ddp", "resnet18", "momentum", "float64", ddp_tuned=True
        )
        configs[f"{BACKEND}-resnet18-float64"] = _config(
            num_ranks, "gradient_averaging", "resnet18", "momentum", "float64", allreduce=BACKEND
        )
    for allreduce, dtype in itertools.product(OF_MESSAGES, ("float32", "float64")):
        configs[f"{allreduce}-mlp-{dtype}"] = _config(
            num_ranks,
            "gradient_averaging",
            "mlp",
            "momentum",
            dtype,
            allreduce=allreduce,
            ranks_per_node=2,
            global_batch_size=NEARLY_EMPTY,
        )
    configs["weight_averaging-ring-mlp-float64"] = _config(
        num_ranks, "weight_averaging", "mlp", "sgd", "float64", average_every=1, allreduce="ring"
    )
    configs["loader-mlp-float32"] = _config(
        num_ranks, "gradient_averaging", "mlp", "momentum", "float32", data_loading="loader"
    )
    configs["full-size-mlp-float32"] = RunConfig(
        strategy="gradient_averaging",
        num_ranks=num_ranks,
        num_threads=1,
        lr=0.05,
        global_batch_size=UNEVEN,
        device=DEVICE,
    )
    configs |= _sharded(num_ranks)
    return {
        name: config
        for name, config in selected(configs, EACH_KIND).items()
        if not rules.shared_gpus(config, num_ranks, torch.cuda.device_count())
    }


def _sharded(num_ranks: int) -> dict[str, RunConfig]:
    """Return cases of each stage, each way to exchange and each model, and of torch's FSDP."""
    configs = {"torch_fsdp-cnn-float64": _config(num_ranks, "torch_fsdp", "cnn", "adam", "float64")}
    for shard, allreduce in itertools.product(SHARDS, SHARDED_BY):
        for name, more in SHARDED.items():
            model, optimizer, dtype = name.split("-")
            configs[f"sharded-{shard}-{allreduce}-{name}"] = _config(
                num_ranks,
                "sharded",
                model,
                optimizer,
                dtype,
                shard=shard,
                allreduce=allreduce,
                **more,
            )
    config = configs["sharded-weights-mpi-mlp-momentum-float64"]
    configs["sharded-weights-mpi-at-once-mlp-momentum-float64"] = config.replace(prefetch=False)
    config = configs["sharded-weights-mpi-cnn-adam-float32"]
    configs["sharded-weights-mpi-again-cnn-adam-float32"] = config.replace(recompute=True)
    configs["sharded-weights-mpi-resnet18-momentum-float64"] = _config(
        num_ranks,
        "sharded",
        "resnet18",
        "momentum",
        "float64",
        allreduce="mpi",
        memory_format="channels_last",
    )
    return configs


def _config(
    num_ranks: int, strategy: str, model: str, optimizer: str, dtype: str, **more
) -> RunConfig:
    # small enough that training itself does not amplify rounding; what is compared is one
    # computation with another
    lr = 0.001 if optimizer in ("adam", "adagrad") else 0.02 if model == "resnet18" else 0.1
    parameters = {
        "global_batch_size": UNEVEN,
        "num_epochs": 2,
        "lr_schedule": "linear",
        **SMALL[model],
        **more,
    }
    return RunConfig(
        strategy=strategy,
        model=model,
        optimizer=optimizer,
        dtype=dtype,
        num_ranks=num_ranks,
        lr=lr,
        num_threads=1,
        device=DEVICE,
        **parameters,
    )


def main() -> None:
    ranks = world()
    if DEVICE == "cpu":
        cuda_graph.CudaRecorder = TapeRecorder
    differences = {}
    for name, config in cases(ranks.size).items():
        if DEVICE == "cpu":
            build.in_graphs = lambda _, name=name: name.startswith("recorded-")
        differences[name] = difference_from_serial(config.to_dict())
    if ranks.rank == 0:
        print("\nRESULT " + json.dumps(differences))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
