"""The program in C++: runs it as a strategy like any other, and reads its records."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Protocol

from nnpar_lib.config import RunConfig, folders
from nnpar_lib.config.sections import passed_to_native
from nnpar_lib.launch import environment, guarded, lifeline, memory_need, preflight, tasks
from nnpar_lib.launch.calls import EnginesLost
from nnpar_lib.launch.native_build import build, locked, source
from nnpar_lib.launch.private_folder import PrivateFolder
from nnpar_lib.records import store
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.records.provenance import provenance

__all__ = ["build", "run", "run_interleaved", "source", "start"]

COMPLAINT = "nnpar: "  # what a line of the program about a problem begins with


class PythonRanks(Protocol):
    """Engines, as far as a comparison needs them."""

    def run(self, config: RunConfig, *, experiment: str = "") -> RunRecord:
        """Do one training run and return its record."""


def run(
    config: RunConfig,
    *,
    experiment: str = "",
    results_file: str | Path | None = None,
    measure_sgemm: bool = False,
    weights_file: str | Path | None = None,
) -> RunRecord:
    """Train once in C++ and return the record, appended to `results_file` where one is given.

    Initial weights and batches are those of the strategies in Python. `measure_sgemm` adds the rate
    of the largest matrix product, in the same process, to the provenance as
    `sgemm_flop_per_second`. The final weights stay in `weights_file` where one is given: float32 in
    the model's order.
    """
    if not config.is_native:
        raise ValueError(
            f"strategy {config.strategy!r} is no program in C++; use engines, or strategy='cpp'"
        )
    preflight.check(config)
    preflight.check_results_file(results_file, [config])
    program = build()
    # ranks on other nodes need the files too, and only the working directory is sure to be shared
    parent = None if environment.num_nodes() == 1 else os.getcwd()
    with PrivateFolder(parent=parent, num_bytes=memory_need.shared_bytes(config)) as folder:
        files = _write_inputs(config, folder)
        files["out"] = f"{folder}/record.jsonl"
        files["save-weights"] = str(weights_file or f"{folder}/final")
        files["measure-sgemm"] = "yes" if measure_sgemm else "no"
        origin = provenance()
        start(config.num_ranks, [*_options(config), *_words(files)], folder, program)
        record = _record(Path(files["out"]), Path(files["save-weights"]), config, origin)
    record = dataclasses.replace(record, experiment=experiment)
    if results_file is not None:
        store.append_or_print(results_file, record)
    return record


def run_interleaved(
    configs: Sequence[RunConfig],
    *,
    num_repeats: int = 5,
    experiment: str = "",
    labels: Sequence[str] = (),
    results_file: str | Path | None = None,
    ranks: PythonRanks | None = None,
    measure_sgemm: bool = False,
) -> list[RunRecord]:
    """Run all configs in turn, `num_repeats` times over; return the records in order of time.

    `labels`, where given, name the configs in the records.
    Those that are not for the program in C++ run on the engines `ranks`, which sleep while it runs.
    """
    preflight.check_results_file(results_file, configs)
    records = []
    named = [*zip(labels or [""] * len(configs), configs, strict=True)]
    for repeat, (label, config) in itertools.product(range(num_repeats), named):
        if ranks is None or config.is_native:
            record = run(config, experiment=experiment, measure_sgemm=measure_sgemm)
        else:
            record = ranks.run(config, experiment=experiment)
        records.append(dataclasses.replace(record, repeat=repeat, label=label))
        if results_file is not None:
            store.append_or_print(results_file, records[-1])
    return records


def start(num_ranks: int, words: Sequence[str], folder: str, program: Path | None = None) -> None:
    """Run the program on so many ranks, with its private files in `folder`.

    Raises a ValueError with its line where it complains, and EnginesLost, which names the rank,
    where a rank dies or stalls. Whatever ends this process, nothing of the program stays behind.
    """
    command = [str(program or build()), *words]
    if num_ranks > 1:
        command = [*environment.mpiexec_command(), "-n", str(num_ranks), *command]
    private = environment.private_files(folder) if environment.num_nodes() == 1 else {}
    variables = {**environment.mpi_environment(), **private}
    process = guarded.run(command, folder, variables, is_captured=True)
    if process.returncode != 0:
        raise _error(process)


def _error(process: CompletedProcess[str]) -> Exception:
    """Return the exception for a program that failed, one line where the cause is known."""
    if cause := lifeline.cause_of_death(process.stderr + process.stdout):  # Hydra prints there
        return EnginesLost(f"{cause}; the program in C++ was ended")
    lines = [line for line in process.stderr.splitlines() if line.startswith(COMPLAINT)]
    if lines:
        return ValueError(lines[0].removeprefix(COMPLAINT))
    if process.returncode > 128:
        number = process.returncode - 128
        return EnginesLost(f"the program in C++ died of signal {number} ({_signal_name(number)})")
    return RuntimeError(
        f"the program in C++ ended with status {process.returncode}:\n{process.stderr[-2000:]}"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _write_inputs(config: RunConfig, folder: str) -> dict[str, str]:
    """Write what the program starts from; return its files under the names of the options."""
    files = {"weights": f"{folder}/initial", "order": f"{folder}/order"}
    tasks.load("export_start")(config.to_dict(), files["weights"], files["order"])
    return {"data": _data(config.dataset), **files}


def _options(config: RunConfig) -> list[str]:
    """Return the words of the command line that describe a config."""
    values: dict[str, Any] = {
        name.replace("_", "-"): getattr(config, name) for name in passed_to_native()
    }
    del values["num-ranks"]  # the launcher starts them
    values["num-threads"] = memory_need.native_threads(config)
    values["num-steps"] = config.num_steps or 0
    values["hidden"] = ",".join(map(str, config.hidden_widths))
    return _words(values)


def _words(values: dict[str, Any]) -> list[str]:
    words = []
    for name, value in values.items():
        words += [f"--{name}", str(value)]
    return words


def _record(
    record_file: Path, weights_file: Path, config: RunConfig, origin: dict[str, Any]
) -> RunRecord:
    """Return the program's record with what Python knows: config, commit, digest of the weights."""
    values = json.loads(record_file.read_text())
    values["weights_sha256"] = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    values["config"] = config.to_dict()
    values["provenance"] = {**values["provenance"], **origin}
    return RunRecord(**values)


@functools.cache
def _data(dataset: str) -> str:
    """Return the folder of a data set's idx files, which are written once where there are none."""
    folder = folders.build_folder(f"data/{dataset}")
    with locked(folder):
        return str(tasks.load("export_data")(dataset, str(folder)))
