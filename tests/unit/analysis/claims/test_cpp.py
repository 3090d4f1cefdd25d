"""What is claimed about the program in C++ is computed from its records."""

from pathlib import Path

import pandas as pd
import pytest

from nnpar_lib.analysis.claims import benchmarks, cpp
from nnpar_lib.records import store

RECORDS = Path(__file__).parents[4] / "report" / "results" / "mnist-full"


@pytest.fixture(scope="module")
def frame():
    """Return the committed records."""
    return pd.concat(
        [
            store.frame(store.load(RECORDS / f"07_{name}.jsonl"))
            for name in ("framework", "messages", "threads")
        ]
    )


def test_a_step_needs_no_gradient_of_its_input():
    assert cpp.flops_per_example((3, 5)) == 2 * 2 * 15
    assert cpp.flops_per_example((3, 5, 2)) == 2 * 2 * 15 + 3 * 2 * 10


def test_every_claim_has_its_repeats(frame):
    table = benchmarks.table(frame, cpp.CLAIMS)
    assert len(table) == len(cpp.CLAIMS) and (table["num_repeats"] >= 7).all()


def test_the_share_of_a_product_is_that_of_paper_and_pencil(frame):
    row = frame[
        (frame["strategy"] == "cpp")
        & (frame["num_ranks"] == 1)
        & (frame["threads_per_rank"] == 1)
        & (frame["global_batch_size"] == 1024)
        & (frame["experiment"] == "threads")
    ].iloc[[0]]
    rate = row["samples_per_second"].iloc[0] * (2 * (2 * 784 * 256 + 3 * (256 * 128 + 128 * 10)))
    expected = rate / row["provenance"].iloc[0]["sgemm_flop_per_second"]
    assert cpp.sgemm_share(row, 1024).median == pytest.approx(expected)
