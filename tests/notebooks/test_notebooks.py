"""The notebooks and the report, run as `make report` runs them, and what they recorded."""

import os
import re
import signal
import subprocess
import sys

import nbformat
import pytest

from nnpar_lib.analysis.cost import comparison
from nnpar_lib.analysis.regimes import parallel_trials
from nnpar_lib.experiments import regimes_study
from nnpar_lib.launch import notebook
from nnpar_lib.records import provenance, store
from tests.conftest import ROOT, run_python
from tests.notebooks import article

NUM_RECORDS = {
    "00_allreduce": 18,
    "01_accuracy": 2,
    "01_threads": 12,
    "02_ladder": 26,
    "02_strong_scaling": 20,
    "02_weak_scaling": 24,
    "02_threads_against_ranks": 18,
    "02_averaging": 8,
    "03_costs": 47,
    "03_schedules": 30,
    "03_microbatches": 20,
    "03_memory": 7,
    "03_recompute": 8,
    "03_balance": 18,
    "03_tensor": 8,
    "04_runs": 43,
    "05_costs": 37,
    "05_grid": 60,
    "05_accuracy": 10,
    "06_roofline": 3,
    "06_precision": 10,
    "06_portions": 8,
    "06_tuned": 4,
    "06_ranks": 3,
    "06_epoch": 4,
    "07_framework": 6,
    "07_messages": 7,
    "07_accuracy": 2,
    "07_threads": 3,
    "08_demo": 12,
    "09_scale_over_nodes": 16,
    "10_allreduce": 46,
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


BUILD = (sys.executable, "report/build.py", "--folder")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Build the quick report on digits into a folder of its own, killed once and resumed.

    Return the folder, what the second build printed, and what the first one had finished.
    """
    folder = tmp_path_factory.mktemp("report")
    kill_when_it_prints("notebook 2 of", *BUILD, folder)
    kept = {path: path.read_bytes() for path in sorted(folder.glob("results/*/00_*"))}
    process = run_python("report/build.py", "--folder", folder, "--resume", timeout=1500)
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    return folder, process.stdout, kept


@pytest.fixture(scope="module")
def built(resumed):
    """Return the folder of a quick report on digits."""
    return resumed[0]


def kill_when_it_prints(words, *command):
    """Start a command in a session of its own and kill all of it when it prints these words."""
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if words in line:
                break
        else:
            raise AssertionError("".join(printed)[-3000:])
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(provenance.num_cores() > 3, reason="the counts are those of two cores")
def test_every_notebook_leaves_its_records(built):
    files = {path.stem: path for path in (built / "results" / "digits-quick").glob("*.jsonl")}
    assert {name: len(store.load(path)) for name, path in files.items()} == NUM_RECORDS


@pytest.mark.timeout(1800)
def test_what_was_trained_has_learnt_and_says_where_it_was_measured(built):
    records = store.load(built / "results" / "digits-quick" / "01_accuracy.jsonl")
    assert min(record.final_test_accuracy for record in records) > 0.9
    assert all(
        record.provenance["host"] and record.provenance["packages"]["torch"] for record in records
    )


@pytest.mark.timeout(1800)
def test_a_model_in_parts_learns_as_a_whole_one_and_one_that_does_not_fit_trains_in_parts(built):
    folder = built / "results" / "digits-quick"
    accuracy = comparison.accuracy(
        store.frame(store.load(folder / "05_accuracy.jsonl")), {"mlp": 0.5, "cnn": 0.5}
    )
    same = accuracy[~accuracy["label"].str.startswith("weight averaging")]
    assert (
        len(same) == 8
        and same["accuracy_lost"].abs().max() < 0.003
        and same["seconds_to_goal"].notna().all()
    )
    large = [
        record
        for record in store.load(folder / "03_memory.jsonl")
        if record.experiment == "does_not_fit"
    ]
    assert [(record.strategy, record.diverged) for record in large] == [
        ("pipeline", False),
        ("tensor", False),
        ("sharded", False),
    ]
    live = {
        record.label: record.memory[0]["activations"]
        for record in store.load(folder / "03_memory.jsonl")
    }
    assert live["1f1b, 16 micro-batches"] < live["gpipe, 16 micro-batches"] / 3


@pytest.mark.timeout(1800)
def test_the_quick_study_finds_steps_at_every_batch_size(built):
    folder = built / "results" / "digits-quick"
    runs = regimes_study.read(folder / "04_mlp_sgd.json")
    assert sorted(runs["batch_size"].unique()) == [16, 32, 64, 128, 256, 512]
    steps = (
        runs[runs["stage"] == "estimate"]
        .groupby(["goal_error", "batch_size"])["steps"]
        .median()
        .unstack()
    )
    assert (steps[16] > 2 * steps[512]).all()
    records = store.frame(store.load(folder / "04_runs.jsonl"))
    assert records["kind"].value_counts().to_dict() == {"run": 24, "trial": 18, "norms": 1}
    counts = parallel_trials.equal_counts(records[records["experiment"] == "regimes_ranks"])
    assert (counts["num_equal"] == counts["num_pairs"]).all() and counts["num_pairs"].sum() == 4


@pytest.mark.timeout(1800)
def test_all_exact_ways_of_the_demonstration_end_with_the_same_loss(built):
    records = store.frame(store.load(built / "results" / "digits-quick" / "08_demo.jsonl"))
    spread = records.groupby("model")["final_train_loss"].agg(
        lambda loss: loss.max() / loss.min() - 1
    )
    assert set(spread.index) == {"mlp", "cnn", "resnet18"} and spread[["mlp", "cnn"]].max() < 1e-3


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_what_a_notebook_says_it_saw_is_computed(built, name):
    notebook = nbformat.read(built / "executed" / f"{name}.ipynb", 4)
    said = [
        output["data"]["text/markdown"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    ]
    assert said and "nan" not in " ".join(said).split()
    assert str(ROOT) not in (built / "executed" / f"{name}.ipynb").read_text()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "num_figures"),
    [
        ("index", 1),
        ("data_parallelism", 8),
        ("model_parallelism", 6),
        ("regimes", 6),
        ("precision", 3),
        ("cpp", 2),
        ("machines", 5),
        ("claims", 0),
    ],
)
def test_a_page_has_every_number_and_figure_and_asks_the_network_for_nothing(
    built, name, num_figures
):
    page = (built / "html" / f"{name}.html").read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    assert "glue" not in text and "nan" not in text.split()
    assert page.count("<figure") == num_figures
    assert re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?|png|svg))"', page) == []
    assert str(ROOT) not in page


@pytest.mark.timeout(1800)
def test_the_report_in_one_piece_needs_no_other_file(built):
    page = (built / "nnpar.html").read_text()
    num_tables = page.count('<figure class="table"')  # long ones, which have captions too
    assert page.count("<figure") - num_tables == 31 and page.count("<math") >= 4
    assert re.findall(r'(?:src|href)="(?!#|data:|https?://)([^"]*)"', page) == []
    assert "<script" not in page and "not measured (" not in page


@pytest.mark.timeout(1800)
def test_the_pdf_says_what_the_html_says(built):
    assert article.differences(built / "nnpar.html", built / "nnpar.pdf") == {}
    records = built / "results" / "digits-quick"
    assert article.commits(built / "nnpar.html") == article.commits_of_records(records)


@pytest.mark.timeout(1800)
def test_a_build_that_goes_on_measures_nothing_again(resumed):
    _, printed, kept = resumed
    assert printed.count("was finished before") == 1
    assert kept and {path: path.read_bytes() for path in kept} == kept


def test_engines_take_over_runs_and_nothing_else(built, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "report")
    import campaign

    folder = built / "results" / "digits-quick"
    resumed = campaign.Campaign(
        folder=built, dataset="digits", preset="quick", results=folder, resume=True
    )
    assert [
        resumed._is_resumable(folder / f"{name}.jsonl") for name in ("02_ladder", "00_allreduce")
    ] == [True, False]


def test_a_misspelt_parameter_is_refused_with_a_hint(tmp_path):
    process = run_python(
        "-m",
        "papermill",
        "notebooks/08_demo.ipynb",
        tmp_path / "out.ipynb",
        "-p",
        "datset",
        "mnist",
        timeout=60,
    )
    assert process.returncode != 0
    assert "unknown parameter 'datset'; did you mean 'dataset'?" in process.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_checks_its_parameters_before_it_starts_anything(path):
    parameters, first, *_ = [
        cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
    ]
    assert parameters.metadata.tags == ["parameters"] and parameters.source.startswith(
        "# parameters"
    )
    before, check, _ = first.source.partition("notebook.check_parameters(In)")
    assert check and all(
        line.startswith(("import ", "from ")) for line in before.split("\n") if line
    )


def test_what_is_no_notebook_is_refused_as_a_page(tmp_path):
    process = run_python("report/build.py", "--page", tmp_path / "missing.ipynb")
    assert process.returncode == 2
    assert (
        process.stderr.startswith("report: there is no notebook")
        and process.stderr.count("\n") == 1
    )


def test_the_parameters_of_the_notebook_are_accepted():
    notebook.check_parameters(
        ["", "# parameters\nseed = 1\nname: str = 'a'", "# Parameters\nseed = 2", "other = 3"]
    )


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="unknown preset 'slow'; choose from quick, full"):
        notebook.choose("slow", quick=1, full=2)


def test_a_report_on_an_unknown_data_set_is_refused_in_one_line():
    process = run_python("report/build.py", "--dataset", "minst", timeout=60)
    assert process.returncode == 2
    assert process.stderr.strip().count("\n") == 0 and "did you mean 'mnist'" in process.stderr
