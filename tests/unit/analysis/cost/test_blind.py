"""Predictions of runs that nobody has seen, and the wait for the last rank."""

import dataclasses

import pandas as pd
import pytest

from nnpar_lib.analysis.cost import blind, waiting
from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import (
    BY_INPUT,
    BY_OUTPUT,
    AllreduceRecord,
    MessageRecord,
    PredictionRecord,
    ProfileRecord,
    RunRecord,
)

EARLY = {"host": "a", "started_at": "2026-01-01T00:00:00+00:00"}
LATE = {**EARLY, "started_at": "2026-01-01T00:01:00+00:00"}
COMMON = {"provenance": EARLY, "oversubscribed": False}
MLP = RunConfig(hidden=(16,), num_threads=1, global_batch_size=100)
PARAMETERS = [784 * 16 + 16, 16 * 10 + 10]


def profile(num_ranks, batch_size, seconds_an_example):
    """Return a profile whose passes take one block's seconds an example and nothing fixed."""
    seconds = [seconds_an_example * batch_size] * 2
    return ProfileRecord(
        model="mlp",
        num_ranks=num_ranks,
        batch_size=batch_size,
        forward_seconds=seconds,
        backward_seconds=seconds,
        load_seconds=1e-9,
        update_seconds=1e-9,
        clear_seconds=1e-9,
        num_parameters=PARAMETERS,
        num_output_elements=[16, 10],
        num_layer_elements=[16, 10],
        splits=[BY_OUTPUT, BY_INPUT],
        config=MLP.to_dict(),
        **COMMON,
    )


def run(config, label, train_seconds=1.0, wait_seconds=0.0):
    return RunRecord(
        strategy=config.strategy,
        model="mlp",
        dataset="digits",
        num_ranks=config.num_ranks,
        threads_per_rank=1,
        global_batch_size=config.global_batch_size,
        optimizer="momentum",
        num_steps=10,
        num_examples=1000,
        train_seconds=train_seconds,
        samples_per_second=1.0,
        compute_seconds=1.0,
        communicate_seconds=0.0,
        wait_seconds=wait_seconds,
        activity_seconds={},
        final_train_loss=None,
        final_test_accuracy=None,
        diverged=False,
        weights_sha256="",
        num_parameters=1,
        bound=True,
        config=config.to_dict(),
        label=label,
        experiment="weak-mlp",
        **{**COMMON, "provenance": LATE},
    )


@pytest.fixture
def records():
    """On one core an example takes 4 microseconds, on all four 8; messages cost next to nothing."""
    profiles = [
        profile(count, size, seconds)
        for count, seconds in ((1, 1e-6), (4, 2e-6))
        for size in (10, 100)
    ]
    sizes = (1_000, 1_000_000)
    messages = [MessageRecord(num_bytes=size, seconds=[1e-12 * size], **COMMON) for size in sizes]
    allreduces = [
        AllreduceRecord(
            allreduce="shared",
            num_ranks=count,
            num_elements=size,
            dtype="float32",
            seconds=[1e-12 * size],
            **COMMON,
        )
        for count in (2, 4)
        for size in sizes
    ]
    return [*profiles, *messages, *allreduces]


def averaging(num_ranks):
    size = 100 * num_ranks
    return MLP.replace(strategy="gradient_averaging", num_ranks=num_ranks, global_batch_size=size)


@pytest.mark.parametrize(("num_ranks", "expected"), [(1, 400), (2, 400 * 4 / 3), (4, 800)])
def test_a_block_costs_more_the_more_cores_are_busy(records, num_ranks, expected):
    config = MLP if num_ranks == 1 else averaging(num_ranks)
    prediction = blind.predict(config, blind.Costs(records))
    assert prediction.basis == blind.MODEL and prediction.waiting_seconds == 0
    assert 1e6 * prediction.seconds == pytest.approx(expected, rel=0.01)


def test_ranks_wait_for_the_last_of_them_as_two_ranks_showed(records):
    late = run(averaging(2), blind.TWO_RANKS, wait_seconds=0.1)  # a tenth of its computing
    before = blind.predict(averaging(4), blind.Costs(records))
    after = blind.predict(averaging(4), blind.Costs([*records, late]))
    expected = 800e-6 * 0.2 * (1 / 2 + 1 / 3 + 1 / 4)
    assert after.waiting_seconds == pytest.approx(expected, rel=0.01)
    assert after.seconds == pytest.approx(before.seconds + after.waiting_seconds)


def test_what_has_no_costs_has_no_prediction(records):
    costs = blind.Costs(records)
    assert blind.predict(averaging(3), costs).seconds is None  # no all-reduce of three was timed
    assert blind.predict(MLP.replace(hidden=(32,)), costs).seconds is None
    assert blind.predict(MLP.replace(strategy="cpp"), costs).basis == blind.NO_MODEL
    assert blind.predict(MLP, blind.Costs([])).seconds is None


def test_an_error_says_whether_the_prediction_came_first():
    config = averaging(2)
    prediction = PredictionRecord(
        predicted_seconds=0.15,
        waiting_seconds=0.05,
        basis=blind.MODEL,
        config=config.to_dict(),
        provenance=EARLY,
        experiment="weak-mlp",
        label="2 ranks, shared",
    )
    late = dataclasses.replace(prediction, provenance={**LATE, "started_at": "2027-01-01"})
    measured = [run(config, "2 ranks, shared", seconds) for seconds in (1.0, 1.0, 3.0)]
    for written, is_blind in ((prediction, True), (late, False)):
        (row,) = blind.errors([written, *measured]).to_dict("records")
        assert (row["is_blind"], row["num_repeats"]) == (is_blind, 3)
        assert row["error"] == pytest.approx(0.5)
        assert row["error_without_waiting"] == pytest.approx(0.0)


def test_the_wait_of_ranks_is_that_of_the_last_of_exponential_delays():
    assert waiting.waiting_seconds(2.0, 1) == 0
    assert waiting.waiting_seconds(2.0, 2) == pytest.approx(1.0)
    assert waiting.waiting_seconds(2.0, 4) == pytest.approx(2 * (1 / 2 + 1 / 3 + 1 / 4))


def test_more_ranks_are_extrapolated_from_one_and_two():
    def step(num_ranks, train, communicate, wait):
        strategy = "serial" if num_ranks == 1 else "gradient_averaging"
        return {
            "machine": "m",
            "model": "mlp",
            "experiment": "weak-mlp",
            "strategy": strategy,
            "allreduce": "shared",
            "num_ranks": num_ranks,
            "threads_per_rank": 1,
            "num_steps": 1000,
            "train_seconds": train,
            "communicate_seconds": communicate,
            "wait_seconds": wait,
        }

    frame = pd.DataFrame([step(1, 2.0, 0, 0), step(2, 2.6, 0.2, 0.4), step(4, 4.0, 0.3, 1.5)])
    (row,) = waiting.extrapolated(frame).to_dict("records")
    assert row["predicted_ms"] == pytest.approx(2.3)
    assert row["waiting_ms"] == pytest.approx(0.8 * (1 / 2 + 1 / 3 + 1 / 4))
    assert row["error"] == pytest.approx(2.3 / 4 - 1)
