"""The numbers of the abstract, the terms and the peers, from small tables and committed records."""

import math
from pathlib import Path

import pandas as pd
import pytest

from nnpar_lib.analysis.claims import abstract, peers, terms
from nnpar_lib.records import store

BENCH = Path(__file__).parents[4] / "report" / "results" / "bench.jsonl"


def doublings(verdicts, quantity="steps", num_ranks=0):
    """Return rows of `time_to_goal.doublings` with these verdicts from a batch of 2 on."""
    sizes = [2 ** (k + 1) for k in range(len(verdicts))]
    columns = {"quantity": quantity, "num_ranks": num_ranks}
    return pd.DataFrame({"batch_size": sizes, "verdict": verdicts}).assign(**columns)


def test_doublings_are_counted_with_their_ends():
    steps = ["halves", "halves", "undetermined", "no gain", "no gain"]
    table = pd.concat(
        [
            doublings(steps),
            doublings(["halves", *["no gain"] * 4], "seconds", 1),
            doublings(["undetermined"] * 5, "seconds", 4),
        ]
    )
    numbers = abstract.doublings(table)
    assert numbers["abstract-ranks"] == 4
    assert (numbers["abstract-halved-steps"], numbers["abstract-halved-to-steps"]) == (2, 8)
    assert (numbers["abstract-no-gain-steps"], numbers["abstract-no-gain-from-steps"]) == (2, 16)
    assert numbers["abstract-halved-seconds-one"] == 1
    assert numbers["abstract-halved-seconds-all"] == 0
    assert math.isnan(numbers["abstract-halved-to-seconds-all"])


def way(strategy, speedup, size=64, *, num_ranks=2, oversubscribed=False):
    """Return a row of `ways.side_by_side`."""
    return {
        "num_parameters": 10,
        "global_batch_size": size,
        "strategy": strategy,
        "allreduce": "shared",
        "num_ranks": num_ranks,
        "oversubscribed": oversubscribed,
        "speedup": speedup,
    }


def test_a_kind_of_parallelism_has_the_range_of_its_best_ways():
    rows = [way("serial", 1.0, num_ranks=1), way("gradient_averaging", 1.2)]
    rows += [way("pipeline", 0.5), way("pipeline", 0.7), way("tensor", 1.1)]
    rows += [way("gradient_averaging", 0.9, 16), way("pipeline", 0.4, 16), way("tensor", 0.8, 16)]
    rows += [{**way("gradient_averaging", 3.0), "allreduce": "mpi"}]
    rows += [way("pipeline", 9.0, num_ranks=4, oversubscribed=True)]
    numbers = abstract.ranks_of_ways(pd.DataFrame(rows))
    assert numbers["abstract-problems"] == 2
    assert (numbers["abstract-data-low"], numbers["abstract-data-high"]) == (0.9, 1.2)
    assert (numbers["abstract-pipeline-low"], numbers["abstract-pipeline-high"]) == (0.4, 0.7)
    assert [numbers[f"abstract-{name}-ahead"] for name in abstract.WAYS] == [1, 0, 1]


def against_ranks(gains):
    """Return runs on one thread, on two and on two ranks, with the ranks' rates by batch."""
    return pd.DataFrame(
        [
            {
                "global_batch_size": size,
                "strategy": strategy,
                "threads_per_rank": threads,
                "repeat": repeat,
                "samples_per_second": rate,
            }
            for size, ranks in gains.items()
            for repeat in range(4)
            for strategy, threads, rate in (
                ("serial", 1, 50.0),
                ("serial", 2, 100.0),
                ("gradient_averaging", 1, ranks),
            )
        ]
    )


@pytest.mark.parametrize(
    ("gains", "pays_from"),
    [
        ({64: 80.0, 256: 110.0, 1024: 120.0}, 256),
        ({64: 110.0, 256: 90.0, 1024: 120.0}, 1024),
        ({64: 110.0, 256: 120.0}, 64),
        ({64: 110.0, 256: 90.0}, math.nan),
    ],
)
def test_ranks_pay_from_the_batch_on_which_they_always_gain(gains, pays_from):
    numbers = abstract.small_batches(against_ranks(gains))
    assert numbers["abstract-pays-from"] == pytest.approx(pays_from, nan_ok=True)
    assert numbers["abstract-smallest-gain"] == pytest.approx(gains[64] / 100)


def test_accuracy_of_another_algorithm_is_counted_apart():
    labels = ["serial, one thread", "tensor, 2 ranks", "weight averaging, 2 ranks"]
    table = pd.DataFrame({"label": labels, "accuracy_lost": [0.0, -0.002, 0.03]})
    numbers = abstract.accuracy_lost(table)
    assert numbers["abstract-lost-exact"] == pytest.approx(0.2)
    assert numbers["abstract-lost-averaging"] == pytest.approx(3.0)


def test_without_a_larger_machine_nothing_is_said_of_it():
    empty = pd.DataFrame(columns=["machine", "experiment", "model"]).astype(str)
    assert abstract.many_cores(empty) == {} and abstract.gpus(empty) == {}


def test_terms_have_the_thresholds_of_the_analysis():
    definitions = terms.table().set_index("term")["definition"]
    assert "below 0.57" in definitions["halves"] and "than 0.87" in definitions["no gain"]


def test_peers_are_those_of_the_benchmarks():
    runs = store.frame(store.load(BENCH))
    table = peers.table(runs)
    assert len(table) and not table["claim"].str.contains("MPI_Allreduce").any()
    numbers = peers.numbers(runs)
    assert numbers["peers-ddp-low"] <= numbers["peers-ddp-high"]
    assert peers.numbers(pd.DataFrame())["peers-sentence"] == peers.NOT_MEASURED
