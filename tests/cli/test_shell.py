"""`python -m nnpar_lib` as people call it: alone, with ranks of its own, under mpiexec, and with
mistakes."""

import json
import os
import shutil

import pytest

from tests.conftest import mnist_files, run_mpi, run_python

QUICK = ("-m", "nnpar_lib", "run", "--num-steps", 12, "--num-threads", 1, "--global-batch-size", 65)
FIELDS = {
    "strategy",
    "model",
    "dataset",
    "num_ranks",
    "threads_per_rank",
    "global_batch_size",
    "optimizer",
    "num_steps",
    "train_seconds",
    "samples_per_second",
    "compute_seconds",
    "communicate_seconds",
    "final_test_accuracy",
    "final_train_loss",
    "weights_sha256",
    "num_parameters",
    "provenance",
}


def recorded(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_alone_prints_a_table_and_appends_a_record(tmp_path):
    for _ in range(2):
        process = run_python(*QUICK, "--out", tmp_path / "runs.jsonl")
        assert process.returncode == 0, process.stderr
        assert "samples/s" in process.stdout and "serial" in process.stdout
    first, second = recorded(tmp_path / "runs.jsonl")
    assert first.keys() >= FIELDS
    assert first["num_steps"] == 12 and first["num_parameters"] == 235_146
    assert first["weights_sha256"] == second["weights_sha256"]


def test_ranks_of_its_own_and_ranks_that_it_finds_train_alike(tmp_path):
    parallel = (*QUICK, "--strategy", "gradient_averaging", "--dtype", "float64", "--out")
    assert run_python(*QUICK, "--dtype", "float64", "--out", tmp_path / "serial").returncode == 0
    assert run_python(*parallel, tmp_path / "alone", "--num-ranks", 2).returncode == 0
    assert run_mpi(2, *parallel, tmp_path / "launched").returncode == 0
    serial, alone, launched = (
        recorded(tmp_path / name)[0] for name in ("serial", "alone", "launched")
    )
    assert alone["num_ranks"] == launched["num_ranks"] == 2
    assert alone["weights_sha256"] == launched["weights_sha256"]
    assert alone["final_train_loss"] == pytest.approx(serial["final_train_loss"], rel=1e-12)


def test_a_pipeline_leaves_a_trace_of_every_rank_and_micro_batch(tmp_path):
    process = run_python(
        *QUICK,
        "--strategy",
        "pipeline",
        "--num-ranks",
        2,
        "--num-microbatches",
        3,
        "--trace",
        tmp_path / "trace.json",
        "--out",
        tmp_path / "runs.jsonl",
    )
    assert process.returncode == 0, process.stderr
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    passes = [event for event in events if event.get("cat") in ("forward", "backward")]
    assert len(passes) == 10 * 2 * 2 * 3  # steps, ranks, directions, micro-batches
    (record,) = recorded(tmp_path / "runs.jsonl")
    assert all(memory["activations"] > 0 for memory in record["memory"])


def test_a_run_that_is_recorded_already_is_skipped(tmp_path):
    for _ in range(2):
        process = run_python(*QUICK, "--out", tmp_path / "runs.jsonl", "--skip-done")
        assert process.returncode == 0
    assert "already recorded" in process.stdout
    assert len(recorded(tmp_path / "runs.jsonl")) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "mpl"), ("mpl", "mlp")),
        (("--num-ranks", 0), ("num_ranks=0", "at least 1")),
        (
            ("--strategy", "gradient_averaging", "--num-ranks", 3, "--global-batch-size", 2),
            ("global_batch_size=2", "fewer"),
        ),
        (("--lr", -1), ("lr=-1", "0.1")),
        (("--lr", "fast"), ("fast",)),
        (("--stratgy", "serial"), ("--stratgy", "--strategy")),
        (("--device", "cuda"), ("cuda", "cpu")),
        (("--record", "--model", "cnn"), ("record", "model='cnn'", "'mlp'")),
        (
            ("--strategy", "gradient_averaging", "--allreduce", "nccl"),
            ("allreduce='nccl'", "allreduce='mpi'"),
        ),
        (
            ("--strategy", "gradient_averaging", "--num-ranks", 2, "--num-microbatches", 4),
            ("num_microbatches is not read by strategy gradient_averaging", "pipeline, hybrid"),
        ),
        (("--optimizer", "sgd", "--momentum", 0.9), ("not read by optimizer sgd", "nesterov")),
        (("--no-shard-data",), ("shard_data is not read by strategy serial", "root_worker")),
        (("--strategy", "cpp", "--trace", "trace.json"), ("num_traced_steps is not read by",)),
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_remedy(options, words):
    if "cuda" in options and shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU")
    process = run_python("-m", "nnpar_lib", "run", *options, timeout=60)
    assert process.returncode != 0
    assert process.stderr.strip().count("\n") == 0, process.stderr
    assert all(word in process.stderr for word in words)


def test_the_measurements_of_a_gpu_end_in_one_line_where_there_is_none(tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU")
    process = run_python("-m", "nnpar_lib", "gpu", "--out", tmp_path / "gpu.jsonl", timeout=60)
    assert process.returncode == 2
    assert process.stderr.strip().count("\n") == 0 and "needs a GPU" in process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "notes.txt"), "holds something else, and a file of records would be"),
        (("--num-repeats", 0), "must be at least 1"),
        (("--data-set", "digits"), "did you mean --dataset?"),
    ],
)
def test_sweep_speed_refuses_what_is_wrong_before_it_starts_engines(tmp_path, options, message):
    (tmp_path / "notes.txt").write_text('{"milk": 2}\n')
    options = [tmp_path / word if word == "notes.txt" else word for word in options]
    process = run_python("-m", "nnpar_lib", "sweep-speed", *options, timeout=60)
    assert process.returncode == 2
    assert process.stderr.strip().count("\n") == 0 and message in process.stderr


def test_data_that_is_missing_is_one_line_that_names_folder_and_remedy(tmp_path):
    process = run_python(
        "-m",
        "nnpar_lib",
        "run",
        "--dataset",
        "fashion_mnist",
        NNPAR_DATA=str(tmp_path),
        https_proxy="http://127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
        timeout=100,
    )
    assert process.returncode != 0
    assert process.stderr.strip().count("\n") == 0, process.stderr
    assert str(tmp_path) in process.stderr and "NNPAR_DATA" in process.stderr


@pytest.mark.usefixtures("real_mnist")
def test_a_damaged_file_is_one_line_that_names_it(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in mnist_files():
        os.symlink(path, raw / path.name)
    damaged = raw / "t10k-images-idx3-ubyte"
    contents = bytearray(damaged.read_bytes())
    contents[5_000] ^= 1
    damaged.unlink()
    damaged.write_bytes(contents)
    process = run_python(
        "-m", "nnpar_lib", "run", "--dataset", "mnist", NNPAR_DATA=str(tmp_path), timeout=60
    )
    assert process.returncode != 0
    assert process.stderr.strip().count("\n") == 0, process.stderr
    assert "t10k-images-idx3-ubyte" in process.stderr and "delete it" in process.stderr


@pytest.mark.usefixtures("real_mnist")
def test_an_epoch_of_mnist_is_learnt(tmp_path):
    process = run_python(
        "-m",
        "nnpar_lib",
        "run",
        "--dataset",
        "mnist",
        "--num-threads",
        1,
        "--out",
        tmp_path / "runs.jsonl",
    )
    assert process.returncode == 0, process.stderr
    assert recorded(tmp_path / "runs.jsonl")[0]["final_test_accuracy"] > 0.94
