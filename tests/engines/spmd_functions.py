"""Functions that the tests run on all ranks."""

import dataclasses
import json
import os
import re
import sys
import time

from mpi4py import MPI

from nnpar_lib.records.kinds import RunRecord


def who():
    return MPI.COMM_WORLD.rank, os.getpid()


def add(a, *, b):
    return a + b + MPI.COMM_WORLD.rank


def fail_in_collective(failing_rank):
    if MPI.COMM_WORLD.rank == failing_rank:
        raise ZeroDivisionError("the weights have turned to dust")
    MPI.COMM_WORLD.allreduce(1)


def fail_alone(failing_rank):
    if MPI.COMM_WORLD.rank == failing_rank:
        raise ZeroDivisionError("the weights have turned to dust")


def fail_in_turn():
    """Rank 1 fails first, rank 0 as a consequence."""
    time.sleep(0 if MPI.COMM_WORLD.rank == 1 else 0.1)
    raise ZeroDivisionError(f"dust on rank {MPI.COMM_WORLD.rank}")


def wait_in_collective():
    """Rank 0 never comes: the others spin inside MPI."""
    if MPI.COMM_WORLD.rank == 0:
        time.sleep(3600)
    MPI.COMM_WORLD.allreduce(1)


def return_a_generator():
    return (number for number in range(3))


def sleep(seconds):
    time.sleep(seconds)


def print_from_all():
    print(f"hello from {MPI.COMM_WORLD.rank}")
    print(f"a warning of {MPI.COMM_WORLD.rank}", file=sys.stderr)
    print("no newline at the end", end="")


def report_progress():
    for step in range(3):
        if MPI.COMM_WORLD.rank == 0:
            print("NNPAR-PROGRESS " + json.dumps({"fraction": step / 2, "text": f"step {step}"}))
        time.sleep(0.5)


PLAIN_VALUES = {"str": "x", "int": 1, "float": 0.25, "bool": False, "dict": {}, "list": []}


def make_record(config, repeat, experiment):
    """Return a complete record, as a dictionary, of whatever fields a record has."""
    required = {
        field.name: PLAIN_VALUES[re.match(r"\w+", str(field.type))[0]]
        for field in dataclasses.fields(RunRecord)
        if field.name not in ("kind", "schema")
    }
    return required | {
        "strategy": config["strategy"],
        "num_ranks": config["num_ranks"],
        "config": config,
        "repeat": repeat,
        "experiment": experiment,
    }


def measure(
    configs, num_repeats, experiment, *, labels=(), done=(), silent=(), fail_at=None, pause=0.0
):
    """Stand in for the measuring function: the same lines and the same return value, without
    training."""
    records = []
    for repeat in range(num_repeats):
        for config in configs:
            if len(records) == fail_at and MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1:
                raise FloatingPointError("the loss is not a number")
            MPI.COMM_WORLD.barrier()
            if pause and MPI.COMM_WORLD.rank == 0:
                print("NNPAR-PROGRESS " + json.dumps({"fraction": 0.0, "text": "at work"}))
            time.sleep(pause)
            record = make_record(config, repeat, experiment)
            if MPI.COMM_WORLD.rank == 0 and len(records) not in silent:
                print("NNPAR-RECORD " + json.dumps(record))
            records.append(record)
    return records if MPI.COMM_WORLD.rank == 0 else []


def measure_with_a_lost_line(configs, num_repeats, experiment, labels=(), done=()):
    return measure(configs, num_repeats, experiment, silent=(1,))


def measure_and_fail_at_the_third(configs, num_repeats, experiment, labels=(), done=()):
    return measure(configs, num_repeats, experiment, fail_at=2)


def measure_slowly(configs, num_repeats, experiment, labels=(), done=()):
    return measure(configs, num_repeats, experiment, pause=1.0)


def sleep_a_second(task):
    time.sleep(1)


def fail_in_second_task(task):
    if task == 1:
        raise ZeroDivisionError("the weights have turned to dust")
    time.sleep(3600)
