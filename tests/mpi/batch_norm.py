"""Run by mpiexec on 4 ranks: whose statistics normalise a batch, against plain torch in one
process.

The reference cuts each batch as the ranks and their micro-batches do. Rank 0 prints relative
differences by case: of the weights, and of the logits that evaluation finds with the running
statistics.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from mpi4py import MPI
from torch import nn
from torch.nn.functional import cross_entropy

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.mpi import STAGED, MpiCommunicator, world
from nnpar_lib.trainers.data.batches import global_batch_indices, load, normalise
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.tasks.runs import abort_all_on_error
from nnpar_lib.trainers.timeline import Timeline
from tests.gpu_kernels import gpu_kernels

NUM_RANKS = 4
NUM_STEPS = 4
NUM_MICROBATCHES = 3
GPU_ALLREDUCES = ("shared", "mpi")
COMMON = {
    "model": "resnet18",
    "stem": "imagenet",
    "width": 4,
    "dtype": "float64",
    "global_batch_size": 67,
    "lr": 0.05,
    "num_ranks": NUM_RANKS,
    "num_threads": 1,
    "num_steps": NUM_STEPS,
    "optimizer": "sgd",
    "num_microbatches": NUM_MICROBATCHES,
}


def cases() -> dict[str, tuple[RunConfig, int, int, bool]]:
    """Return config, number of copies, micro-batches and whether copies share statistics, by
    name."""
    pipelines = {"strategy": "hybrid", "pipeline_size": 2}
    return {
        "synchronised": (RunConfig(strategy="gradient_averaging", **COMMON), 4, 1, True),
        "synchronised, recomputed": (
            RunConfig(strategy="gradient_averaging", recompute=True, **COMMON),
            4,
            1,
            True,
        ),
        "local": (
            RunConfig(strategy="gradient_averaging", batch_norm="local", **COMMON),
            4,
            1,
            False,
        ),
        "synchronised in sharded": (
            RunConfig(strategy="sharded", allreduce="mpi", **COMMON),
            4,
            1,
            True,
        ),
        "local in sharded": (
            RunConfig(strategy="sharded", batch_norm="local", **COMMON),
            4,
            1,
            False,
        ),
        "local in ddp": (
            RunConfig(strategy="torch_ddp", batch_norm="local", **COMMON),
            4,
            1,
            False,
        ),
        "weights averaged each step": (
            RunConfig(strategy="weight_averaging", average_every=1, **COMMON),
            4,
            1,
            False,
        ),
        "pipeline, recomputed": (
            RunConfig(strategy="pipeline", recompute=True, **COMMON),
            1,
            NUM_MICROBATCHES,
            False,
        ),
        "pipeline, zero bubble": (
            RunConfig(strategy="pipeline", schedule="zero_bubble", **COMMON),
            1,
            NUM_MICROBATCHES,
            False,
        ),
        "pipeline": (RunConfig(strategy="pipeline", **COMMON), 1, NUM_MICROBATCHES, False),
        "torch's pipeline": (
            RunConfig(
                strategy="torch_pipelining",
                **{**COMMON, "global_batch_size": 68, "num_microbatches": 4},
            ),
            1,
            4,
            False,
        ),
        "synchronised pipelines": (RunConfig(**pipelines, **COMMON), 2, NUM_MICROBATCHES, True),
        "synchronised pipelines, zero bubble": (
            RunConfig(schedule="zero_bubble", **pipelines, **COMMON),
            2,
            NUM_MICROBATCHES,
            True,
        ),
        "synchronised pipelines, recomputed": (
            RunConfig(recompute=True, **pipelines, **COMMON),
            2,
            NUM_MICROBATCHES,
            True,
        ),
        "local pipelines": (
            RunConfig(batch_norm="local", **pipelines, **COMMON),
            2,
            NUM_MICROBATCHES,
            False,
        ),
    }


def chunks(
    indices: torch.Tensor, num_copies: int, num_microbatches: int, shared: bool
) -> list[list[torch.Tensor]]:
    """Return for each copy of the model the examples that pass it together, chunk by chunk."""
    cut = []
    for rank in range(num_copies):
        local = indices[part(len(indices), num_copies, rank)]
        cut.append([local[part(len(local), num_microbatches, i)] for i in range(num_microbatches)])
    return [[torch.cat(together) for together in zip(*cut, strict=True)]] if shared else cut


def reference(config: RunConfig, num_copies: int, num_microbatches: int, shared: bool) -> nn.Module:
    """Train a model for each copy in one process; return a model with their mean statistics."""
    copies = [networks.build(config) for _ in range(1 if shared else num_copies)]
    data = load(config.dataset)
    for step in range(NUM_STEPS):
        indices = global_batch_indices(
            len(data.train_labels), config.global_batch_size, config.seed, step
        )
        parts = chunks(indices, num_copies, num_microbatches, shared)
        for copy, local_chunks in zip(copies, parts, strict=True):
            copy.zero_grad()
            for chunk in local_chunks:
                images = normalise(data.train_images[chunk], data, torch.float64)
                (
                    cross_entropy(copy(images), data.train_labels[chunk], reduction="sum")
                    / len(indices)
                ).backward()
        with torch.no_grad():
            for same in zip(*(copy.parameters() for copy in copies), strict=True):
                gradient = torch.stack([parameter.grad for parameter in same]).sum(0)
                for parameter in same:
                    parameter.sub_(config.lr * gradient)
    with torch.no_grad():
        for same in zip(*(copy.buffers() for copy in copies), strict=True):
            same[0].copy_(torch.stack(same).mean(0))
    return copies[0]


@torch.no_grad()
def differences(
    config: RunConfig, ranks: Communicator, expected: nn.Module, *, in_thread: bool = False
) -> dict[str, float]:
    """Train in parallel and return how far weights and logits of the worst rank are from those
    expected."""
    strategy = strategies.build(config, ranks, Timeline())

    def train() -> None:
        with torch.enable_grad():
            for step in range(NUM_STEPS):
                strategy.step(strategy.batches.batch(step), step)

    if in_thread:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(train).result()
    else:
        train()
    strategy.synchronise()
    weights = torch.cat(
        [parameter.detach().reshape(-1) for parameter in strategy.whole_parameters()]
    )
    data = load(config.dataset)
    images = normalise(data.test_images[:50], data, torch.float64)
    with networks.evaluating(expected):
        wanted = expected(images)
    logits = strategy.predict(images)
    strategy.close()
    distances = {
        "weights": relative(weights, nn.utils.parameters_to_vector(expected.parameters())),
        "logits": relative(logits, wanted[: len(logits)]),
    }
    if config.strategy == "torch_ddp":
        del distances["logits"]  # its running statistics are the first rank's
    return {name: max(ranks.allgather_objects(value)) for name, value in distances.items()}


def as_on_a_gpu() -> dict[str, dict[str, float]]:
    """Return the differences of synchronised statistics that travel as those of a shared GPU do.

    Tensors are copied to the host's memory and back, and a backward pass on a GPU runs in a thread
    of its own, which then calls MPI. Through MPI, the kernels are those of a GPU, too.
    """
    staged = MpiCommunicator(MPI.COMM_WORLD, way=STAGED)
    config, *how = cases()["synchronised"]
    expected = reference(config, *how)
    distances = {}
    for allreduce in GPU_ALLREDUCES:
        with gpu_kernels() if allreduce == "mpi" else nullcontext():
            distances[f"{allreduce}, as on a GPU"] = differences(
                config.replace(allreduce=allreduce), staged, expected, in_thread=True
            )
    return distances


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    return float((value - reference).norm() / reference.norm()) if len(reference) else 0.0


def main() -> None:
    ranks = world()
    distances = {}
    place(RunConfig(num_threads=1), ranks)
    for name, (config, *how) in cases().items():
        distances[name] = differences(config, ranks, reference(config, *how))
    distances.update(as_on_a_gpu())
    if ranks.rank == 0:
        print("\nRESULT " + json.dumps(distances))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
