"""Run a command that must not outlive its parent.

    python -m nnpar_lib.launch.lifeline PID DIR -- COMMAND...

A kernel that is killed cannot stop its engines. This small process stands between: it ends the
command and all processes that came of it when it is asked to (SIGTERM, SIGINT, SIGHUP), when its
parent PID is gone, and when the command itself dies and leaves processes behind. A signal that was
ignored at its start, such as SIGHUP under nohup, stays ignored. Where the parent is gone it also
removes DIR, which the parent would have removed. Where this process is killed, Linux ends the
command. Between signals it sleeps, so that it does not disturb measurements.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence

import psutil

GUARD_VARIABLE = "NNPAR_GUARD"
PARENT_CHECK_SECONDS = 0.5
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
TERMINATE_SECONDS = 3.0
# what Open MPI, Intel MPI and MPICH print of a rank that a signal has ended
OPENMPI_NOTICE = re.compile(
    r"process rank (\d+) with PID .*?exited on\s+signal (\d+ \([^)]*\))", re.DOTALL
)
INTEL_NOTICE = re.compile(r"RANK (\d+) PID \d+ .*?KILLED BY SIGNAL: (\d+ \([^)]*\))", re.DOTALL)
MPICH_NOTICE = re.compile(r"PID (\d+) RUNNING AT .*?EXIT STRING: (\w+) \(signal (\d+)\)", re.DOTALL)
RANK_NOTICE = re.compile(r"nnpar: ((?:stalled|rank \d+).*)")


def command(folder: str) -> list[str]:
    """Return the words that put a command, appended to them, on the lifeline of this process."""
    return [sys.executable, "-m", "nnpar_lib.launch.lifeline", str(os.getpid()), folder, "--"]


def cause_of_death(output: str, ranks: Mapping[int, int] | None = None) -> str:
    """Return what mpiexec and the ranks say of how they ended, nothing where they say nothing.

    `ranks` tells the rank of a process, which MPICH does not. Intel MPI names all ranks, since it
    ends the others by the same signal.
    """
    if said := RANK_NOTICE.search(output):
        return said[1]
    if notice := OPENMPI_NOTICE.search(output):
        return f"rank {notice[1]} died of signal {notice[2]}"
    if notices := INTEL_NOTICE.findall(output):
        numbers = " or ".join(rank for rank, _ in notices)
        return f"rank {numbers} died of signal {notices[0][1]}"
    if notice := MPICH_NOTICE.search(output):
        rank = (ranks or {}).get(int(notice[1]))
        name = f"process {notice[1]}" if rank is None else f"rank {rank}"
        return f"{name} died of signal {notice[3]} ({notice[2]})"
    return ""


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_stopped(process: psutil.Process) -> bool:
    """Return whether a process is stopped, by SIGSTOP or a terminal, and may go on."""
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def kill_tagged(variable: str, value: str) -> None:
    """Kill every process that was started with this environment variable, and wait until they are
    gone."""
    tagged = [process for process in psutil.process_iter() if _is_tagged(process, variable, value)]
    for process in tagged:
        try:
            process.kill()
        except psutil.Error:
            continue  # it ended by itself in between
    psutil.wait_procs(tagged, timeout=TERMINATE_SECONDS)


def _is_tagged(process: psutil.Process, variable: str, value: str) -> bool:
    try:
        return process.environ().get(variable) == value
    except psutil.Error:  # another user's, or gone
        return False


class _Signals:
    """The signals that ask this process to stop, and those that tell of the command's end, without
    polling."""

    def __init__(self) -> None:
        self.received = 0  # the signal that asked this process to stop
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._receiver.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's, which stays in force
                signal.signal(number, self._stop)
        # a default disposition would not wake up the wait
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def wait(self, seconds: float) -> None:
        """Sleep until a signal arrives or the time is over."""
        if select.select([self._receiver], [], [], seconds)[0]:
            self._receiver.recv(4096)

    def _stop(self, number: int, *_: object) -> None:
        self.received = number


def _start(command: Sequence[str], tag: str) -> subprocess.Popen[bytes]:
    """Start the command; where this process is killed, Linux ends the command too.

    It gets a session of its own: a terminal's signals reach it only through this process, as
    mpiexec would act on SIGHUP even under nohup.
    """
    variables = {**os.environ, GUARD_VARIABLE: tag}
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:
        if sys.platform.startswith("linux"):
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(  # this process has one thread
        command,
        env=variables,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the command gently, so that mpiexec cleans up behind its ranks, and by force where that
    takes too long."""
    child.terminate()
    try:
        child.wait(TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def exit_status(returncode: int) -> int:
    """Return what a shell says of a process that ended so: 128 + N for one that signal N ended."""
    return returncode if returncode >= 0 else 128 - returncode


def main(arguments: Sequence[str]) -> int:
    """Run the command to its end and return its exit status, or 128 + N where signal N ended it."""
    parent = int(arguments[0])
    folder = arguments[1]
    command = list(arguments[3:])
    signals = _Signals()
    tag = uuid.uuid4().hex
    child = _start(command, tag)
    while child.poll() is None and os.getppid() == parent and not signals.received:
        signals.wait(PARENT_CHECK_SECONDS)
    if child.poll() is None:
        _end(child)
        status = 128 + (signals.received or signal.SIGTERM)
    else:
        status = exit_status(child.returncode)
        _report(command, status)
    kill_tagged(GUARD_VARIABLE, tag)  # ranks outlive a killed mpiexec
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return status


def _report(command: Sequence[str], status: int) -> None:
    """Print a status other than 0, as mpiexec may end before its own message is out."""
    if status:
        name = os.path.basename(command[0])
        print(f"{name} ended with exit code {status}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
