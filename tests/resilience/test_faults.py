"""Faults that the tests of one part do not reach: stopped engines, a killed papermill, a full disk,
a wrong clock."""

import itertools
import json
import os
import subprocess
import sys
import time
import uuid

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.launch.engines import EnginesLost, engines
from nnpar_lib.records import store
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.loop.training import train
from tests.cluster.test_jobs import write_notebook
from tests.conftest import ROOT
from tests.resilience import kills


def test_engines_that_wait_for_one_that_has_stopped_say_which(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with engines(2) as ranks:
        with pytest.raises(
            EnginesLost, match=r"stalled: rank 0 has waited \d+ s in .*; missing: rank 1 \(does not"
        ):
            ranks.call("tests.resilience.stopping.train_and_stop", 1, 2.0)
        assert kills.marked(ranks.session, "NNPAR_SESSION") == []


def test_a_killed_papermill_leaves_its_records_and_nothing_that_runs(tmp_path):
    mark = uuid.uuid4().hex
    notebook = write_notebook(tmp_path)
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook),
        str(tmp_path / "out.ipynb"),
        "-k",
        "python3",
        "-p",
        "results_folder",
        str(tmp_path),
        "-p",
        "sleep_seconds",
        "1000",
        "-p",
        "num_runs",
        "1",
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), kills.MARK: mark},
    )
    deadline = time.monotonic() + 90
    while not store.load(tmp_path / "job.jsonl"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while kills.marked(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert kills.marked(mark) == []
    assert len(store.load(tmp_path / "job.jsonl")) == 1


def test_a_record_for_which_there_is_no_room_is_printed(tmp_path):
    path = tmp_path / "runs.jsonl"
    command = (  # in KiB: less than a record needs
        f"ulimit -f 1; exec {sys.executable} -m nnpar_lib run --hidden 16 --num-steps 5"
        f" --out {path}"
    )
    process = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert (
        f"could not be written to {path} (File too large) and is printed instead" in process.stderr
    )
    (line,) = (line for line in process.stdout.splitlines() if line.startswith("{"))
    assert json.loads(line)["num_steps"] == 5
    assert path.read_bytes() == b""


def test_a_clock_that_goes_backwards_is_not_what_is_measured_with(tmp_path, monkeypatch):
    now = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(now))
    config = RunConfig(
        num_steps=20,
        hidden=(16,),
        num_threads=1,
        checkpoint=str(tmp_path / "checkpoint"),
        checkpoint_every=0.0,
    )
    record = train(config, SingleCommunicator())
    assert 0 < record.train_seconds < 60 and record.num_steps == 20
    assert min(record.activity_seconds.values()) >= 0
