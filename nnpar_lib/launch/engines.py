"""MPI ranks for a notebook: start them, run functions on all of them, fail fast, leave nothing
behind.

This is the only module that imports ipyparallel. A kernel process never initialises MPI: mpiexec
starts the ranks as ipyparallel engines, and they are reached by the dotted name of the function
that all of them are to call.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import ipyparallel as ipp
import psutil
from traitlets.config import Config

from nnpar_lib.config import RunConfig
from nnpar_lib.config.environment import memory_folder
from nnpar_lib.launch import calls, environment, lifeline, task_farm
from nnpar_lib.launch.calls import RankError
from nnpar_lib.launch.rank_output import (
    KeepRecord,
    Progress,
    ProgressDisplay,
    RankOutput,
    silent_log,
)
from nnpar_lib.launch.task_farm import Task
from nnpar_lib.records import store
from nnpar_lib.records.kinds import Record, RunRecord
from nnpar_lib.records.provenance import provenance

__all__ = ["Engines", "EnginesLost", "RankError", "engines"]

MEASUREMENT = "nnpar_lib.trainers.tasks.runs.run_interleaved"
SESSION_VARIABLE = "NNPAR_SESSION"
START_SECONDS = 60.0
NUM_QUOTED_CHARACTERS = 4000
CONTROLLER_ARGUMENTS = [
    # engines register on a beat: the default of 3 s is what a start waits for
    "--HeartMonitor.period=500",
    "--HeartMonitor.max_heartmonitor_misses=120",  # ranks that compute without a pause answer late
    "--IPController.use_threads=True",  # one process instead of nine
]


class EnginesLost(RuntimeError):
    """The engines are gone: a rank, mpiexec or the controller died, or they were stopped after a
    failure."""


def engines(num_ranks: int) -> Engines:
    """Start `num_ranks` engines, which serve every smaller number of ranks too.

    They run until `stop` is called, until the `with` block is over that they were started for, or
    until this process ends, whichever is first. Raises a ValueError for an impossible number, and a
    RuntimeError that quotes mpiexec where they do not start.
    """
    if not isinstance(num_ranks, int) or isinstance(num_ranks, bool) or num_ranks < 1:
        raise ValueError(
            f"num_ranks={num_ranks!r} is not a number of ranks; give a whole number of at least 1"
        )
    cluster = _Cluster(num_ranks)
    try:
        cluster.start()
    except BaseException:
        cluster.stop()
        raise
    return Engines(cluster)


class Engines:
    """Running engines, one a rank; made by `engines`."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self.num_ranks = cluster.num_ranks
        self.session = cluster.session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every process and remove every file; may be called again."""
        self._cluster.stop()

    def run(
        self,
        config: RunConfig,
        *,
        experiment: str = "",
        results_file: str | Path | None = None,
        progress: Progress | None = None,
    ) -> RunRecord:
        """Do one training run and return its record, which is also appended to `results_file` where
        one is given."""
        return self.run_interleaved(
            [config],
            num_repeats=1,
            experiment=experiment,
            results_file=results_file,
            progress=progress,
        )[0]

    def run_interleaved(
        self,
        configs: Sequence[RunConfig] | Mapping[str, RunConfig],
        *,
        num_repeats: int = 5,
        experiment: str = "",
        results_file: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[RunRecord]:
        """Run all configs in turn, `num_repeats` times over, and return the records in the order
        they were made.

        Each record is appended to `results_file` as soon as its run is over: a later failure loses
        nothing. Every config is checked before the first one runs; a wrong one is a ValueError. The
        keys of a mapping become the records' labels. Where the variable NNPAR_RESUME is 1, runs
        that `results_file` holds are not done again.
        """
        names = {"labels": list(configs)} if isinstance(configs, Mapping) else {}
        configs = list(configs.values()) if isinstance(configs, Mapping) else configs
        self._check(configs, num_repeats)
        known = results_file if environment.is_resuming() else None
        done = store.find_repeats(known, configs, num_repeats, experiment, provenance())
        dictionaries = [config.to_dict() for config in configs]
        records = self.call_for_records(
            MEASUREMENT,
            dictionaries,
            num_repeats,
            experiment,
            results_file=results_file,
            progress=progress,
            done=list(done),
            **names,
        )
        todo = [(repeat, index) for repeat in range(num_repeats) for index in range(len(configs))]
        runs = (record for record in records if isinstance(record, RunRecord))
        return [done[one] if one in done else next(runs) for one in todo]

    def call_for_records(
        self,
        name: str,
        *args: Any,
        results_file: str | Path | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> list[Record]:
        """Call a function that returns its records, as dictionaries, on rank 0, and return them as
        records.

        Records that rank 0 prints as it goes are appended to `results_file` at once; otherwise this
        is `call`.
        """
        kept, display = calls.RecordStore(results_file), ProgressDisplay()
        try:
            returned = self._call(name, args, kwargs, kept.keep, progress or display)
        except BaseException as error:
            if kept.records:
                error.add_note(
                    f"the {len(kept.records)} records of finished runs are "
                    + (
                        f"in {results_file}"
                        if results_file
                        else "lost: give a results_file to keep them"
                    )
                )
            raise
        finally:
            display.close(f"{len(kept.records)} records from {self.num_ranks} ranks")
        kept.keep_missing(returned[0])
        return kept.records

    def call(
        self, name: str, *args: Any, progress: Progress | None = None, **kwargs: Any
    ) -> list[Any]:
        """Call the function of this dotted name on every rank at once and return its results in the
        order of ranks.

        `progress` is called with a fraction and a text whenever rank 0 reports some; the default
        shows a bar. Raises RankError where a rank raises, and EnginesLost where one dies. Engines
        that hang after an error are stopped.
        """
        display = ProgressDisplay()
        try:
            return self._call(name, args, kwargs, lambda _: None, progress or display)
        finally:
            display.close(f"{name} on {self.num_ranks} ranks")

    def farm(
        self,
        name: str,
        next_task: Callable[[], Task | None],
        arguments: Callable[[Task], Sequence[Any]],
        on_result: Callable[[Task, Any], None],
        meanwhile: Callable[[], None],
    ) -> None:
        """Call a function task by task on whatever rank is free; see
        `nnpar_lib.launch.task_farm.run`."""
        try:
            task_farm.run(self._cluster, name, next_task, arguments, on_result, meanwhile)
        except BaseException as error:
            self._cluster.give_up(
                f"{name} ended with {type(error).__name__} while other ranks were at work"
            )
            raise

    def _check(self, configs: Sequence[RunConfig], num_repeats: int) -> None:
        from nnpar_lib.launch import preflight

        preflight.check_repeats(configs, num_repeats)
        for config in configs:
            if config.num_ranks > self.num_ranks:
                raise ValueError(
                    f"num_ranks={config.num_ranks} is more than the {self.num_ranks} engines that"
                    f" run; start more with engines({config.num_ranks}) or ask for fewer ranks"
                )
            if config.is_native:
                raise ValueError(
                    f"strategy {config.strategy!r} starts ranks of its own; use"
                    " launch.native.run(config)"
                )
            preflight.check(config)

    def _call(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        on_record: KeepRecord,
        progress: Progress,
    ) -> list[Any]:
        self._cluster.check_alive()
        output = RankOutput(on_progress=progress, on_record=on_record)
        call = calls.PendingCall(self._cluster.send(name, args, kwargs), output)
        try:
            call.wait(self._cluster.check_alive)
        except BaseException as error:
            if not call.is_over:  # ranks that are still at it can serve no other call
                self._cluster.give_up(
                    f"{name} ended with {type(error).__name__} while ranks were still in it"
                )
            raise
        return call.results


class _Cluster:
    """The processes: a controller, and an mpiexec with one engine a rank; each of the two under a
    lifeline.

    Engines have no nannies: mpiexec itself sees a rank die, ends the others and says which it was.
    """

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.session = uuid.uuid4().hex
        self._client: Any = None
        self._engine_ids: list[int] = []
        self._watched: dict[str, psutil.Process] = {}
        self._stop_reason = ""
        self._is_one_node = environment.num_nodes() == 1
        # engines on other nodes need the folder too: the working directory is shared, others need
        # not be
        parent = memory_folder() if self._is_one_node else Path.cwd()
        self._folder = tempfile.mkdtemp(
            prefix=f".nnpar-{environment.job_id() or 'local'}-", dir=parent
        )
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
        """Start all processes; return when every rank from 0 on has answered."""
        self._cluster.start_controller_sync()
        self._watched["the controller"] = psutil.Process(self._cluster.controller.pid)
        # Waiting here and not inside ipyparallel: an interrupt must find nothing that goes on
        # behind its back.
        files = [Path(file) for file in self._cluster.controller.connection_files.values()]
        self._wait_until(lambda: all(file.exists() for file in files))
        self._cluster.start_engines_sync()
        self._watched["mpiexec"] = psutil.Process(self._cluster.engine_set.pid)
        self._client = self._cluster.connect_client_sync()
        self._wait_until(lambda: len(self._client.ids) == self.num_ranks)
        self._engine_ids = list(self._client.ids)
        self._engine_ids = self._sort_by_rank(self._engine_ids)

    def send(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Have all ranks call a function; return what each one's result will be in, in the order of
        ranks."""
        return [
            self._client[engine_id].apply_async(_SENT_FUNCTION, name, list(args), kwargs)
            for engine_id in self._engine_ids
        ]

    def send_to(self, rank: int, name: str, args: Sequence[Any]) -> Any:
        """Have one rank call a function; return the future of its result."""
        return self._client[self._engine_ids[rank]].apply_async(
            _SENT_FUNCTION, name, list(args), {}
        )

    def check_alive(self) -> None:
        """Raise EnginesLost where the engines were stopped or one of their processes has died."""
        if self._stop_reason:
            raise EnginesLost(
                f"the engines were stopped ({self._stop_reason}); start new ones with engines(...)"
            )
        dead = [name for name, process in self._watched.items() if not lifeline.is_alive(process)]
        if dead:
            self.give_up(self._death(dead))
            raise EnginesLost(
                f"{self._stop_reason}; all engines were stopped, start new ones with engines(...)"
            )

    def give_up(self, reason: str) -> None:
        """Stop everything and remember why."""
        self._stop_reason = self._stop_reason or reason
        self.stop()

    def stop(self) -> None:
        """Stop every process and remove every file, also after a start that was broken off; may be
        called again."""
        self._stop_reason = self._stop_reason or "their work was over"
        try:
            with contextlib.suppress(
                Exception
            ):  # it must not hide what it is stopped for: what is left is killed
                if self._client is not None:
                    self._client.close(linger=0)
                self._cluster.stop_cluster_sync()
        finally:
            lifeline.kill_tagged(SESSION_VARIABLE, self.session)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _config(self) -> Config:
        guard = lifeline.command(self._folder)
        variables = {SESSION_VARIABLE: self.session, "IPYTHONDIR": self._folder}
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
        """Return when a step of the start is done; raise a RuntimeError where it fails or takes too
        long."""
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if time.monotonic() > deadline or not all(
                map(lifeline.is_alive, self._watched.values())
            ):
                raise RuntimeError(
                    f"the {self.num_ranks} engines did not start; `mpiexec -n {self.num_ranks} "
                    f"hostname` in a terminal may tell more:\n{self._process_output()}"
                )
            time.sleep(0.05)

    def _sort_by_rank(self, engine_ids: Sequence[int]) -> list[int]:
        """Return the ids in the order of their MPI ranks: engines are numbered as they arrive."""
        call = calls.PendingCall(
            self.send("nnpar_lib.launch.environment.mpi_rank", [], {}),
            RankOutput(on_progress=lambda *_: None, on_record=lambda _: None),
        )
        call.wait(self.check_alive)
        ranks = call.results
        if sorted(ranks) != list(range(self.num_ranks)):
            raise RuntimeError(
                f"the engines have the MPI ranks {sorted(ranks)} instead of 0 to"
                f" {self.num_ranks - 1}; does {environment.mpiexec_command()[0]} belong to the MPI"
                " that mpi4py loads?"
            )
        return [engine_id for _, engine_id in sorted(zip(ranks, engine_ids, strict=True))]

    def _death(self, dead: Sequence[str]) -> str:
        return lifeline.cause_of_death(self._process_output()) or f"{' and '.join(dead)} died"

    def _process_output(self) -> str:
        """Return the end of what the controller and mpiexec have printed.

        The launchers are asked, not their files: those vanish, once read, as soon as a process has
        ended.
        """
        launchers = filter(None, (self._cluster.controller, self._cluster.engine_set))
        return "".join(launcher.get_output()[-NUM_QUOTED_CHARACTERS:] for launcher in launchers)


_SENT_FUNCTION = ipp.interactive(calls.call_by_name)  # sent as code, not to be imported there
