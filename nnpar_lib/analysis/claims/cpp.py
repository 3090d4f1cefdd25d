"""What notebook 07 claims about the program in C++, computed from its records, each ratio beside
its goal."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd

from nnpar_lib.analysis.claims.benchmarks import Claim
from nnpar_lib.analysis.scaling.ratio import Ratio
from nnpar_lib.analysis.scaling.speedups import paired_ratio

NUM_PIXELS, NUM_CLASSES = 784, 10
HIDDEN_WIDTHS = (256, 128)


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
        _way("serial", batch_size),
        _way("cpp", batch_size),
        goal,
    )


CLAIMS = (
    _against_torch(8, 2.0),
    _against_torch(32, 1.5),
    Claim(
        "parallel efficiency of 2 ranks in C++, local batch 64",
        "messages",
        _way("cpp", 64),
        _way("cpp", 128, num_ranks=2),
        0.95,
        divide_by=2,
    ),
    Claim(
        "samples/s of 2 threads over one in C++, batch 1024",
        "threads",
        _way("cpp", 1024),
        _way("cpp", 1024, num_threads=2),
        1.7,
    ),
)


def flops_per_example(widths: tuple[int, ...] = (NUM_PIXELS, *HIDDEN_WIDTHS, NUM_CLASSES)) -> int:
    """Return the multiplications and additions of the matrix products that a training step needs
    for an example.

    Two products a layer forward and for its weights' gradient, and a third one for its input's,
    which the first layer does not need.
    """
    products = [2 * num_in * num_out for num_in, num_out in pairwise(widths)]
    return 3 * sum(products) - products[0]


def sgemm_share(frame: pd.DataFrame, batch_size: int) -> Ratio:
    """Return a step's rate of multiplications and additions over that of its largest product, in
    the same process.

    Looks at serial runs of one thread; none that measured the product is a ValueError.
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
