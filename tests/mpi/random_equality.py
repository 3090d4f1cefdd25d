"""Random configs against serial training: `make equality` draws them until it is stopped.

Run by mpiexec on 4 ranks, it draws configs from everything that is offered on a CPU and must end
where serial training ends. Rank 0 draws and tells the others. With `--num-cases` it prints one JSON
object, of each config and how far from serial training it ends; without, a line a config, until it
is stopped or a run ends elsewhere. Started alone, it starts mpiexec.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import hypothesis
from hypothesis import Phase
from hypothesis import strategies as st

from nnpar_lib.config import RunConfig
from nnpar_lib.config.environment import launched_rank
from nnpar_lib.config.network import MODELS
from nnpar_lib.config.sections import OPTIONS
from nnpar_lib.config.spread import PIPELINES
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES
from nnpar_lib.launch.environment import mpi_environment, mpiexec_command, private_files
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.tasks.equality import difference_from_serial
from nnpar_lib.trainers.tasks.runs import abort_all_on_error

MAX_RANKS = 4
BATCH_CASES = 40  # drawn together
TOLERANCE = 1e-9  # of float64: optimizers that divide by small gradients amplify rounding
MIN_STATISTICS = 12  # examples that batch normalisation gets, where a run is compared
LOADER_TOLERANCE = 1e-4  # its images are in float32, those of serial training in float64
DIFFERENCES = ("first_update", "worst_parameter", "weights", "loss", "accuracy")

# strategies that promise what serial training gives; the others are algorithms of their own
STRATEGIES = (
    "gradient_averaging",
    "sharded",
    "weight_averaging",  # where it averages after each step of sgd
    "torch_ddp",
    "torch_fsdp",
    "pipeline",
    "tensor",
    "hybrid",
    "torch_pipelining",
)
# options with one value here: it is another question, or needs a GPU, or changes no number
FIXED = {
    "num_epochs": 2,  # the steps that are compared go from one to the next
    "num_threads": 1,
    "dtype": "float64",
    "average_every": 1,
    "width": 4,
}
DEFAULTS = (
    *("dataset", "num_steps", "evaluate_every", "shard_data", "device", "binding", "precision"),
    *("tune", "checkpoint", "checkpoint_every", "stall_seconds"),
    *("memory_budget_mib", "num_traced_steps", "num_warmup_steps", "lr", "batch_norm"),
)
NUMBERS = {
    "hidden": st.lists(st.integers(4, 24), max_size=7),
    "channels": st.lists(st.integers(4, 6), min_size=1, max_size=3),
    "kernel_size": st.integers(1, 4),
    "seed": st.integers(0, 2**63 - 1),
    "global_batch_size": st.integers(4, 130),
    "momentum": st.sampled_from([0.0, 0.5, 0.9]),
    "num_ranks": st.integers(2, MAX_RANKS),
    "bucket_kib": st.integers(1, 8),
    "ranks_per_node": st.integers(0, MAX_RANKS),
    "prefetch": st.booleans(),
    "num_microbatches": st.integers(1, 6),
    "num_chunks": st.integers(1, 3),
    "pipeline_size": st.integers(0, MAX_RANKS),
    "balance": st.one_of(
        st.sampled_from(["layers", "measured"]),
        st.sets(st.integers(1, 8), min_size=1, max_size=5).map(sorted),
    ),
    "microbatch_size": st.integers(0, 40),
    "ddp_tuned": st.booleans(),
    "record": st.booleans(),
    "recompute": st.booleans(),
}
CHOICES = {
    name: st.sampled_from([choice for choice in option.choices if choice != "nccl"])
    for name, option in OPTIONS.items()
    if option.choices and name not in (*FIXED, *DEFAULTS)
}
COMBINATIONS = [
    (strategy, model)
    for strategy, model in itertools.product(STRATEGIES, MODELS)
    if (strategy, model) != ("weight_averaging", "resnet18")
]


@st.composite
def configs(draw: st.DrawFn, strategy: str, model: str) -> RunConfig:
    """Return a strategy for configs; options that a run does not read keep their defaults."""
    values = {name: draw(choices) for name, choices in {**CHOICES, **NUMBERS}.items()}
    values |= {"strategy": strategy, "model": model, **FIXED}
    values |= {"lr": 0.001 if values["optimizer"] in ("adam", "adagrad") else 0.02}
    if values["model"] == "resnet18":
        values |= {"hidden": None, "lr": values["lr"] / 10}
    if values["model"] != "mlp":
        values |= {"record": False}  # a CPU records the mlp
    for name, option in OPTIONS.items():
        idle = any(values.get(key) not in read for key, read in option.read_by.items())
        if idle and name in values:
            del values[name]
    try:
        config = RunConfig(**values)
    except ValueError:
        hypothesis.reject()
    hypothesis.assume(_is_equal_to_serial(config))
    return config


def _is_equal_to_serial(config: RunConfig) -> bool:
    """Return whether a run promises what serial training gives.

    Averaged weights are the serial ones where each rank's update is linear in its gradient. Batch
    normalisation takes its statistics over the examples that pass together.
    """
    if config.strategy == "weight_averaging":
        return config.optimizer == "sgd"
    if config.model != "resnet18":
        return True
    is_whole = config.strategy not in PIPELINES or config.pipeline.num_microbatches == 1
    return is_whole and not config.microbatch_size and not _amplifies_rounding(config)


def _amplifies_rounding(config: RunConfig) -> bool:
    """Return whether statistics are taken of so few examples that training is chaotic."""
    num_left = NUM_TRAINING_EXAMPLES[config.dataset] % config.global_batch_size
    smallest = num_left or config.global_batch_size
    return smallest < MIN_STATISTICS or config.data_loading == "loader"


def drawn(seed: int, num_cases: int) -> list[RunConfig]:
    """Return configs that follow from a seed alone: strategies and models take turns."""
    return [_drawn(seed * BATCH_CASES + number) for number in range(num_cases)]


def _drawn(number: int) -> RunConfig:
    strategy, model = COMBINATIONS[number % len(COMBINATIONS)]
    for attempt in itertools.count():
        # of each state the second: the first that hypothesis draws is the simplest there is
        _, *cases = _draw(strategy, model, f"{number} {attempt}") or (None,)
        if cases:
            return cases[0]
    raise AssertionError


def _draw(strategy: str, model: str, state: str) -> list[RunConfig]:
    """Return up to two configs that hypothesis draws from a random state."""
    cases: list[RunConfig] = []

    @hypothesis.seed(state)
    @hypothesis.settings(
        max_examples=2,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(configs(strategy, model))
    def collect(config: RunConfig) -> None:
        cases.append(config)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
        collect()
    return cases


def shown(config: RunConfig) -> str:
    """Return the arguments of a config that are not its defaults, as Python takes them."""
    defaults = RunConfig()
    given = {name: getattr(config, name) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value != getattr(defaults, name)}
    return f"RunConfig({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def excess(config: RunConfig, differences: dict[str, float]) -> float:
    """Return the largest difference from serial training, in units of what rounding may do.

    It is infinite where copies of the weights differ.
    """
    if differences["num_distinct"] != 1:
        return math.inf
    tolerance = LOADER_TOLERANCE if config.data_loading == "loader" else TOLERANCE
    return max(differences[name] for name in DIFFERENCES) / tolerance


def compared(configs: list[RunConfig]) -> Iterator[tuple[RunConfig, dict[str, float]]]:
    """Yield each config with what it differs by (collective); an error comes after its config."""
    for config in configs:
        if world().rank == 0:
            print(shown(config), file=sys.stderr, flush=True)
        yield config, difference_from_serial(config.to_dict())


def run_cases(num_cases: int) -> None:
    """Compare a fixed number of configs, always the same."""
    ranks = world()
    cases = ranks.broadcast_object(drawn(0, num_cases) if ranks.rank == 0 else None)
    excesses = {}
    for config, differences in compared(cases):
        if ranks.rank == 0:
            excesses[shown(config)] = excess(config, differences)
    if ranks.rank == 0:
        print("\nRESULT " + json.dumps(excesses))


def read(output: str) -> dict[str, float]:
    """Return for each config, as `shown` shows it, its excess, from what rank 0 printed."""
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    excesses: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return excesses


def run_until_stopped(first_seed: int) -> int:
    """Compare ever new configs; return 1 as soon as one ends elsewhere than serial training."""
    ranks = world()
    largest = 0.0
    for seed in itertools.count(first_seed):
        cases = ranks.broadcast_object(drawn(seed, BATCH_CASES) if ranks.rank == 0 else None)
        for number, (config, differences) in enumerate(compared(cases)):
            value = excess(config, differences) if ranks.rank == 0 else None
            value = ranks.broadcast_object(value)
            largest = max(largest, value)
            if ranks.rank == 0:
                text = f"  seed {seed}, case {number}: {value:.1e} of what is allowed, at most"
                print(f"{text} {largest:.1e}", file=sys.stderr, flush=True)
            if not value < 1:
                return 1
    return 0


def launch() -> int:
    """Start this module on all ranks; return the status of mpiexec."""
    command = [*mpiexec_command(), "-n", str(MAX_RANKS), sys.executable, *sys.orig_argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, **mpi_environment(), **private_files(folder)}
        return subprocess.run(command, env=variables, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-cases", type=int, help="compare so many, always the same ones")
    parser.add_argument("--first-seed", type=int, help="draw from this seed on (default: the time)")
    arguments = parser.parse_args()
    if launched_rank() is None:
        return launch()
    if arguments.num_cases is not None:
        run_cases(arguments.num_cases)
        return 0
    seed = world().broadcast_object(int(time.time()))
    return run_until_stopped(seed if arguments.first_seed is None else arguments.first_seed)


if __name__ == "__main__":
    with abort_all_on_error():
        status = main()
    sys.exit(status)
