"""A run whose loss is no number any more ends at once, and its record says where."""

import json

from tests.conftest import run_python


def test_all_ranks_end_a_run_that_diverges(tmp_path):
    process = run_python(
        "-m",
        "nnpar_lib",
        "run",
        "--strategy",
        "pipeline",
        "--num-ranks",
        2,
        "--num-threads",
        1,
        "--num-epochs",
        50,
        "--lr",
        "1e9",
        "--out",
        tmp_path / "runs.jsonl",
    )
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "runs.jsonl").read_text())
    assert record["diverged"] and record["final_train_loss"] is None
    step = record["divergence"]["step"]
    assert record["divergence"] == {"step": step, "lr": 1e9}
    assert 1 < step <= record["num_steps"] < 1000  # of 4,700
    assert (
        f"the run diverged: the loss of step {step}, at a learning rate of 1e+09" in process.stderr
    )
