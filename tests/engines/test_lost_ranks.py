"""Engines that die or stop while each works on a task of its own, and a controller that stops."""

import itertools
import os
import signal
import threading

import pytest
from conftest import process_of, processes_of

from nnpar_lib.launch import cluster
from nnpar_lib.launch.engines import EnginesLost, RankError, engines

DELAY = 0.5


@pytest.fixture
def running(spmd_functions_importable, monkeypatch):
    monkeypatch.setattr(cluster, "STOPPED_SECONDS", 2.0)
    with engines(2) as started:
        yield started
    assert processes_of(started.session) == []


def run_tasks(running, function):
    """Give ranks tasks without end, each a call of a function of the tests."""
    tasks = itertools.count()
    running.run_tasks(
        f"spmd_functions.{function}",
        lambda: next(tasks),
        lambda task: (task,),
        lambda *_: None,
        lambda: None,
    )


def signal_soon(pid, number):
    threading.Timer(DELAY, os.kill, (pid, number)).start()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGTERM, "rank 1 died of signal 15"),
        (signal.SIGKILL, "rank 1 died of signal 9"),
        (signal.SIGSTOP, r"rank 1 has been stopped \(SIGSTOP\) for 2 s"),
    ],
)
def test_a_rank_that_is_lost_in_a_task_of_its_own_is_named(running, number, message):
    signal_soon(dict(running.call("spmd_functions.who"))[1], number)
    with pytest.raises(EnginesLost, match=message):
        run_tasks(running, "sleep_a_second")


def test_a_controller_that_is_stopped_is_named(running):
    signal_soon(process_of(running.session, "ipyparallel.controller").pid, signal.SIGSTOP)
    with pytest.raises(EnginesLost, match="the controller has been stopped"):
        run_tasks(running, "sleep_a_second")


def test_an_error_in_a_task_names_its_rank(running):
    with pytest.raises(RankError, match="rank 1 raised ZeroDivisionError"):
        run_tasks(running, "fail_in_second_task")
