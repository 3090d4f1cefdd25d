"""The processes of the engines: a controller, mpiexec and the ranks, from their start to their end.

This is the only module that imports ipyparallel. A kernel process never initialises MPI: mpiexec
starts the ranks as ipyparallel engines, and a function that they are to call is named by its dotted
name.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipyparallel as ipp
import psutil
from traitlets.config import Config

from nnpar_lib.config.environment import LAST_WORDS_VARIABLE
from nnpar_lib.launch import calls, environment, lifeline
from nnpar_lib.launch.calls import EnginesLost
from nnpar_lib.launch.private_folder import PrivateFolder
from nnpar_lib.launch.rank_output import RankOutput, silent_log
from nnpar_lib.launch.tasks import TASKS
from nnpar_lib.records import wire

SESSION_VARIABLE = "NNPAR_SESSION"
START_SECONDS = 60.0
STOPPED_SECONDS = 60.0  # how long a process may be stopped (SIGSTOP) before it counts as lost
LOOK_SECONDS = 0.5
NOTICE_SECONDS = 3.0  # how long mpiexec has to say what a rank died of
NUM_QUOTED_CHARACTERS = 4000
CONTROLLER_ARGUMENTS = [
    # engines register on a beat: the default of 3 s is what a start waits for
    "--HeartMonitor.period=500",
    "--HeartMonitor.max_heartmonitor_misses=120",  # ranks that compute without a pause answer late
    "--IPController.use_threads=True",  # one process instead of nine
]
CALL_BY_NAME = ipp.interactive(calls.call_by_name)  # sent as code, not to be imported there


class Cluster:
    """The processes: a controller, and an mpiexec with one engine a rank, each under a lifeline.

    Engines have no nannies: mpiexec itself sees a rank die, ends the others and says which it was.
    """

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.session = uuid.uuid4().hex
        self._client: Any = None
        self._engine_ids: list[int] = []
        self._watched: dict[str, list[psutil.Process]] = {}
        self._stopped_since: dict[str, float] = {}
        self._next_look = 0.0
        self._ranks_by_process: dict[int, int] = {}
        self._stop_reason = ""
        self._is_one_node = environment.num_nodes() == 1
        # Engines on other nodes need the folder too, and only the working directory is sure to be
        # shared.
        self._private = PrivateFolder(
            parent=None if self._is_one_node else Path.cwd(),
            label=environment.job_id() or "local",
        )
        self._folder = self._private.path
        network = (
            {}
            if self._is_one_node
            else {"controller_ip": "*", "controller_location": socket.gethostname()}
        )
        private = [] if self._is_one_node else ["--IPController.enable_curve=True"]
        self._cluster = ipp.Cluster(
            engines="mpi",
            n=num_ranks,
            config=self._config(),
            profile_dir=self._folder,
            cluster_file="",
            delay=0,
            cluster_id=environment.job_id(),
            load_profile=False,
            shutdown_atexit=False,
            log=silent_log(),
            controller_args=[*CONTROLLER_ARGUMENTS, *private],
            **network,
        )

    def start(self) -> None:
        """Start all processes; return when every rank has answered."""
        self._cluster.start_controller_sync()
        self._watched["the controller"] = [psutil.Process(self._cluster.controller.pid)]
        # The waiting is done here and not inside ipyparallel, where an interrupt would leave a
        # start that goes on in the background.
        files = [Path(file) for file in self._cluster.controller.connection_files.values()]
        self._wait_until(lambda: all(file.exists() for file in files))
        self._cluster.start_engines_sync()
        self._watched["mpiexec"] = [psutil.Process(self._cluster.engine_set.pid)]
        self._client = self._cluster.connect_client_sync()
        self._wait_until(lambda: len(self._client.ids) == self.num_ranks)
        self._engine_ids = list(self._client.ids)
        self._engine_ids = self._sort_by_rank(self._engine_ids)
        for name in ("the controller", "mpiexec"):
            (its_lifeline,) = self._watched[name]
            self._watched[name] += its_lifeline.children()

    def send(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Have all ranks call a function; return the futures of their results, by rank."""
        return [
            self._client[engine_id].apply_async(CALL_BY_NAME, name, list(args), kwargs)
            for engine_id in self._engine_ids
        ]

    def send_to(self, rank: int, name: str, args: Sequence[Any]) -> Any:
        """Have one rank call a function; return the future of its result."""
        return self._client[self._engine_ids[rank]].apply_async(CALL_BY_NAME, name, list(args), {})

    def check_alive(self) -> None:
        """Raise EnginesLost where the engines were stopped or one of their processes has died."""
        if self._stop_reason:
            raise EnginesLost(
                f"the engines were stopped ({self._stop_reason}); start new ones with engines(...)"
            )
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        if reason := self._lost():
            self.give_up(reason)
            raise EnginesLost(
                f"{self._stop_reason}; all engines were stopped, start new ones with engines(...)"
            )

    def give_up(self, reason: str) -> None:
        """Stop everything and remember why."""
        self._stop_reason = self._stop_reason or reason
        self.stop()

    def stop(self) -> None:
        """Stop every process and remove every file, even after half a start; may be called
        again."""
        self._stop_reason = self._stop_reason or "their work was over"
        try:
            # An error here must not hide the one that the stop is for; what is left is killed.
            with contextlib.suppress(Exception):
                if self._client is not None:
                    self._client.close(linger=0)
                self._cluster.stop_cluster_sync()
        finally:
            lifeline.kill_tagged(SESSION_VARIABLE, self.session)
            self._private.remove()

    def _config(self) -> Config:
        guard = lifeline.command(self._folder)
        variables = {
            SESSION_VARIABLE: self.session,
            LAST_WORDS_VARIABLE: self._folder,
            "IPYTHONDIR": self._folder,
        }
        private = environment.private_files(self._folder) if self._is_one_node else {}
        config = Config()
        config.MPIEngineSetLauncher.mpi_cmd = guard + environment.mpiexec_command()
        config.MPIEngineSetLauncher.environment = (
            variables | private | environment.mpi_environment()
        )
        config.MPIEngineSetLauncher.engine_args = ["--IPEngine.enable_nanny=False"]
        config.LocalControllerLauncher.controller_cmd = [
            *guard,
            sys.executable,
            "-m",
            "ipyparallel.controller",
        ]
        config.LocalControllerLauncher.environment = variables
        return config

    def _wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Return when a step of the start is done; a step that fails or takes too long is a
        RuntimeError."""
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            is_alive = not self._dead()
            if time.monotonic() > deadline or not is_alive:
                raise RuntimeError(
                    f"the {self.num_ranks} engines did not start; `mpiexec -n {self.num_ranks} "
                    f"hostname` in a terminal may tell more:\n{self._process_output()}"
                )
            time.sleep(0.05)

    def _sort_by_rank(self, engine_ids: Sequence[int]) -> list[int]:
        """Return the ids in the order of their MPI ranks: engines are numbered as they arrive."""
        call = calls.PendingCall(
            self.send(TASKS["introduce_rank"], [], {}),
            RankOutput(on_progress=lambda *_: None, on_record=lambda _: None),
        )
        call.wait(self.check_alive)
        ranks = [rank for rank, _ in call.results]
        if sorted(ranks) != list(range(self.num_ranks)):
            raise RuntimeError(
                f"the engines have the MPI ranks {sorted(ranks)} instead of 0 to"
                f" {self.num_ranks - 1}; does {environment.mpiexec_command()[0]} belong to the MPI"
                " that mpi4py loads?"
            )
        if self._is_one_node:
            self._ranks_by_process = {process: rank for rank, process in call.results}
            for rank, pid in call.results:
                self._watched[f"rank {rank}"] = [psutil.Process(pid)]
        return [engine_id for _, engine_id in sorted(zip(ranks, engine_ids, strict=True))]

    def _lost(self) -> str:
        """Return which process is gone or has stopped for long, "" where all is well."""
        if dead := self._dead():
            return self._death(dead)
        answering = self._client.ids if self._client is not None else []
        silent = [f"rank {rank}" for rank, i in enumerate(self._engine_ids) if i not in answering]
        if silent:
            return f"{' and '.join(silent)} {'do' if len(silent) > 1 else 'does'} not answer"
        return self._stopped()

    def _dead(self) -> list[str]:
        return [
            name
            for name, processes in self._watched.items()
            if not all(map(lifeline.is_alive, processes))
        ]

    def _stopped(self) -> str:
        now = time.monotonic()
        for name, processes in self._watched.items():
            if not any(map(lifeline.is_stopped, processes)):
                self._stopped_since.pop(name, None)
            elif now - self._stopped_since.setdefault(name, now) > STOPPED_SECONDS:
                return f"{name} has been stopped (SIGSTOP) for {STOPPED_SECONDS:.0f} s"
        return ""

    def _death(self, dead: Sequence[str]) -> str:
        """Return what is known of a death: a rank's own words, mpiexec's notice, or a name."""
        deadline = time.monotonic() + NOTICE_SECONDS
        is_started = "mpiexec" in self._watched
        while is_started and "mpiexec" not in self._dead() and time.monotonic() < deadline:
            time.sleep(0.05)  # it may be about to say what a rank died of
        # Last words are sure to be whole, mpiexec's output is not.
        output = "".join(wire.last_words(self._folder)) or self._process_output()
        if cause := lifeline.cause_of_death(output, self._ranks_by_process):
            return cause
        if "mpiexec" in self._dead() and "the controller" not in dead:
            return "mpiexec died"  # and the ranks with it
        return f"{' and '.join(dead)} died"

    def _process_output(self) -> str:
        """Return the end of what the controller and mpiexec have printed.

        The launchers are asked, not their files: those vanish, once read, as soon as a process has
        ended.
        """
        launchers = filter(None, (self._cluster.controller, self._cluster.engine_set))
        return "".join(launcher.get_output()[-NUM_QUOTED_CHARACTERS:] for launcher in launchers)
