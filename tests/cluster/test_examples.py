"""The short examples of cluster/examples, and a site's own MPI, on the SLURM of the testbed."""

import json
import os
import subprocess
import sys
import time

import pytest

from nnpar_lib.records import store
from tests.conftest import ROOT

EXAMPLES = ROOT / "cluster" / "examples"
PAGE = ROOT / "cluster" / "engines_in_slurm.md"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
SECONDS = 150

pytestmark = pytest.mark.timeout(900)  # a testbed of another worker is waited for


def submit(folder, *words, **variables):
    """Submit a batch script, wait until it is over, and return the states of its jobs and its
    log."""
    command = ["sbatch", "--parsable", f"--output={folder}/log-%j", *map(str, words)]
    job = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RESULTS": str(folder), **variables},
    ).stdout.strip()
    deadline = time.monotonic() + SECONDS
    while not (states := states_of(job)) <= OVER:
        assert time.monotonic() < deadline, log_of(folder)
        time.sleep(0.5)
    return states, log_of(folder)


def states_of(job):
    """Return the states of a job, or of all jobs of an array."""
    output = subprocess.run(
        ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
    ).stdout
    return {word.removeprefix("JobState=") for word in output.split() if "JobState=" in word}


def log_of(folder):
    return "".join(path.read_text() for path in sorted(folder.glob("log-*")))


def test_the_examples_are_short_and_those_that_the_page_shows():
    page = PAGE.read_text()
    for path in sorted(EXAMPLES.iterdir()):
        text = path.read_text()
        assert len(text.splitlines()) <= 40
        assert path.suffix == ".sbatch" or text in page
        assert path.name in page


def test_a_notebook_calls_a_function_on_the_ranks_of_two_nodes(testbed, tmp_path):
    notebook = tmp_path / "engines.ipynb"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "jupytext",
            "--to",
            "ipynb",
            "--output",
            notebook,
            EXAMPLES / "engines.py",
        ],
        check=True,
    )
    states, log = submit(
        tmp_path, EXAMPLES / "notebook.sbatch", notebook, tmp_path / "executed.ipynb"
    )
    assert states == {"COMPLETED"}, log
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    text = "".join(
        "".join(line for line in output["data"]["text/plain"])
        for cell in cells
        for output in cell.get("outputs", [])
        if "data" in output
    )
    assert "(0, 2, 5.0, " in text and "(1, 2, 5.0, " in text


@pytest.mark.parametrize("script", ["sweep-array.sbatch", "sweep-srun.sbatch"])
def test_a_sweep_leaves_a_record_of_each_learning_rate(testbed, tmp_path, script):
    states, log = submit(tmp_path, EXAMPLES / script, "--num-steps", 5, "--hidden", 8)
    assert states == {"COMPLETED"}, log
    records = store.load(tmp_path / "sweep.jsonl")
    assert sorted(record.config["lr"] for record in records) == [0.01, 0.03, 0.1, 0.3]


def test_a_sweep_of_which_a_training_fails_has_failed(testbed, tmp_path):
    states, log = submit(tmp_path, EXAMPLES / "sweep-srun.sbatch", "--hidden", 0)
    assert states == {"FAILED"}, log
    assert log.count("hidden=(0,)") >= 4


@pytest.fixture(scope="session")
def mpich():
    """Return the folder of MPICH, which plays the MPI of a site."""
    process = subprocess.run(
        [ROOT / "tests" / "fetch_mpi", "mpich"], capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        pytest.skip("MPICH cannot be installed from here")
    return process.stdout.strip()


def test_a_job_uses_the_mpi_of_the_module_that_it_loads(testbed, tmp_path, mpich):
    module = f'() {{ if [ "$1" = load ]; then export PATH="{mpich}/bin:$PATH"; fi; }}'
    states, log = submit(
        tmp_path,
        "--partition=GPU-shared",
        "--nodes=1",
        "--ntasks=2",
        ROOT / "cluster" / "bridges2" / "gpu-shared.sbatch",
        *("--device", "cpu", "--dataset", "digits", "--model", "mlp", "--num-steps", 5),
        **{"BASH_FUNC_module%%": module},
    )
    assert states == {"COMPLETED"}, log
    records = [record for path in tmp_path.glob("*.jsonl") for record in store.load(path)]
    (library,) = (record.provenance["mpi"] for record in records if record.num_ranks == 2)
    assert library.startswith("MPICH")


def test_a_survey_in_a_job_is_of_the_nodes_of_the_job(testbed, tmp_path):
    states, log = submit(
        tmp_path,
        *("--nodes=2", "--ntasks-per-node=1"),
        ROOT / "cluster" / "bridges2" / "survey.sbatch",
        *("--minutes", 0.4, "--run-seconds", 0.02, "--models", "mlp", "--parts", "noise"),
    )
    assert states == {"COMPLETED"}, log
    records = store.load(tmp_path / "survey-2-nodes" / "survey.jsonl")
    (machine,) = (record for record in records if record.kind == "machine")
    assert (machine.description["num_nodes"], machine.description["num_cores"]) == (2, 2)
    assert {record.num_ranks for record in records if record.kind == "run"} == {1, 2}
    assert "the records are in" in log
