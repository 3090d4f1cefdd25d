"""What runs to goals on several ranks show, from records whose content is known."""

import pytest

from nnpar_lib.analysis.regimes import parallel_trials
from nnpar_lib.config import RunConfig
from nnpar_lib.records import store
from nnpar_lib.records.kinds import TrialRecord


def record(steps, *, seconds=1.0, experiment="", **changes):
    config = RunConfig(**changes)
    return TrialRecord(
        goal_errors=[0.1, 0.05],
        steps=steps,
        num_steps=steps[-1] or 500,
        train_seconds=seconds,
        diverged=False,
        config=config.to_dict(),
        provenance={},
        experiment=experiment,
        repeat=config.seed,
    )


def on_ranks(num_ranks, seed, steps, **changes):
    strategy = "serial" if num_ranks == 1 else "gradient_averaging"
    return record(steps, strategy=strategy, num_ranks=num_ranks, seed=seed, **changes)


def test_records_come_back_from_their_file(tmp_path):
    store.append(tmp_path / "runs.jsonl", [on_ranks(2, 0, [10, None])])
    rows = parallel_trials.by_goal(store.frame(store.load(tmp_path / "runs.jsonl")))
    assert rows["goal_error"].tolist() == [0.1, 0.05] and rows["steps"].isna().tolist() == [
        False,
        True,
    ]
    assert rows["num_ranks"].tolist() == [2, 2] and rows["batch_size"].tolist() == [128, 128]


def test_counts_are_compared_run_by_run():
    runs = [
        on_ranks(1, 0, [10, 100]),
        on_ranks(2, 0, [10, 100]),
        on_ranks(1, 1, [10, 100]),
        on_ranks(2, 1, [10, 103]),
        on_ranks(1, 0, [7, 70], global_batch_size=256),
        on_ranks(4, 0, [7, 70], global_batch_size=256),
    ]
    table = parallel_trials.equal_counts(store.frame(runs))
    assert table[["batch_size", "num_ranks", "num_pairs", "num_equal"]].to_numpy().tolist() == [
        [128, 2, 4, 3],
        [256, 4, 2, 2],
    ]
    assert table["largest_difference"].tolist() == [pytest.approx(0.03), 0]
    assert table["serial_steps"].tolist() == [100, 70]


def test_seconds_are_those_of_runs_that_reached_the_hardest_goal():
    runs = [
        on_ranks(2, seed, [10, 100], seconds=seconds)
        for seed, seconds in enumerate((1.0, 2.0, 3.0))
    ]
    table = parallel_trials.seconds_to_goal(
        store.frame([*runs, on_ranks(2, 9, [10, None], seconds=50.0)])
    )
    row = table.iloc[0]
    assert (row["seconds"], row["num_runs"]) == (2.0, 3) and 1 <= row["low"] <= 2 <= row[
        "high"
    ] <= 3


def test_local_sgd_is_compared_with_the_shortest_interval():
    runs = [
        record(
            [50, steps],
            strategy="weight_averaging",
            num_ranks=2,
            average_every=interval,
            seed=seed,
            experiment="regimes_local_sgd",
        )
        for interval, steps in ((1, 100), (10, 120))
        for seed in range(3)
    ]
    runs.append(
        record(
            [1, 1],
            strategy="weight_averaging",
            num_ranks=2,
            average_every=10,
            experiment="regimes_local_sgd_selection",
        )
    )  # chooses a learning rate, and no more
    table = parallel_trials.local_sgd(store.frame(runs))
    assert table["samples"].tolist() == [12_800, 15_360] and table["exchanges"].tolist() == [
        100,
        12,
    ]
    assert table["samples_ratio"].tolist() == [1, pytest.approx(1.2)]
    assert table["exchanges_ratio"].tolist() == [1, pytest.approx(0.12)]
