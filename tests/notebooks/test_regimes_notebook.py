"""The notebook of scaling regimes, run as a reader runs it, and what it leaves."""

import nbformat
import pytest

from nnpar_lib import regimes_study, results
from nnpar_lib.analysis import parallel_trials
from tests.conftest import ROOT, run_python

NOTEBOOKS = ROOT / "notebooks"
NOTEBOOK = NOTEBOOKS / "04_find_the_scaling_regimes.ipynb"


@pytest.mark.timeout(600)
def test_the_quick_study_finds_steps_at_every_batch_size(tmp_path):
    process = run_python("-m", "papermill", NOTEBOOK, tmp_path / "out.ipynb", "--cwd", NOTEBOOKS,
                         "-p", "results_folder", tmp_path, timeout=500)
    assert process.returncode == 0, process.stderr[-3000:]
    runs = regimes_study.read(tmp_path / "04_mlp_sgd.json")
    assert sorted(runs["batch_size"].unique()) == [8, 16, 32, 64, 128, 256]
    steps = runs[runs["stage"] == "estimate"].groupby(["goal_error", "batch_size"])["steps"].median().unstack()
    assert (steps[8] > 2 * steps[256]).all()
    records = results.frame(results.load(tmp_path / "04_runs.jsonl"))
    assert records["kind"].value_counts().to_dict() == {"run": 24, "trial": 18, "norms": 1}
    counts = parallel_trials.equal_counts(records[records["experiment"] == "regimes_ranks"])
    assert (counts["num_equal"] == counts["num_pairs"]).all() and counts["num_pairs"].sum() == 4
    outputs = [output for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for output in cell.get("outputs", [])]
    said = "".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert "The slope of steps against the batch is -" in said and "nan" not in said


def test_a_misspelt_parameter_is_refused_with_a_hint(tmp_path):
    process = run_python("-m", "papermill", NOTEBOOK, tmp_path / "out.ipynb", "--cwd", NOTEBOOKS,
                         "-p", "optimiser", "adam", timeout=60)
    assert process.returncode != 0
    assert "unknown parameter 'optimiser'; did you mean 'optimizer'?" in process.stderr
