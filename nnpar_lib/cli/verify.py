"""`verify`: the steps of a run, spread as its options say and serially, compared by parameter."""

from __future__ import annotations

import argparse
from typing import Any

from nnpar_lib.cli.options import add_config_options, config_from
from nnpar_lib.config import RunConfig
from nnpar_lib.config.environment import launched_rank, launched_size
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES
from nnpar_lib.launch import preflight, tasks
from nnpar_lib.verify import BOUNDS

HEADER = ("parameter", "numbers", "largest difference", "relative", "first update")
LARGEST_FACTOR = 4  # how much larger a batch may become, to leave ranks without examples


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run that say what is trained and how it is spread."""
    parser.epilog = (
        "Exit status 0: all is equal within the bound, 1e-12 in float64 and 1e-5 in float32,"
        " relative to the 2-norm of each parameter; 1: it is not."
    )
    add_config_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print a table for each batch size, and return the exit status."""
    size = launched_size()
    config = config_from(arguments, default_num_ranks=size or 1)
    _check(config, size)
    if launched_rank() is not None or config.num_ranks == 1:
        return _compare_here(config)
    from nnpar_lib.launch.engines import engines

    with engines(config.num_ranks) as ranks:
        outcomes = [
            ranks.call(tasks.TASKS["compare_parameters"], each.to_dict())[0]
            for each in cases(config).values()
        ]
    return _tell(config, outcomes)


def cases(config: RunConfig) -> dict[str, RunConfig]:
    """Return the run as it is, and one whose last batch leaves ranks without an example.

    The second has a slightly larger batch that is divided unevenly; there is none where no batch of
    at most four times the size does that.
    """
    num_examples = NUM_TRAINING_EXAMPLES[config.dataset]
    given = config.replace(num_epochs=max(2, config.num_epochs), num_steps=None)
    runs = {f"batches of {config.global_batch_size}": given}
    first = max(config.global_batch_size, config.num_ranks)
    for batch in range(first, min(LARGEST_FACTOR * first, num_examples)):
        if 0 < num_examples % batch < config.num_ranks and batch % config.num_ranks:
            name = f"batches of {batch}, the last one of {num_examples % batch}: uneven, empty"
            return {**runs, name: given.replace(global_batch_size=batch)}
    return runs


def _check(config: RunConfig, size: int | None) -> None:
    if config.is_native:
        raise ValueError(
            f"strategy {config.strategy!r} starts ranks of its own; tests/cpp compares it, and"
            " `verify` takes every other strategy"
        )
    if size is not None and config.num_ranks > size:
        raise ValueError(
            f"num_ranks={config.num_ranks}, but {size} ranks were launched; leave --num-ranks out,"
            " or launch as many"
        )
    for each in cases(config).values():
        preflight.check(each)


def _compare_here(config: RunConfig) -> int:
    """Compare on the ranks that were launched, or in this process alone."""
    compare = tasks.load("compare_parameters")
    with tasks.load("abort_all_on_error")():
        outcomes = [compare(each.to_dict()) for each in cases(config).values()]
        outcomes = tasks.load("world")().broadcast_object(outcomes)
    return _tell(config, outcomes)


def _tell(config: RunConfig, outcomes: list[dict[str, Any]]) -> int:
    """Print the tables on the first rank; return the exit status, the same on all."""
    bound = BOUNDS[config.dtype]
    are_equal = [_is_equal(outcome, bound) for outcome in outcomes]
    if launched_rank() in (None, 0):
        for name, outcome in zip(cases(config), outcomes, strict=True):
            print(f"{name}\n{_table(outcome, bound)}\n")
        verdict = "equal to serial training" if all(are_equal) else "NOT equal to serial training"
        print(
            f"{verdict}: {config.strategy}, {config.num_ranks} ranks, {config.dtype}; the bound is"
            f" {bound:g} of each parameter's 2-norm",
            flush=True,
        )
    return int(not all(are_equal))


def _is_equal(outcome: dict[str, Any], bound: float) -> bool:
    differences = [row["relative"] for row in outcome["rows"]] + [outcome["loss"]]
    return all(value <= bound for value in differences) and int(outcome["num_distinct"]) == 1


def _table(outcome: dict[str, Any], bound: float) -> str:
    """Return the differences as text, a line a parameter; those above the bound are marked."""
    width = max(len(row["parameter"]) for row in outcome["rows"]) + 2
    lines = [f"{HEADER[0]:<{width}}" + "".join(f"{name:>20}" for name in HEADER[1:])]
    for row in outcome["rows"]:
        lines.append(
            f"{row['parameter']:<{width}}{row['num_elements']:>20,}{row['absolute']:>20.1e}"
            f"{row['relative']:>20.1e}{row['first_update']:>20.1e}"
            + ("  differs" if not row["relative"] <= bound else "")
        )
    lines.append(f"{'mean loss':<{width}}{1:>20}{'':>20}{outcome['loss']:>20.1e}")
    if outcome["num_distinct"] > 1:
        lines.append(f"the ranks hold {outcome['num_distinct']} different copies of the weights")
    return "\n".join(lines)
