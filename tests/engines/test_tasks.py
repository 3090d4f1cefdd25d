"""The tasks that ranks can be given: configs go in, records and plain results come out."""

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.records import store

SERIAL = RunConfig(
    hidden=(16,), num_steps=3, global_batch_size=16, num_warmup_steps=0, num_threads=1
)
PARALLEL = SERIAL.replace(strategy="gradient_averaging", num_ranks=2)
TOO_MANY = PARALLEL.replace(num_ranks=3)


def test_ranks_describe_themselves(shared_engines):
    ranks = shared_engines.describe_ranks()
    assert [rank["rank"] for rank in ranks] == [0, 1]
    assert {rank["sum_of_ranks"] for rank in ranks} == {1}


def test_prices_of_messages_and_sums_are_records_in_the_file(shared_engines, tmp_path):
    file = tmp_path / "prices.jsonl"
    messages = shared_engines.sweep_messages([1_000], num_repeats=2, results_file=file)
    sums = shared_engines.sweep_allreduces(
        ["shared", "mpi", "ring"], [100], num_repeats=2, results_file=file
    )
    assert min(messages[0].exchange_seconds + messages[0].add_seconds) > 0
    assert [(record.kind, record.num_bytes) for record in messages] == [("message", 1_000)]
    assert [(record.allreduce, record.num_ranks) for record in sums] == [
        ("shared", 2),
        ("mpi", 2),
        ("ring", 2),
    ]
    assert store.load(file) == [*messages, *sums]


def test_blocks_are_profiled_alone_and_at_once(shared_engines):
    records = shared_engines.profile_blocks([SERIAL], [[8, 16]], num_repeats=1)
    assert [(record.num_ranks, record.batch_size) for record in records] == [
        (1, 8),
        (2, 8),
        (1, 16),
        (2, 16),
    ]
    assert len(shared_engines.summarize_blocks(SERIAL)) == SERIAL.num_blocks
    assert 0 < shared_engines.seconds_per_event() < 0.1


def test_the_blocks_of_a_network_with_batch_normalisation_are_profiled(shared_engines):
    config = SERIAL.replace(model="resnet18", width=4, hidden=None, batch_norm="local")
    (alone, both) = shared_engines.profile_blocks([config], [[4]], num_repeats=1)
    assert len(alone.forward_seconds) == len(both.splits) == config.num_blocks
    assert alone.num_layer_elements[-1] == 10


def test_barriers_are_timed_and_records_carry_the_origin_of_the_ranks(shared_engines, tmp_path):
    file = tmp_path / "barriers.jsonl"
    shared_engines.origin = {"survey": {"slice": 3}}
    try:
        (record,) = shared_engines.sweep_barriers([2], num_repeats=2, results_file=file)
    finally:
        shared_engines.origin = {}
    assert (record.kind, record.num_ranks, len(record.seconds)) == ("barrier", 2, 2)
    assert 0 < min(record.seconds) < 0.1
    assert record.provenance["survey"] == {"slice": 3} and "host" in record.provenance
    assert store.load(file) == [record]


def test_a_parallel_run_is_compared_with_a_serial_one(shared_engines):
    exact = PARALLEL.replace(dtype="float64")
    difference = shared_engines.difference_from_serial(exact)
    assert difference["weights"] < 1e-12 < difference["moved"]
    (record,) = shared_engines.compare_with_serial([exact], experiment="same")
    assert record.differences["weights"] < 1e-12
    assert (record.kind, record.experiment) == ("comparison", "same")


def test_runs_to_goals_and_gradient_norms_come_back_as_values(shared_engines):
    outcome = shared_engines.run_to_goals(PARALLEL, [0.95, 0.0], [5, 5])
    assert outcome["num_steps"] <= 5 and outcome["steps"][1] is None
    alone = shared_engines.run_trial(SERIAL, [0.0], [4])
    assert [outcome["num_steps"] for outcome in alone] == [4, 4]
    norms = shared_engines.gradient_norms(PARALLEL, [0, 2])
    assert [row["step"] for row in norms] == [0, 2]
    assert norms[0]["big_batch_size"] == 2 * norms[0]["small_batch_size"] == 16


def test_runs_are_labelled_by_a_list_whose_labels_may_repeat(shared_engines):
    records = shared_engines.run_interleaved(
        [SERIAL, PARALLEL, SERIAL], num_repeats=1, labels=["one", "two", "one"]
    )
    assert [record.label for record in records] == ["one", "two", "one"]


def test_lists_that_do_not_belong_together_are_refused_before_anything_runs(shared_engines):
    with pytest.raises(ValueError, match="1 labels for 2 configs; give as many"):
        shared_engines.run_interleaved([SERIAL, PARALLEL], labels=["one"])
    with pytest.raises(ValueError, match="2 lists of batch sizes for 1 configs"):
        shared_engines.profile_blocks([SERIAL], [[8], [16]])


@pytest.mark.parametrize(
    "ask",
    [
        lambda ranks: ranks.run(TOO_MANY),
        lambda ranks: ranks.difference_from_serial(TOO_MANY),
        lambda ranks: ranks.compare_with_serial([TOO_MANY]),
        lambda ranks: ranks.gradient_norms(TOO_MANY, [0]),
        lambda ranks: ranks.run_to_goals(TOO_MANY, [0.5], [5]),
        lambda ranks: ranks.sweep_allreduces(["mpi"], [10], num_ranks=3),
    ],
)
def test_more_ranks_than_run_are_refused_before_they_are_asked(shared_engines, ask):
    with pytest.raises(ValueError, match="num_ranks=3 is more than the 2 engines"):
        ask(shared_engines)
