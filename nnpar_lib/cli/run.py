"""Runs from a shell: a process alone launches the ranks, one under mpiexec or srun is a rank."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from nnpar_lib.cli.options import config_from
from nnpar_lib.config import RunConfig
from nnpar_lib.config.environment import STALL_VARIABLE, launched_rank, launched_size
from nnpar_lib.launch import environment, guarded, native, preflight, tasks
from nnpar_lib.launch.private_folder import PrivateFolder
from nnpar_lib.launch.rank_output import ProgressDisplay
from nnpar_lib.records import outputs, store, trace
from nnpar_lib.records.kinds import Record, RunRecord
from nnpar_lib.records.provenance import provenance

COLUMNS = {
    "strategy": "strategy",
    "model": "model",
    "dataset": "data set",
    "num_ranks": "ranks",
    "threads_per_rank": "threads",
    "global_batch_size": "batch",
    "num_steps": "steps",
    "train_seconds": "seconds",
    "samples_per_second": "samples/s",
    "final_train_loss": "train loss",
    "final_test_accuracy": "test accuracy",
}
FORMATS = {
    "seconds": "{:.3f}",
    "samples/s": "{:,.0f}",
    "train loss": "{:.4f}",
    "test accuracy": "{:.4f}",
}


def run(arguments: argparse.Namespace) -> int:
    """Train as the options say, print a short table, append the records; return the exit status."""
    size = launched_size()
    config = config_from(arguments, default_num_ranks=size or 1)
    if size is not None and config.num_ranks != size:
        raise ValueError(
            f"num_ranks={config.num_ranks}, but {size} ranks were launched; leave --num-ranks out,"
            " or launch as many"
        )
    if arguments.skip_done and arguments.out is None:
        raise ValueError(
            "--skip-done looks into the file of --out, which was not given; give --out FILE too"
        )
    if _is_done_already(config, arguments):
        return 0
    if config.is_native:
        return _run_native(config, arguments.num_repeats, arguments.out, size)
    if size is None and config.num_ranks > 1:
        return _launch(config)
    return _train_here(config, arguments)


def complain(message: str) -> None:
    """Print one line about a mistake on standard error, on the first rank only."""
    try:
        rank = launched_rank()
    except ValueError:  # the variable that tells the rank may be what is wrong
        rank = None
    if rank in (None, 0):
        print(f"nnpar: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)


def table(records: Sequence[Record]) -> str:
    """Return a short table of runs for a terminal, with a dash for what was not measured."""
    frame = store.frame(records)[list(COLUMNS)].rename(columns=COLUMNS)
    frame = frame.astype(dict.fromkeys(FORMATS, float))
    formatters = {name: _formatter(form) for name, form in FORMATS.items()}
    return str(frame.to_string(index=False, formatters=formatters))


class TerminalListener:
    """Shows the progress on standard error, and writes each record to the file at once."""

    def __init__(self, out: Path | None) -> None:
        self.progress = ProgressDisplay()
        self.records: list[Record] = []
        self.num_unwritten = 0
        self._out = out

    def record(self, record: Record) -> None:
        self.records.append(record)
        divergence = record.divergence if isinstance(record, RunRecord) else None
        if divergence is not None:
            complain(
                f"the run diverged: the loss of step {divergence['step']:.0f}, at a learning rate"
                f" of {divergence['lr']:g}, is not a finite number; take a smaller lr"
            )
        if self._out is not None and not store.append_or_print(self._out, record):
            self.num_unwritten += 1

    def close(self) -> None:
        """Finish the display and print the table."""
        self.progress.close(f"{len(self.records)} run{'s' * (len(self.records) > 1)}")
        print(table(self.records), flush=True)


def _is_done_already(config: RunConfig, arguments: argparse.Namespace) -> bool:
    """Check data and files; return whether the runs are to be skipped, the same on all ranks.

    The first rank checks and tells the others, because it alone may download a data set. An error
    is sent, too: ranks that are not told would wait for ever.
    """
    done = False
    problem = ""
    if launched_rank() in (None, 0):
        try:
            done = _look_before_start(config, arguments)
        except (ValueError, OSError) as error:
            problem = str(error)
    if launched_rank() is not None:
        ranks = tasks.load("world")()
        done, problem = ranks.broadcast_object((done, problem))
    if problem:
        raise ValueError(problem)
    return done


def _look_before_start(config: RunConfig, arguments: argparse.Namespace) -> bool:
    outputs.check(
        {
            "--checkpoint": (config.checkpoint, outputs.CHECKPOINT),
            "--out": (arguments.out, outputs.RECORDS),
            "--trace": (arguments.trace, outputs.TRACE),
        }
    )
    preflight.check(config)
    preflight.check_repeats([config], arguments.num_repeats)
    if not arguments.skip_done:
        return False
    done = store.find_done(store.load(arguments.out), config, "", provenance())
    if len(done) < arguments.num_repeats:
        return False
    print(f"already recorded in {arguments.out}, skipped:\n{table(done)}", flush=True)
    return True


def _launch(config: RunConfig) -> int:
    """Run this command on several ranks; return the exit status of mpiexec."""
    with PrivateFolder() as folder:
        private = environment.private_files(folder) if environment.num_nodes() == 1 else {}
        stall = {STALL_VARIABLE: str(config.stall_seconds)}
        python = [sys.executable, "-m", "nnpar_lib", *sys.argv[1:]]
        command = [*environment.mpiexec_command(), "-n", str(config.num_ranks), *python]
        variables = {**environment.mpi_environment(), **private, **stall}
        return guarded.run(command, folder, variables).returncode


def _train_here(config: RunConfig, arguments: argparse.Namespace) -> int:
    listener = TerminalListener(arguments.out) if launched_rank() in (None, 0) else None
    run_interleaved = tasks.load("run_interleaved")
    with tasks.load("abort_all_on_error")():
        run_interleaved([config.to_dict()], arguments.num_repeats, listener=listener)
    if listener is not None:
        listener.close()
        trace_is_written = _write_trace(arguments.trace, cast("RunRecord", listener.records[-1]))
        return int(listener.num_unwritten > 0 or not trace_is_written)
    return 0


def _write_trace(path: Path | None, record: RunRecord) -> bool:
    """Write the trace of a run, where one is wanted; say so and return False where it cannot be."""
    if path is None:
        return True
    try:
        trace.write(path, record)
    except OSError as error:
        complain(f"the trace could not be written to {path} ({error.strerror})")
        return False
    return True


def _run_native(config: RunConfig, num_repeats: int, out: Path | None, size: int | None) -> int:
    """Run the C++ program, which starts ranks of its own."""
    if size is not None:
        raise ValueError(
            f"strategy {config.strategy!r} starts ranks of its own; leave mpiexec out and "
            "give --num-ranks"
        )
    listener = TerminalListener(out)
    for repeat in range(num_repeats):
        listener.record(dataclasses.replace(native.run(config), repeat=repeat))
    listener.close()
    return int(listener.num_unwritten > 0)


def _formatter(form: str) -> Callable[[float], str]:
    return lambda value: "-" if math.isnan(value) else form.format(value)
