"""Claims on the program in C++, and the numbers of its chapter."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd

from nnpar_lib.analysis.claims import benchmarks
from nnpar_lib.analysis.claims.benchmarks import Claim
from nnpar_lib.analysis.scaling.ratio import Ratio
from nnpar_lib.analysis.scaling.speedups import paired_ratio

NUM_PIXELS = 784
NUM_CLASSES = 10
HIDDEN_WIDTHS = (256, 128)
SGEMM_BATCH_SIZE = 1024
SGEMM_GOAL = 0.8


def _way(
    strategy: str, batch_size: int, *, num_ranks: int = 1, num_threads: int = 1
) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "global_batch_size": batch_size,
        "num_ranks": num_ranks,
        "threads_per_rank": num_threads,
        "allreduce": "shared",
    }


def _against_torch(batch_size: int, goal: float) -> Claim:
    return Claim(
        f"samples/s against PyTorch on one thread, batch {batch_size}",
        "framework",
        (_way("serial", batch_size),),
        _way("cpp", batch_size),
        goal,
    )


CLAIMS = (
    _against_torch(8, 2.0),
    _against_torch(32, 1.5),
    Claim(
        "parallel efficiency of 2 ranks in C++, local batch 64",
        "messages",
        (_way("cpp", 64),),
        _way("cpp", 128, num_ranks=2),
        0.95,
        divide_by=2,
    ),
    Claim(
        "samples/s of 2 threads over one in C++, batch 1024",
        "threads",
        (_way("cpp", 1024),),
        _way("cpp", 1024, num_threads=2),
        1.7,
    ),
)


def flops_per_example(widths: tuple[int, ...] = (NUM_PIXELS, *HIDDEN_WIDTHS, NUM_CLASSES)) -> int:
    """Return the multiplications and additions of the matrix products of a step, per example.

    Each layer needs one product forward, one for the gradient of its weights, and one for the
    gradient of its input; the first layer does not need the last one.
    """
    products = [2 * num_in * num_out for num_in, num_out in pairwise(widths)]
    return 3 * sum(products) - products[0]


def sgemm_share(frame: pd.DataFrame, batch_size: int) -> Ratio:
    """Return the rate of a step over that of its largest matrix product, in the same process.

    Only serial runs of one thread count. A ValueError if none of them measured the product.
    """
    wanted = (
        (frame["strategy"] == "cpp") & (frame["num_ranks"] == 1) & (frame["threads_per_rank"] == 1)
    )
    runs = frame[wanted & (frame["global_batch_size"] == batch_size)]
    product = runs["provenance"].map(lambda origin: origin.get("sgemm_flop_per_second"))
    rates = pd.concat(
        [
            runs.assign(what="product", rate=product),
            runs.assign(what="step", rate=runs["samples_per_second"] * flops_per_example()),
        ]
    )
    return paired_ratio(rates, {"what": "product"}, {"what": "step"}, "rate")


def framework_numbers(framework: pd.DataFrame) -> dict[str, Any]:
    """Return how far C++ is ahead of PyTorch by batch size, and the overhead in percent."""
    in_cpp = framework[framework["strategy"] == "cpp"]
    numbers: dict[str, Any] = {
        "compiler": in_cpp["provenance"].iloc[0]["compiler"],
        "cpp-repeats": framework["repeat"].nunique(),
    }
    for batch_size in (8, 32, 1024):
        serial = {"strategy": "serial", "global_batch_size": batch_size}
        ratio = paired_ratio(framework, serial, {**serial, "strategy": "cpp"}).median
        numbers[f"cpp-ahead-{batch_size}"] = ratio
        numbers[f"cpp-overhead-{batch_size}"] = 100 * max(0.0, 1 - 1 / ratio)
    return numbers


def efficiencies(messages: pd.DataFrame) -> dict[str, Any]:
    """Return the parallel efficiency of two ranks by program and all-reduce."""
    ways = [("cpp", "cpp", "cpp", kind) for kind in ("shared", "mpi", "overlapped")]
    ways += [("torch", "gradient_averaging", "serial", kind) for kind in ("shared", "mpi")]
    numbers = {}
    for program, strategy, base, kind in ways:
        parallel = {"strategy": strategy, "num_ranks": 2, "allreduce": kind}
        ratio = paired_ratio(messages, {"strategy": base, "num_ranks": 1}, parallel)
        numbers[f"efficiency-{program}-{kind}"] = ratio.median / 2
    return numbers


def accuracies(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the final test accuracy in percent of both programs, and the epochs."""
    final = runs.set_index("strategy")["final_test_accuracy"]
    return {
        "cpp-accuracy": 100 * final["cpp"],
        "torch-accuracy": 100 * final["gradient_averaging"],
        "cpp-epochs": runs["num_epochs"].iloc[0],
    }


def table(framework: pd.DataFrame, messages: pd.DataFrame, threads: pd.DataFrame) -> pd.DataFrame:
    """Return all claims on the program in C++, one row per claim.

    The last one compares a step with its largest matrix product.
    """
    rows = benchmarks.table(pd.concat([framework, messages, threads]), CLAIMS)
    share = sgemm_share(threads, SGEMM_BATCH_SIZE)
    name = f"rate of a step over its largest sgemm, one thread, batch {SGEMM_BATCH_SIZE}"
    rows.loc[len(rows)] = benchmarks.judged(name, share, SGEMM_GOAL)
    return rows
