"""Waiting for a quiet machine: no longer than asked, and not without a word."""

import subprocess
import sys
from contextlib import ExitStack

import pytest

from nnpar_lib.experiments import quietness
from nnpar_lib.records.provenance import num_cores


@pytest.fixture
def busy_machine():
    """Keep all cores busy with other processes."""
    with ExitStack() as stack:
        command = [sys.executable, "-c", "print('on', flush=True)\nwhile True: pass"]
        processes = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            for _ in range(num_cores())
        ]
        stack.callback(lambda: [process.kill() for process in processes])
        for process in processes:
            process.stdout.readline()
        yield


def test_a_busy_machine_is_waited_for_and_called_disturbed(busy_machine, capsys):
    load = quietness.wait_until_quiet(max_seconds=1.5)
    assert load["disturbed"] and load["busy_cores"] > quietness.BUSY * num_cores()
    assert 1.5 <= load["waited_seconds"] < 30
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and "waiting up to 2 s" in printed[0]
    assert printed[1].endswith("measuring all the same")


def test_a_machine_that_becomes_quiet_is_not_waited_for_any_longer(monkeypatch, capsys):
    readings = iter([2.0, 1.0, 0.0])
    monkeypatch.setattr(quietness, "busy_cores", lambda: next(readings))
    load = quietness.wait_until_quiet()
    assert (load["busy_cores"], load["disturbed"]) == (0.0, False)
    assert capsys.readouterr().out.count("\n") == 1 and next(readings, None) is None


def test_a_quiet_machine_is_not_waited_for(monkeypatch, capsys):
    monkeypatch.setattr(quietness, "busy_cores", lambda: 0.0)
    assert quietness.wait_until_quiet()["waited_seconds"] == 0.0
    assert capsys.readouterr().out == ""
