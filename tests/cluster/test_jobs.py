"""The batch scripts, submitted with sbatch to a SLURM with Bridges-2's partitions, all its nodes on
this machine."""

import os
import re
import signal
import subprocess
import time
from collections import Counter

import nbformat
import psutil
import pytest

from nnpar_lib.records import store
from tests.conftest import ROOT

SCRIPTS = sorted(ROOT.glob("cluster/bridges2/*.sbatch"))
RM = ROOT / "cluster" / "bridges2" / "rm.sbatch"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
CELLS = (
    '# parameters\nnum_ranks = 2\nresults_folder = "."\nnum_runs = 2\nlr = 0.1\nsleep_seconds = 0',
    """
from nnpar_lib.config import RunConfig
from nnpar_lib.launch.engines import engines

config = RunConfig(strategy="gradient_averaging", allreduce="mpi", num_ranks=num_ranks,
                   num_threads=1, num_epochs=2, lr=lr)
with engines(num_ranks) as ranks:
    print("nodes", ranks.call("os.getenv", "SLURMD_NODENAME"))
    configs = [config.replace(seed=seed) for seed in range(num_runs)]
    ranks.run_interleaved(configs, num_repeats=1, experiment="job",
                          results_file=f"{results_folder}/job.jsonl")
    ranks.call("time.sleep", sleep_seconds)
""",
)

pytestmark = pytest.mark.timeout(900)  # a testbed of another worker is waited for


def write_notebook(folder):
    """Write a small notebook that papermill can run, and return its path."""
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    cells[0].metadata.tags = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, folder / "small.ipynb")
    return folder / "small.ipynb"


class Job:
    """A submitted rm.sbatch: two nodes, one rank each."""

    def __init__(self, folder, notebook, parameters, *options):
        command = [
            "sbatch",
            "--parsable",
            "--ntasks-per-node=1",
            *options,
            f"--output={folder}/log",
            RM,
            notebook,
            parameters,
        ]
        self.id = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "RESULTS": str(folder / "results")},
        ).stdout.strip()
        self.log = folder / "log"
        self.folder = folder / "results" / parameters.stem
        self.executed = self.folder / f"{notebook.stem}-{self.id}.ipynb"

    def control(self, *words):
        return subprocess.run(
            ["scontrol", *words], capture_output=True, text=True, check=True
        ).stdout

    def show(self, name):
        return re.search(rf"\b{name}=(\S+)", self.control("show", "job", self.id))[1]

    def wait(self, seconds=120, until=OVER):
        deadline = time.monotonic() + seconds
        while self.show("JobState") not in until:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)
        return self.show("JobState")

    def records(self):
        return store.load(self.folder / "job.jsonl")

    @staticmethod
    def node_state(node):
        command = ["sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%t"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]

    def wait_for_record(self, seconds=90):
        deadline = time.monotonic() + seconds
        while not self.records():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def notebook(self):
        return self.executed.read_text()

    def leftovers(self):
        """Return this job's processes and its files in the project's folder, some seconds after its
        end."""
        deadline, files = time.monotonic() + 15, f"notebooks/.nnpar-{self.id}-*"
        while (
            found := [*processes_of(self.id), *ROOT.glob(files)]
        ) and time.monotonic() < deadline:
            time.sleep(0.3)
        return found


def small_job(folder, *options, **parameters):
    """Submit the small notebook with these parameters."""
    file = folder / "small.yml"
    file.write_text(
        "".join(f"{name}: {value}\n" for name, value in parameters.items()) or "num_runs: 2\n"
    )
    return Job(folder, write_notebook(folder), file, *options)


def processes_of(job_id):
    """Return the job's processes, and those of SLURM that look after its steps."""
    found = []
    for process in psutil.process_iter():
        try:
            is_its_own = process.environ().get("SLURM_JOB_ID") == job_id
            is_step = " ".join(process.cmdline()).startswith(f"slurmstepd: [{job_id}.")
            if (is_its_own or is_step) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def overdue(testbed, tmp_path_factory):
    """A job that will sleep until its time is over, submitted before the others: SLURM's shortest
    limit is a minute."""
    return small_job(
        tmp_path_factory.mktemp("overdue"),
        "--time=1",
        "--nodes=1",
        "--ntasks-per-node=2",
        "--partition=GPU-shared",
        num_runs=1,
        sleep_seconds=1000,
    )


@pytest.fixture(scope="module")
def orphaned(testbed, tmp_path_factory):
    """A job that sleeps on two nodes, one of which will lose its daemon."""
    return small_job(
        tmp_path_factory.mktemp("orphaned"),
        "--partition=GPU",
        "--nodelist=v003,w001",
        num_runs=1,
        sleep_seconds=1000,
    )


@pytest.fixture(scope="module")
def bereft(testbed, orphaned):
    """The same, its node's daemon killed: SLURM takes its time to notice."""
    orphaned.wait_for_record()
    os.kill(int((testbed / "slurmd.w001.pid").read_text()), signal.SIGKILL)
    return orphaned


@pytest.mark.parametrize(
    "options",
    [
        ["rm"],
        ["rm", "-N2", "--ntasks-per-node=64"],
        ["rm-shared"],
        ["gpu"],
        ["gpu", "--gpus=h100-80:8"],
        ["gpu", "--gpus=v100-32:16", "-n16"],
        ["gpu-shared"],
        ["gpu-shared", "--gpus=h100-80:4", "-n4"],
        ["survey"],
    ],
)
def test_every_script_asks_for_what_the_site_has(testbed, options):
    script, *more = options
    process = subprocess.run(
        ["sbatch", "--test-only", *more, f"cluster/bridges2/{script}.sbatch"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr


def test_a_wrong_type_of_gpu_would_be_noticed(testbed):
    process = subprocess.run(
        ["sbatch", "--test-only", "--gpus=a100:8", "cluster/bridges2/gpu.sbatch"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode != 0


def test_scripts_stay_short():
    assert len(SCRIPTS) == 5
    assert max(len(script.read_text().splitlines()) for script in SCRIPTS) <= 40


def test_a_job_that_fails_says_so_and_why(overdue, orphaned, tmp_path):
    job = small_job(tmp_path, lr=-1)
    assert job.wait() == "FAILED"
    assert job.show("ExitCode") == "1:0"
    assert (
        "lr=-1.0 is not a positive number" in job.notebook()
        or "lr=-1 is not a positive number" in job.notebook()
    )
    assert job.leftovers() == []


def test_a_job_that_is_requeued_goes_on_where_it_was(overdue, bereft, tmp_path):
    job = small_job(tmp_path, num_runs=4)
    job.wait_for_record()
    before = job.records()
    job.control("requeue", job.id)
    while job.show("JobState") not in ("PENDING", *OVER):
        time.sleep(0.1)
    assert job.show("JobState") == "PENDING"
    time.sleep(2)  # SLURM refuses to start a job again within the second in which it was stopped
    job.control("update", f"jobid={job.id}", "starttime=now")
    assert job.wait() == "COMPLETED", job.log.read_text()
    assert job.show("Restarts") == "1"
    assert [record.config["seed"] for record in job.records()] == [
        0,
        1,
        2,
        3,
    ]  # none was measured twice
    assert job.records()[: len(before)] == before
    assert "'r001', 'r002'" in job.notebook()  # a rank on each node
    assert job.leftovers() == []


def test_a_job_that_is_cancelled_leaves_nothing_but_its_results(overdue, tmp_path):
    job = small_job(tmp_path, num_runs=1, sleep_seconds=1000)
    job.wait_for_record()
    subprocess.run(["scancel", job.id], check=True)
    assert job.wait() == "CANCELLED"
    assert job.leftovers() == []
    assert len(job.records()) == 1


def test_weak_scaling_over_two_nodes_ends_in_a_page(overdue, tmp_path):
    job = Job(
        tmp_path,
        ROOT / "notebooks" / "09_scale_over_nodes.ipynb",
        ROOT / "cluster" / "params" / "quick.yml",
    )
    assert job.wait() == "COMPLETED", job.log.read_text()
    records = store.load(job.folder / "09_scale_over_nodes.jsonl")
    assert Counter((record.model, record.num_ranks) for record in records) == {
        ("mlp", 1): 2,
        ("mlp", 2): 6,
        ("cnn", 1): 2,
        ("cnn", 2): 6,
    }
    assert not any(record.oversubscribed or record.diverged for record in records)
    page = (job.executed.with_suffix("") / "index.html").read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert all(f"{model}: " in text for model in ("mlp", "cnn"))
    assert text.count("on 2 ranks over 2 nodes") == 2 and "r001" in text and "r002" in text
    assert page.count("<img") >= 4
    assert re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?|png|svg))"', page) == []
    assert job.leftovers() == []


def test_a_job_whose_node_loses_its_daemon_is_requeued_with_its_results(testbed, bereft):
    assert bereft.wait(90, until=("PENDING",)) == "PENDING"
    assert (bereft.show("Restarts"), bereft.node_state("w001")) == ("1", "down*")
    assert re.search(
        rf"JobId={bereft.id} .* JobState=NODE_FAIL ", (testbed / "finished-jobs").read_text()
    )
    assert bereft.leftovers() == []
    subprocess.run(["scancel", bereft.id], check=True)
    assert bereft.wait() == "CANCELLED"
    assert len(bereft.records()) == 1
    subprocess.run(["slurmd", "-N", "w001"], check=True)
    deadline = time.monotonic() + 20
    while bereft.node_state("w001") != "idle" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (bereft.node_state("w001"), bereft.leftovers()) == ("idle", [])


def test_a_job_whose_time_is_over_leaves_nothing_but_its_results(overdue):
    assert overdue.wait(180) == "TIMEOUT"
    assert overdue.leftovers() == []
    assert len(overdue.records()) == 1
