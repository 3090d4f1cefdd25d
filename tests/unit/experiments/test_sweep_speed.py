"""How fast a sweep is: what is measured, its records, and the ratios made of them."""

import pytest

from nnpar_lib.config.study import StudyConfig
from nnpar_lib.experiments import sweep_speed
from nnpar_lib.records import store
from tests.conftest import ROOT

COMMITTED = ROOT / "report" / "results" / "regimes" / "sweep-speed.jsonl"
TINY = StudyConfig(
    dataset="digits",
    goal_errors=(0.5,),
    batch_sizes=(64,),
    num_trials=2,
    num_finalists=1,
    num_finalist_seeds=1,
    num_seeds=2,
    max_steps=30,
)


def test_the_committed_measurements_are_records_with_the_numbers_of_old():
    records = store.load(COMMITTED)
    assert {record.kind for record in records} == {"sweep_speed", "trial_step"}
    assert all(record.provenance["commit"].startswith("a32901e") for record in records)
    rates, costs = sweep_speed.ratios(store.frame(records))
    assert rates["ratio"].tolist() == pytest.approx([1.830861, 1.818244, 1.866126], rel=1e-6)
    assert costs["ratio", "median"].tolist() == pytest.approx([0.969003, 1.015821, 1.050302], 1e-6)


def test_a_sweep_and_a_step_leave_records_that_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_speed, "STEP_BATCH_SIZES", (512,))
    records = [
        *(sweep_speed.sweep(TINY, num_ranks, repeat=0) for num_ranks in (1, 2)),
        *sweep_speed.steps("digits", repeat=0),
    ]
    file = tmp_path / "sweep-speed.jsonl"
    store.append(file, records)
    assert store.load(file) == records
    alone, together, step = records
    assert alone.num_runs == together.num_runs >= 5
    assert 0 < alone.engine_seconds < alone.seconds
    assert alone.study["batch_sizes"] == together.study["batch_sizes"]
    assert step.config["global_batch_size"] == step.batch_size == 512
    assert step.bare_seconds > 0 and step.trial_seconds < step.with_checks_seconds
    rates, costs = sweep_speed.ratios(store.frame(records))
    assert rates["ratio"].iloc[0] == pytest.approx(alone.seconds / together.seconds)
    assert costs.index.tolist() == [512]
