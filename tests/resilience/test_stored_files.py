"""Storages, records and folders that cannot be used are one line each that is true."""

import json
import sqlite3

import pytest

from nnpar_lib.config.study import StudyConfig
from nnpar_lib.datasets import files
from nnpar_lib.experiments import regimes_study
from nnpar_lib.launch.search.plan import Plan
from nnpar_lib.launch.search.store import SearchStore
from nnpar_lib.records import store
from tests.conftest import ROOT, limited_files, run_python

STUDY = StudyConfig(batch_sizes=(16,), num_trials=1)
OUTCOME = {"steps": [5], "diverged": False, "num_steps": 5, "train_seconds": 1.0}


def test_a_question_mark_in_the_name_of_a_storage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has a question mark in its name"):
        SearchStore(tmp_path / "a?b", STUDY)
    assert list(tmp_path.iterdir()) == []


def test_a_locked_storage_is_said_to_be_locked(tmp_path):
    path = tmp_path / "sweep.db"
    connection = sqlite3.connect(path)
    connection.execute("begin exclusive")
    with pytest.raises(ValueError, match=r"sweep.db cannot be used \(database is locked\)"):
        SearchStore(path, STUDY)
    connection.close()


def test_a_full_disk_ends_a_sweep_in_one_line_and_keeps_its_runs(tmp_path):
    path = tmp_path / "sweep.db"
    search = SearchStore(path, STUDY)
    (job, *_) = Plan(STUDY, 16).next_jobs({})
    search.keep(job, OUTCOME)
    with limited_files(0), pytest.raises(ValueError, match=r"sweep.db cannot be written .* 1 runs"):
        search.save()
    assert SearchStore(path, STUDY).done == {16: {}}


def test_tables_without_room_are_one_line_and_the_old_ones_stay(tmp_path):
    path = tmp_path / "mlp.json"
    path.write_text("the tables of yesterday")
    rows = regimes_study.read(ROOT / "report" / "results" / "regimes" / "mlp-sgd.json")
    with limited_files(100), pytest.raises(ValueError, match=r"mlp.json \(File too large\); make"):
        regimes_study.write(path, STUDY, rows)
    assert path.read_text() == "the tables of yesterday"


@pytest.mark.parametrize(
    ("name", "value"), [("config", None), ("config", []), ("config", ["a"]), ("provenance", None)]
)
def test_records_without_a_config_are_refused(tmp_path, name, value):
    path = tmp_path / "runs.jsonl"
    with (ROOT / "report" / "results" / "bench.jsonl").open() as file:
        record = json.loads(file.readline())
    path.write_text(json.dumps({**record, name: value}) + "\n")
    with pytest.raises(ValueError, match=r"runs.jsonl holds something other than records"):
        store.load(path)
    process = run_python("-m", "nnpar_lib", "run", "--num-steps", 1, "--out", path, "--skip-done")
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1 and "runs.jsonl holds something" in process.stderr


def test_a_home_folder_that_is_not_known_is_refused(monkeypatch):
    monkeypatch.setenv("NNPAR_DATA", "~nosuchuser/data")
    with pytest.raises(files.DataError, match="NNPAR_DATA='~nosuchuser/data' names a home folder"):
        files.data_folder()
