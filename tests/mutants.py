"""Break modules whose tests need mpiexec in small ways, at random, and count what the tests notice.

`python -m tests.mutants [--sample 25] [--seed 0] [MODULE ...]` works in a copy of the
project. mutmut makes the mutants of a module and puts all of them into its file; the environment
names the mutant that runs, on the ranks of a test too. mutmut's own runs fork a process that has
MPI and threads, and do not see what ranks do.

A mutant is killed where a test fails or a rank does not end. A survivor is printed as a diff.
"""

import argparse
import difflib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas  # noqa: F401  imported once, not once a mutant
import psutil
import pytest
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch.utils.data  # noqa: F401
from mutmut.mutation.file_mutation import mutate_file_contents

ROOT = Path(__file__).parent.parent
FORK = multiprocessing.get_context("fork")
VARIABLE = "MUTANT_UNDER_TEST"
SECONDS = 60  # longer than any of these tests takes
COPIED = ("nnpar_lib", "tests", "pyproject.toml", "constraints.txt")
KIND_VARIABLE = "NNPAR_TEST_PIECES"
PIECES = {  # modules, and the cases of tests/mpi/pieces.py that are about them
    "trainers/communication/shared_sums": "sums",
    "trainers/communication/shared_window": "window",
    "trainers/communication/shards": "shards",
    "trainers/step/shared_update": "update",
    "trainers/models/batch_norm": "normalised",
    "trainers/models/synchronisation": "wiring",
}
BATCHES = "not flipped and not digits_ and not moved and not no_test_digit"
TESTS = {  # those of a module, the quickest first; each is one run of pytest
    "analysis/regimes/steps_model": [
        ("tests/unit/analysis/regimes/test_steps_model.py",),
        ("tests/unit/analysis/regimes/test_steps_to_goal.py", "-m", "not slow"),
    ],
    "trainers/data/batches": [
        ("tests/unit/trainers/data/test_batches.py", "-m", "not slow", "-k", BATCHES)
    ],
    **{module: [("tests/mpi/test_pieces.py",)] for module in PIECES},
}


@dataclass(frozen=True)
class Mutant:
    """A mutant of a module: its name for mutmut, and how its function differs from the original."""

    name: str
    diff: str


def mutate(module: str, folder: Path) -> list[Mutant]:
    """Put all mutants of a module into its file in the copy, and return them."""
    path = folder / "nnpar_lib" / f"{module}.py"
    mutated = mutate_file_contents(str(path), path.read_text())
    path.write_text(mutated.code)
    lines = mutated.code.splitlines()

    def text(function: str) -> list[str]:
        span = mutated.line_span_by_function_name[function]
        return lines[span.start - 1 : span.end]

    mutants = []
    for name in mutated.mutant_names:
        original = text(name.partition("__mutmut_")[0] + "__mutmut_orig")
        diff = difflib.unified_diff(original, text(name), lineterm="", n=1)
        changed = [line for line in diff if line[0] in "+-" and "__mutmut_" not in line][2:]
        prefix = f"nnpar_lib.{module.replace('/', '.')}"
        mutants.append(Mutant(f"{prefix}.{name}", "\n".join(changed)))
    return mutants


def run_tests(module: str, folder: Path, mutant: str) -> str:
    """Return how the tests of a module end with a mutant: survived, killed or timeout."""
    for arguments in TESTS[module]:
        process = FORK.Process(target=_run_pytest, args=(module, arguments, folder, mutant))
        process.start()
        process.join(SECONDS)
        outcome = {0: "survived", None: "timeout"}.get(process.exitcode, "killed")
        process.kill()
        process.join()
        _end_processes(mutant)
        if outcome != "survived":
            return outcome
    return "survived"


def _run_pytest(module: str, arguments: tuple[str, ...], folder: Path, mutant: str) -> None:
    """Run pytest in the copy; in a process of its own, which has imported only what is no part
    of the project."""
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    os.environ.update({KIND_VARIABLE: PIECES.get(module, ""), VARIABLE: mutant})
    os.environ["PYTHONPATH"] = str(folder)
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments]))


def _end_processes(mutant: str) -> None:
    """Kill the mpiexec and the ranks that a mutant left."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(VARIABLE) == mutant:
                process.send_signal(signal.SIGKILL)
        except psutil.Error:
            pass  # it has ended, or is somebody else's


def sample(module: str, mutants: list[Mutant], size: int, seed: int) -> list[Mutant]:
    """Return so many mutants of a module, the same for each seed."""
    generator = random.Random(f"{seed} {module}")
    return generator.sample(mutants, min(size, len(mutants)))


def measure(module: str, folder: Path, options: argparse.Namespace) -> None:
    """Print what the tests of a module do with a sample of its mutants."""
    mutants = mutate(module, folder)
    begin = time.monotonic()
    if run_tests(module, folder, "none") != "survived":
        raise SystemExit(f"{module}: its tests fail without a mutant")
    seconds = time.monotonic() - begin
    chosen = sample(module, mutants, options.sample, options.seed)
    outcomes = []
    for mutant in chosen:
        outcomes.append(run_tests(module, folder, mutant.name))
        print(f"  {outcomes[-1]} {mutant.name}", flush=True)
        if outcomes[-1] == "survived":
            print(mutant.diff, flush=True)
    num_noticed = len(chosen) - outcomes.count("survived")
    print(f"{module}: {num_noticed} noticed of {len(chosen)}", end=", ")
    print(f"of {len(mutants)} mutants; the tests take {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(TESTS))
    parser.add_argument("--sample", type=int, default=25, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in COPIED:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, folder / source)
        for module in options.modules or TESTS:
            measure(module, folder, options)


if __name__ == "__main__":
    main()
