"""`python -m nnpar_lib survey`: killed with -9 in the middle and called again, in small."""

import os
import signal
import subprocess
import sys
import time

from nnpar_lib.experiments.survey.survey import FILE
from nnpar_lib.records import store
from nnpar_lib.records.kinds import MachineRecord, RunRecord
from tests.conftest import ROOT, run_python

MINUTES = 0.25


def command(folder):
    options = ("--minutes", MINUTES, "--run-seconds", 0.02, "--models", "mlp", "--parts", "noise")
    return ["-m", "nnpar_lib", "survey", *map(str, options), "--out", str(folder)]


def runs(folder):
    return [r for r in store.load(folder / FILE) if isinstance(r, RunRecord)]


def kill_after_some_runs(folder, num_runs=5):
    """Begin a survey and kill it with -9 when its file holds some runs; return the file's lines."""
    with subprocess.Popen(
        [sys.executable, *command(folder)], cwd=ROOT, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while len(runs(folder)) < num_runs and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    return (folder / FILE).read_text().splitlines()


def test_a_survey_that_was_killed_goes_on_and_loses_nothing(tmp_path):
    before = kill_after_some_runs(tmp_path)
    again = run_python(*command(tmp_path))
    assert again.returncode == 0, again.stderr
    lines = (tmp_path / FILE).read_text().splitlines()
    assert lines[: len(before)] == before and len(lines) > len(before)
    keys = [(run.experiment, run.label, run.repeat) for run in runs(tmp_path)]
    assert len(keys) == len(set(keys))
    slices = [r.slice for r in store.load(tmp_path / FILE) if isinstance(r, MachineRecord)]
    assert slices == [1, 2]
    origins = [run.provenance["survey"] for run in runs(tmp_path)]
    assert {origin["slice"] for origin in origins} == {1, 2}
    assert all({"machine", "noise"} < origin.keys() for origin in origins)
    assert "the records are in" in again.stdout
