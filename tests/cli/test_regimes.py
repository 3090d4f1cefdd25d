"""`python -m nnpar_lib regimes`: a whole study, killed and begun again, and mistakes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import optuna
import pytest

from tests.conftest import ROOT, run_python

STUDY = (
    "--dataset",
    "digits",
    "--goal-errors",
    "0.5,0.35,0.001",
    "--batch-sizes",
    "64,128",
    "--num-trials",
    "4",
    "--num-finalists",
    "2",
    "--num-finalist-seeds",
    "2",
    "--num-seeds",
    "3",
    "--max-steps",
    "40",
)


def command(folder, name, *more):
    return (
        "-m",
        "nnpar_lib",
        "regimes",
        *STUDY,
        "--storage",
        folder / f"{name}.db",
        "--out",
        folder / f"{name}.json",
        *more,
    )


def num_stored(path):
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return connection.execute("select count(*) from trials").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


def what_is_found(path):
    """Return a study's file without what differs from run to run: times and provenance."""
    study = json.loads(path.read_text())
    study.pop("provenance")
    for row in study["runs"]:
        row.pop("train_seconds")
    return study


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    process = run_python(*command(folder, "whole", "--num-ranks", 1))
    assert process.returncode == 0, process.stderr
    return folder, process.stdout


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Kill a study with -9 when it has stored some runs, and start it again; return its folder and
    what it had."""
    folder = tmp_path_factory.mktemp("killed")
    with subprocess.Popen(
        [sys.executable, *map(str, command(folder, "killed"))],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 100
        while num_stored(folder / "killed.db") < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    num_before = num_stored(folder / "killed.db")
    again = run_python(*command(folder, "killed"))
    assert again.returncode == 0, again.stderr
    return folder, num_before


def test_a_study_that_was_killed_ends_with_the_table_of_an_undisturbed_one(undisturbed, killed):
    folder, num_before = killed
    assert 5 <= num_before < num_stored(folder / "killed.db")
    assert what_is_found(folder / "killed.json") == what_is_found(undisturbed[0] / "whole.json")
    assert num_stored(folder / "killed.db") == num_stored(
        undisturbed[0] / "whole.db"
    )  # nothing lost or done twice


def test_each_goal_has_a_row_a_batch_size_and_what_was_not_reached_is_said_to_be_so(undisturbed):
    folder, printed = undisturbed
    goals = json.loads((folder / "whole.json").read_text())["goals"]
    assert [goal["goal_error"] for goal in goals] == [0.5, 0.35, 0.001]
    for goal in goals:
        assert [row["batch_size"] for row in goal["rows"]] == [64, 128]
        expected = "not reached" if goal["goal_error"] == 0.001 else "reached"
        assert {row["status"] for row in goal["rows"]} == {expected}
        assert {fit["status"] for fit in goal["fits"]} == {
            "undetermined"
        }  # two batch sizes tell nothing
    assert goals[0]["rows"][0]["num_runs"] == 3 and goals[0]["rows"][0]["best_of_n"] > 0
    assert "not reached" in printed and "undetermined" in printed


def test_a_study_that_is_done_starts_nothing(undisturbed):
    folder, printed = undisturbed
    start = time.monotonic()
    process = run_python(*command(folder, "whole"), NNPAR_DATA=str(folder), PATH="/nowhere")
    assert process.returncode == 0 and process.stdout == printed
    assert "runs" not in process.stderr and time.monotonic() - start < 60


def test_the_storage_of_another_study_is_refused(undisturbed):
    folder, _ = undisturbed
    process = run_python(*command(folder, "whole", "--num-trials", 5))
    refused(process, "belongs to another study", "whole.db")


def test_a_file_that_is_no_storage_is_refused(tmp_path):
    (tmp_path / "text.db").write_text(
        "no database at all, and long enough to be taken for one" * 100
    )
    refused(
        run_python(*command(tmp_path, "text")),
        "text.db",
        "a storage of a study would be written there",
    )


def test_an_optuna_study_of_something_else_is_refused(tmp_path):
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'other.db'}", study_name="cooking")
    refused(run_python(*command(tmp_path, "other")), "'cooking'", "another file")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--batch-sizes", "16384"), ("16384", "11000")),
        (("--batch-sizes", ""), ("empty", "4:8192")),
        (("--batch-sizes", "8:4"), ("8", "4", "4:8192")),
        (("--goal-errors", "five"), ("five", "0.1")),
        (("--goal-errors", "0.05,0.1"), ("do not fall",)),
        (("--goal-erors", "0.1"), ("--goal-erors", "--goal-errors")),
        (("--optimizer", "sdg"), ("sdg", "sgd")),
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_remedy(tmp_path, options, words):
    refused(run_python(*command(tmp_path, "wrong", *options)), *words)
    assert not (tmp_path / "wrong.db").exists()


def refused(process, *words):
    assert process.returncode == 2, process.stderr
    assert process.stderr.strip().count("\n") == 0, process.stderr
    assert all(word in process.stderr for word in words), process.stderr
