"""The program in C++: builds it, runs it as a strategy like any other, and reads its records."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any, Protocol

from nnpar_lib.config import RunConfig
from nnpar_lib.config.environment import memory_folder
from nnpar_lib.config.sections import passed_to_native
from nnpar_lib.launch import environment, lifeline, preflight, tasks
from nnpar_lib.records import store
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.records.provenance import num_cores, provenance

SOURCE = Path(__file__).resolve().parents[2] / "cpp"
DEFAULT_BUILD = SOURCE.parent / "build" / "cpp"


class PythonRanks(Protocol):
    """Engines, as far as a comparison needs them."""

    def run(self, config: RunConfig, *, experiment: str = "") -> RunRecord:
        """Do one training run and return its record."""


@functools.cache
def build(folder: Path = DEFAULT_BUILD, options: tuple[str, ...] = ()) -> Path:
    """Return the program, built in `folder` where its source has changed.

    `options` are CMake's, such as -DNNPAR_MPI=OFF. Raises a ValueError that quotes the tools where
    something is missing or does not compile.
    """
    if not SOURCE.is_dir():
        raise ValueError(
            f"there is no C++ source at {SOURCE}: run from a checkout of the project (pip install"
            " -e .)"
        )
    mpicxx = Path(environment.mpiexec_command()[0]).with_name("mpicxx")
    settings = [
        f"-DCMAKE_PREFIX_PATH={sys.prefix}",
        f"-DMPI_CXX_COMPILER={mpicxx}",
        *_openblas(),
        *options,
    ]
    _tool(
        "cmake",
        "-S",
        str(SOURCE),
        "-B",
        str(folder),
        "-G",
        "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={_find('ninja')}",
        *settings,
    )
    _tool("cmake", "--build", str(folder))
    return folder / "nnpar"


def run(
    config: RunConfig,
    *,
    experiment: str = "",
    results_file: str | Path | None = None,
    measure_sgemm: bool = False,
    weights_file: str | Path | None = None,
) -> RunRecord:
    """Train once in C++ and return the record, which is also appended to `results_file` where one
    is given.

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
    with tempfile.TemporaryDirectory(prefix="nnpar-", dir=memory_folder()) as folder:
        origin, record_file, final = (
            provenance(),
            Path(folder, "record.jsonl"),
            Path(weights_file or f"{folder}/final"),
        )
        weights, order = (str(Path(folder, name)) for name in ("initial", "order"))
        tasks.load("export_start")(config.to_dict(), weights, order)
        files = {
            "data": _data(config.dataset),
            "weights": weights,
            "order": order,
            "out": str(record_file),
            "save-weights": str(final),
        }
        words = _options(config) + [
            word for name, value in files.items() for word in (f"--{name}", value)
        ]
        start(
            config.num_ranks, [*words, "--measure-sgemm", "yes" if measure_sgemm else "no"], folder
        )
        record = _record(record_file, final, config, origin)
    record = dataclasses.replace(record, experiment=experiment)
    if results_file is not None:
        store.append_or_print(results_file, record)
    return record


def run_interleaved(
    configs: Sequence[RunConfig],
    *,
    num_repeats: int = 5,
    experiment: str = "",
    results_file: str | Path | None = None,
    ranks: PythonRanks | None = None,
    measure_sgemm: bool = False,
) -> list[RunRecord]:
    """Run all configs in turn, `num_repeats` times over, and return the records in the order they
    were made.

    Those that are not for the program in C++ run on the engines `ranks`, which sleep while it runs.
    """
    preflight.check_results_file(results_file, configs)
    records = []
    for repeat, config in itertools.product(range(num_repeats), configs):
        if ranks is None or config.is_native:
            record = run(config, experiment=experiment, measure_sgemm=measure_sgemm)
        else:
            record = ranks.run(config, experiment=experiment)
        records.append(dataclasses.replace(record, repeat=repeat))
        if results_file is not None:
            store.append_or_print(results_file, records[-1])
    return records


def start(num_ranks: int, words: Sequence[str], folder: str, program: Path | None = None) -> None:
    """Run the program on so many ranks; raise a ValueError with its own line where it complains."""
    command = [str(program or build()), *words]
    if num_ranks > 1:
        command = [
            *lifeline.command(folder),
            *environment.mpiexec_command(),
            "-n",
            str(num_ranks),
            *command,
        ]
    variables = {**os.environ, **environment.mpi_environment(), **environment.private_files(folder)}
    process = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if process.returncode != 0:
        lines = [line for line in process.stderr.splitlines() if line.startswith("nnpar: ")]
        if lines:
            raise ValueError(lines[0].removeprefix("nnpar: "))
        raise RuntimeError(
            f"the program in C++ ended with status {process.returncode}:\n{process.stderr[-2000:]}"
        )


def _options(config: RunConfig) -> list[str]:
    """Return the words of the command line that describe a config."""
    values: dict[str, Any] = {name: getattr(config, name) for name in passed_to_native()}
    del values["num_ranks"]  # the launcher starts them
    values["num_threads"] = config.num_threads or max(1, num_cores() // config.num_ranks)
    values["num_steps"] = config.num_steps or 0
    values["hidden"] = ",".join(map(str, config.hidden_widths))
    return [
        word
        for name, value in values.items()
        for word in ("--" + name.replace("_", "-"), str(value))
    ]


def _record(
    record_file: Path, weights_file: Path, config: RunConfig, origin: dict[str, Any]
) -> RunRecord:
    """Return the program's record, with what Python knows: the whole config, the commit, a digest
    of the weights."""
    values = json.loads(record_file.read_text())
    values["weights_sha256"] = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    values["config"] = config.to_dict()
    values["provenance"] = {**values["provenance"], **origin}
    return RunRecord(**values)


@functools.cache
def _data(dataset: str) -> str:
    """Return the folder of a data set's idx files, which are written once where there are none."""
    folder = DEFAULT_BUILD.parent / "data" / dataset
    folder.mkdir(parents=True, exist_ok=True)
    return str(tasks.load("export_data")(dataset, str(folder)))


def _openblas() -> list[str]:
    """Return the option that names pip's OpenBLAS, none where the system's is to be found."""
    spec = util.find_spec("scipy_openblas32")
    return (
        [f"-DNNPAR_OPENBLAS={Path(spec.origin).parent}"] if spec is not None and spec.origin else []
    )


def _tool(name: str, *arguments: str) -> None:
    process = subprocess.run([_find(name), *arguments], capture_output=True, text=True, check=False)
    if process.returncode != 0:
        said = (process.stdout + process.stderr)[-2000:]
        raise ValueError(f"the program in C++ cannot be built; {name} says: {said}")


def _find(name: str) -> str:
    beside_python = Path(sys.executable).with_name(name)
    found = str(beside_python) if os.access(beside_python, os.X_OK) else shutil.which(name)
    if found is None:
        raise ValueError(
            f"{name} is missing, which builds the program in C++; install it with `pip install"
            f" {name}`"
        )
    return found


def main() -> int:
    """Build the program and say where it lies; the versions of its tools are pip's."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        print(f"OpenBLAS {metadata.version('scipy-openblas32')} of pip")
    print(os.path.relpath(build()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
