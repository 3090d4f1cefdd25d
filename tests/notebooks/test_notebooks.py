"""The notebooks and the report, run as `make report` runs them, and what they recorded."""

import importlib.util
import re
import subprocess
import sys

import pytest

from nnpar_lib import provenance, results
from nnpar_lib.analysis import comparison
from nnpar_lib.launch import notebook
from tests.conftest import ROOT, run_python

NUM_RECORDS = {"00_allreduce": 18, "01_accuracy": 2, "01_threads": 18, "02_ladder": 27, "02_strong_scaling": 30,
               "02_weak_scaling": 30, "02_threads_against_ranks": 27, "02_averaging": 8,
               "03_costs": 35, "03_schedules": 26, "03_microbatches": 20, "03_memory": 6, "03_balance": 18,
               "03_tensor": 8, "04_runs": 43, "05_costs": 37, "05_grid": 54, "05_accuracy": 10,
               "06_roofline": 2, "06_precision": 16, "06_portions": 16, "06_tuned": 8, "06_ranks": 6, "06_epoch": 4,
               "07_framework": 12, "07_messages": 14, "07_accuracy": 2, "07_threads": 6}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the quick report on digits into a folder of its own."""
    folder = tmp_path_factory.mktemp("report")
    process = run_python("report/build.py", "--folder", folder, timeout=900)
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    return folder


@pytest.mark.timeout(1000)
@pytest.mark.skipif(provenance.num_cores() > 3, reason="the counts are those of two cores")
def test_every_notebook_leaves_its_records(built):
    files = {path.stem: path for path in (built / "results" / "digits-quick").glob("*.jsonl")}
    assert {name: len(results.load(path)) for name, path in files.items()} == NUM_RECORDS


@pytest.mark.timeout(1000)
def test_what_was_trained_has_learnt_and_says_where_it_was_measured(built):
    records = results.load(built / "results" / "digits-quick" / "01_accuracy.jsonl")
    assert min(record.final_test_accuracy for record in records) > 0.9
    assert all(record.provenance["host"] and record.provenance["packages"]["torch"] for record in records)


@pytest.mark.timeout(1000)
def test_a_model_in_parts_learns_as_a_whole_one_and_one_that_does_not_fit_trains_in_parts(built):
    folder = built / "results" / "digits-quick"
    accuracy = comparison.accuracy(results.frame(results.load(folder / "05_accuracy.jsonl")), {"mlp": 0.5, "cnn": 0.5})
    same = accuracy[~accuracy["label"].str.startswith("weight averaging")]
    assert len(same) == 8 and same["accuracy_lost"].abs().max() < 0.003 and same["seconds_to_goal"].notna().all()
    large = [record for record in results.load(folder / "03_memory.jsonl") if record.experiment == "does_not_fit"]
    assert [(record.strategy, record.diverged) for record in large] == [("pipeline", False), ("tensor", False)]
    live = {record.label: record.memory[0]["activations"] for record in results.load(folder / "03_memory.jsonl")}
    assert live["1f1b, 16 micro-batches"] < live["gpipe, 16 micro-batches"] / 3


@pytest.mark.timeout(1000)
def test_every_chapter_has_its_numbers(built):
    page = (built / "html" / "model_parallelism.html").read_text()
    assert "glue" not in re.sub(r"<[^>]+>", " ", page)
    assert page.count("<figure") == 6


@pytest.mark.timeout(1000)
def test_the_report_has_every_number_and_figure_and_asks_the_network_for_nothing(built):
    for name, num_figures in (("index", 7), ("regimes", 6)):
        page = (built / "html" / f"{name}.html").read_text()
        text = re.sub(r"<[^>]+>", " ", page)
        assert "glue" not in text and "nan" not in text.split()
        assert page.count("<figure") == num_figures
        assert re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?|png|svg))"', page) == []
        assert str(ROOT) not in page


@pytest.mark.timeout(1000)
def test_a_build_that_goes_on_measures_nothing_again(built):
    folder = built / "results" / "digits-quick"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    process = run_python("report/build.py", "--folder", built, "--resume", timeout=900)
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    assert process.stdout.count("was finished before") == len(list(built.glob("finished/*/*/*.ipynb")))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_engines_take_over_runs_and_nothing_else(built):
    spec = importlib.util.spec_from_file_location("build", ROOT / "report" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    folder = built / "results" / "digits-quick"
    assert [build._is_resumable(folder / f"{name}.jsonl") for name in ("02_ladder", "00_allreduce")] == [True, False]


@pytest.mark.parametrize("name", ["00_check_your_machine", "01_train_the_serial_baseline",
                                  "02_train_with_data_parallelism", "03_train_with_model_parallelism",
                                  "05_compare_data_and_model_parallelism", "06_use_the_gpu_and_precision",
                                  "07_compare_with_cpp", "08_scale_over_nodes"])
def test_a_misspelt_parameter_is_refused_with_a_hint(name, tmp_path):
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", str(tmp_path / "out.ipynb"),
               "-p", "datset", "mnist"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode != 0
    assert "unknown parameter 'datset'; did you mean 'dataset'?" in process.stderr


def test_what_is_no_notebook_is_refused_as_a_page(tmp_path):
    process = run_python("report/build.py", "--page", tmp_path / "missing.ipynb")
    assert process.returncode == 2
    assert process.stderr.startswith("report: there is no notebook") and process.stderr.count("\n") == 1


def test_the_parameters_of_the_notebook_are_accepted():
    notebook.check_parameters(["", "# parameters\nseed = 1\nname: str = 'a'", "# Parameters\nseed = 2", "other = 3"])


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="unknown preset 'slow'; choose from quick, full"):
        notebook.choose("slow", quick=1, full=2)


def test_a_report_on_an_unknown_data_set_is_refused_in_one_line():
    process = run_python("report/build.py", "--dataset", "minst", timeout=60)
    assert process.returncode == 2
    assert process.stderr.strip().count("\n") == 0 and "did you mean 'mnist'" in process.stderr
