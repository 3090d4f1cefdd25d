"""The memory that a run needs at least, from its config alone, and what this machine has left.

Formulas count what a rank surely holds: weights, gradients, the optimizer's state and what a
backward pass reads. A run that is refused could not have been done; one that is not may still need
more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import psutil

from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import IMAGE_SIZE
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES, OPTIMIZER_VALUES
from nnpar_lib.records.provenance import num_cores

NUM_CLASSES = 10
RANK_BYTES = 60 * 2**20  # of a Python process that has loaded torch, beside what ranks share
MESSAGE_BYTES = 17 * 2**20  # of Open MPI's memory for messages between the ranks of a node
MAX_THREADS = 1024  # of a rank: libraries of threads crash above some thousands
MAX_NATIVE_PARAMETERS = 2**28  # as in cpp/src/parameters.cpp
VALUE_BYTES = {"float32": 4, "float64": 8}
CGROUPS = Path("/sys/fs/cgroup")
NATIVE_EVALUATION_EXAMPLES = 256  # as kMinExamples in cpp/src/training.cpp


def check(config: RunConfig, num_nodes: int = 1) -> None:
    """Raise a ValueError of one line where this machine cannot hold its part of the run."""
    if config.num_threads > MAX_THREADS:
        raise ValueError(
            f"num_threads={config.num_threads} is more than a rank can start; take at most"
            f" {MAX_THREADS}, or 0 for as many as there are cores"
        )
    if config.is_native and num_parameters(config) > MAX_NATIVE_PARAMETERS:
        raise ValueError(
            f"hidden={config.hidden_widths} makes a network of {num_parameters(config):,}"
            f" parameters, and strategy {config.strategy!r} takes at most"
            f" {MAX_NATIVE_PARAMETERS:,}; take narrower layers"
        )
    num_ranks = math.ceil(config.num_ranks / num_nodes)
    needed = num_ranks * rank_bytes(config)
    available = available_bytes()
    if needed > available:
        raise ValueError(
            f"the run needs at least {needed:,} bytes of memory for {num_ranks}"
            f" rank{'s' * (num_ranks > 1)} on this"
            f" machine, which has {available:,} left; take a smaller network or batch, or fewer"
            " ranks or threads"
        )


def rank_bytes(config: RunConfig) -> int:
    """Return the bytes of memory that each rank of a config needs at least."""
    if config.is_native:
        return _native_values(config) * VALUE_BYTES["float32"]
    if config.device != "cpu":
        return RANK_BYTES
    num_values = _state_values(config)
    num_parts = config.num_stage_ranks if config.strategy != "tensor" else config.num_ranks
    num_local = config.global_batch_size // config.num_data_ranks
    microbatch = min(num_local, config.microbatch_size or num_local)
    if config.num_stage_ranks > 1:
        microbatch = num_local // config.pipeline.num_microbatches
    num_values += microbatch * sum(map(math.prod, _outputs(config)))
    return RANK_BYTES + num_values * VALUE_BYTES[config.dtype] // num_parts


def _state_values(config: RunConfig) -> int:
    """Return the numbers of weights, gradients and optimizer state on a rank, of a whole model."""
    num_values = num_parameters(config)
    optimizer_values = num_values * OPTIMIZER_VALUES[config.optimizer]
    if config.strategy == "sharded":
        divided = [num_values // config.num_owners(part) for part in ("weights", "gradients")]
        return sum(divided) + optimizer_values // config.num_owners("optimizer")
    num_owners = config.num_ranks if config.allreduce == "shared" else 1  # each updates a part
    return 2 * num_values + optimizer_values // num_owners


def shared_bytes(config: RunConfig) -> int:
    """Return the room that the files and the shared memory of a run in C++ need on one machine."""
    num_bytes = VALUE_BYTES["float32"] * num_parameters(config)
    files = 2 * num_bytes + _order_bytes(config) + 2**20
    if config.num_ranks == 1:
        return files
    windows = config.num_ranks * MESSAGE_BYTES
    if config.allreduce == "shared":
        num_threads = native_threads(config) if config.strategy == "cpp" else 1
        windows += num_bytes * (config.num_ranks * num_threads + 1)
    return files + windows


def native_threads(config: RunConfig) -> int:
    """Return the threads of each rank of the program in C++."""
    return config.num_threads or max(1, num_cores() // config.num_ranks)


def num_parameters(config: RunConfig) -> int:
    """Return how many numbers the training of a config's network changes."""
    return sum(_parameters_of_layers(config))


def available_bytes() -> int:
    """Return the memory that new processes can take: of the machine, or of their control group."""
    return min([psutil.virtual_memory().available, *_left_in_groups()])


def _native_values(config: RunConfig) -> int:
    """Return the 32-bit numbers of a rank in C++; cpp/src/memory.cpp counts the same."""
    num_threads = native_threads(config)
    num_local = math.ceil(config.global_batch_size / config.num_ranks)
    num_examples = max(math.ceil(num_local / num_threads), NATIVE_EVALUATION_EXAMPLES)
    width = IMAGE_SIZE**2 + 2 * (sum(config.hidden_widths) + NUM_CLASSES)
    num_values = num_parameters(config) * (num_threads + 3) + num_threads * num_examples * width
    return num_values + _order_bytes(config) // VALUE_BYTES["float32"] + 2 * config.total_steps


def _order_bytes(config: RunConfig) -> int:
    num_epochs = math.ceil(config.total_steps / config.num_steps_per_epoch)
    return 4 * num_epochs * NUM_TRAINING_EXAMPLES[config.dataset]


def _parameters_of_layers(config: RunConfig) -> Iterator[int]:
    """Yield the parameters of each layer, or pair of a convolution and its normalisation."""
    if config.model == "resnet18":
        yield from _parameters_of_resnet(config)
        return
    num_features = IMAGE_SIZE**2
    if config.model == "cnn":
        for num_in, num_out in itertools.pairwise((1, *config.channels)):
            yield (num_in * config.kernel_size**2 + 1) * num_out
        num_features = config.channels[-1] * _pooled_size(config) ** 2
    widths = (num_features, *config.hidden_widths, NUM_CLASSES)
    yield from ((num_in + 1) * num_out for num_in, num_out in itertools.pairwise(widths))


def _parameters_of_resnet(config: RunConfig) -> Iterator[int]:
    """Each convolution has no bias, and a scale and a shift a channel behind it."""
    size = 7 if config.stem == "imagenet" else 3
    yield (size**2 + 2) * config.width
    num_in = config.width
    for stage in range(4):
        num_out = config.width * 2**stage
        yield (9 * num_in + 2) * num_out + 3 * (9 * num_out + 2) * num_out
        if stage > 0:
            yield (num_in + 2) * num_out  # the shortcut
        num_in = num_out
    yield (num_in + 1) * NUM_CLASSES


def _pooled_size(config: RunConfig) -> int:
    return (IMAGE_SIZE - len(config.channels) * (config.kernel_size - 1)) // 2


def _outputs(config: RunConfig) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of outputs of an example that a backward pass reads."""
    if config.model == "resnet18":
        size = 7 if config.stem == "imagenet" else IMAGE_SIZE
        for stage in range(4):
            yield from 4 * [(config.width * 2**stage, size, size)]
            size = math.ceil(size / 2)
        return
    if config.model == "cnn":
        for index, num_channels in enumerate(config.channels, start=1):
            size = IMAGE_SIZE - index * (config.kernel_size - 1)
            yield num_channels, size, size
    for width in config.hidden_widths:
        yield (width,)


def _left_in_groups() -> Iterator[int]:
    """Yield what is left in each control group that this process is in, of version 1 and 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = CGROUPS
            limit = "memory.max"
            usage = "memory.current"
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            limit = "memory.limit_in_bytes"
            usage = "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (left := _left(folder, limit, usage)) is not None:
                yield left


def _left(folder: Path, limit: str, usage: str) -> int | None:
    """Return what a group may still allocate; files that it can drop from its cache count."""
    try:
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
        cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
        largest = int((folder / limit).read_text())
        return max(0, largest - int((folder / usage).read_text()) + cached)
    except (OSError, ValueError):  # no such group, or "max", which is no limit
        return None
