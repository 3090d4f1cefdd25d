"""Run a command that must not outlive its parent: python -m nnpar_lib.launch.lifeline PID DIR --
COMMAND...

A kernel that is killed cannot stop its engines. This small process stands between: it ends the
command and all that came of it when it is asked to (SIGTERM), when its parent PID is gone, and when
the command itself dies and leaves processes behind. Where the parent is gone it also removes DIR,
which the parent would have removed. Between signals it sleeps: it must not disturb what is
measured.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Sequence

import psutil

GUARD_VARIABLE = "NNPAR_GUARD"
PARENT_CHECK_SECONDS = 0.5
TERMINATE_SECONDS = 3.0
DEATH_NOTICE = re.compile(
    r"process rank (\d+) with PID .*?exited on\s+signal (\d+ \([^)]*\))", re.DOTALL
)
STALL_NOTICE = re.compile(r"nnpar: (stalled: .*)")


def command(folder: str) -> list[str]:
    """Return the words that put a command, appended to them, on the lifeline of this process."""
    return [sys.executable, "-m", "nnpar_lib.launch.lifeline", str(os.getpid()), folder, "--"]


def cause_of_death(output: str) -> str:
    """Return what mpiexec and the ranks themselves say of how they ended, nothing where they say
    nothing."""
    if stall := STALL_NOTICE.search(output):
        return stall[1]
    notice = DEATH_NOTICE.search(output)
    return f"rank {notice[1]} died of signal {notice[2]}" if notice else ""


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_tagged(variable: str, value: str) -> None:
    """Kill every process that was started with this environment variable, and wait until they are
    gone."""
    found = [process for process in psutil.process_iter() if _is_tagged(process, variable, value)]
    for process in found:
        try:
            process.kill()
        except psutil.Error:
            continue  # it ended by itself in between
    psutil.wait_procs(found, timeout=TERMINATE_SECONDS)


def _is_tagged(process: psutil.Process, variable: str, value: str) -> bool:
    try:
        return process.environ().get(variable) == value
    except psutil.Error:  # another user's, or gone
        return False


class _Signals:
    """The signals that ask this process to stop, and those that tell of the command's end, without
    polling."""

    def __init__(self) -> None:
        self.asked_to_stop = False
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._receiver.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(
            signal.SIGCHLD, lambda *_: None
        )  # a default disposition would not wake up the wait

    def wait(self, seconds: float) -> None:
        """Sleep until a signal arrives or the time is over."""
        if select.select([self._receiver], [], [], seconds)[0]:
            self._receiver.recv(4096)

    def _stop(self, *_: object) -> None:
        self.asked_to_stop = True


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the command gently, so that mpiexec cleans up behind its ranks, and by force where that
    takes too long."""
    child.terminate()
    try:
        child.wait(TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def main(arguments: Sequence[str]) -> int:
    """Run the command to its end and return its exit code: 0 where it was ended on request."""
    parent, folder = int(arguments[0]), arguments[1]
    signals, tag = _Signals(), uuid.uuid4().hex
    child = subprocess.Popen(list(arguments[3:]), env={**os.environ, GUARD_VARIABLE: tag})
    while child.poll() is None and os.getppid() == parent and not signals.asked_to_stop:
        signals.wait(PARENT_CHECK_SECONDS)
    ended_here = child.poll() is None
    if ended_here:
        _end(child)
    elif child.returncode:  # mpiexec itself may end before its own message is out
        print(
            f"{os.path.basename(arguments[3])} ended with exit code {child.returncode}",
            file=sys.stderr,
            flush=True,
        )
    kill_tagged(GUARD_VARIABLE, tag)  # ranks outlive a killed mpiexec
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if ended_here else abs(child.returncode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
