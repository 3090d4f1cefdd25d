"""Records survive: appended, read back, torn by a crash, found again, and never a path of the
machine in them."""

import dataclasses
import json
import math
import os
import resource
from multiprocessing import Process
from pathlib import Path

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.records import store
from nnpar_lib.records.kinds import AllreduceRecord, RunRecord
from nnpar_lib.records.provenance import provenance
from tests.conftest import ROOT, run_python

CONFIG = RunConfig(strategy="gradient_averaging", num_ranks=2, hidden=(64, 32), seed=3)
ORIGIN = {"host": "here", "source_sha256": "abc", "version": "0"}


def record(**changes):
    values = {
        "strategy": CONFIG.strategy,
        "model": CONFIG.model,
        "dataset": CONFIG.dataset,
        "num_ranks": 2,
        "threads_per_rank": 1,
        "global_batch_size": 128,
        "optimizer": "momentum",
        "num_steps": 10,
        "num_examples": 1280,
        "train_seconds": 0.5,
        "samples_per_second": 2560.0,
        "compute_seconds": 0.4,
        "communicate_seconds": 0.1,
        "wait_seconds": None,
        "activity_seconds": {"forward": 0.4},
        "final_train_loss": 0.3,
        "final_test_accuracy": 0.9,
        "diverged": False,
        "weights_sha256": "00",
        "num_parameters": 7,
        "oversubscribed": False,
        "bound": True,
        "config": CONFIG.to_dict(),
        "provenance": ORIGIN,
    }
    return RunRecord(**{**values, **changes})


def allreduce_record(**changes):
    values = {
        "allreduce": "mpi",
        "num_ranks": 2,
        "num_elements": 1000,
        "dtype": "float32",
        "seconds": [1e-5, 2e-5],
        "provenance": ORIGIN,
        "oversubscribed": False,
    }
    return AllreduceRecord(**{**values, **changes})


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new" / "folder" / "runs.jsonl"


def test_what_is_appended_is_loaded_in_order(file):
    first = record()
    second = allreduce_record()
    third = record(repeat=1)
    store.append(file, [first])
    store.append(file, [second, third])
    assert store.load(file) == [first, second, third]
    assert [json.loads(line)["kind"] for line in file.read_text().splitlines()] == [
        "run",
        "allreduce",
        "run",
    ]


def test_appending_nothing_and_loading_nothing(file):
    assert store.load(file) == []
    store.append(file, [])
    assert store.load(file) == []


def test_a_record_is_on_the_disk_before_append_returns(file, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").resolve())
    )
    store.append(file, [record()])
    assert synced == [file]


@pytest.mark.parametrize("num_bytes", [1, 100, 5000])
def test_a_torn_line_costs_itself_alone(file, num_bytes):
    store.append(file, [record(), record(repeat=1)])
    whole = file.read_bytes()
    first_line = whole.index(b"\n") + 1
    assert len(whole) > first_line + 1
    file.write_bytes(whole[: min(first_line + num_bytes, len(whole) - 2)])
    assert store.load(file) == [record()]
    store.append(file, [record(repeat=2)])
    assert store.load(file) == [record(), record(repeat=2)]


def test_a_file_whose_end_alone_is_missing_loses_nothing(file):
    store.append(file, [record()])
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    store.append(file, [record(repeat=1)])
    assert store.load(file) == [record(), record(repeat=1)]


def test_bytes_that_are_no_text_are_a_torn_line(file):
    store.append(file, [record()])
    with file.open("ab") as stream:
        stream.write(b"\xff\x00\xfe")
    assert store.load(file) == [record()]


@pytest.mark.parametrize(
    "line", ['{"a": 1}', "[1, 2]", '{"kind": "run", "strategy": "serial"}', '{"kind": "other"}']
)
def test_another_kind_of_file_is_refused_by_name(file, line):
    store.append(file, [record()])
    file.write_text(line + "\n")
    with pytest.raises(ValueError, match="name another file") as caught:
        store.load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_is_strict_and_nothing_is_written_half(file, value):
    store.append(file, [record()])
    with pytest.raises(ValueError, match="JSON"):
        store.append(file, [record(repeat=1), record(final_train_loss=value)])
    assert store.load(file) == [record()]


def test_a_record_is_one_line(file):
    store.append(file, [record(experiment="two\nlines\u2028three")])
    assert file.read_bytes().count(b"\n") == 1
    assert store.load(file)[0].experiment == "two\nlines\u2028three"


@pytest.mark.parametrize(
    ("change", "num_found"),
    [
        ({}, 1),
        ({"config": CONFIG.replace(seed=4).to_dict()}, 0),
        ({"config": CONFIG.replace(hidden=(64, 33)).to_dict()}, 0),
        ({"experiment": "another"}, 0),
        ({"provenance": {**ORIGIN, "host": "there"}}, 0),
        ({"provenance": {**ORIGIN, "source_sha256": "abd"}}, 0),
        ({"provenance": {**ORIGIN, "load_average": 5.0}}, 1),
        ({"repeat": 7, "final_test_accuracy": 0.1}, 1),
    ],
)
def test_a_run_is_found_again_by_what_makes_it(file, change, num_found):
    store.append(file, [allreduce_record(), record(**change)])
    assert len(store.find_done(store.load(file), CONFIG, "", ORIGIN)) == num_found


def test_a_frame_has_a_row_each_and_the_columns_of_config():
    frame = store.frame([record(), record(repeat=1, final_train_loss=None)])
    assert len(frame) == 2
    assert frame["seed"].tolist() == [3, 3]
    assert frame["host"].tolist() == ["here", "here"]
    assert frame["repeat"].tolist() == [0, 1]
    assert frame["num_steps"].tolist() == [
        10,
        10,
    ]  # what was done and not `config`'s limit, which is None
    assert "config" not in frame
    assert len(store.frame([])) == 0


def test_records_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        record().num_ranks = 3


def test_provenance_says_what_made_a_number_without_a_path_of_the_machine():
    text = json.dumps(provenance(), allow_nan=False)
    assert {
        "version",
        "source_sha256",
        "commit",
        "dirty",
        "host",
        "cpu",
        "num_cores",
        "threads_per_core",
        "memory_gib",
        "system",
        "python",
        "packages",
        "mpi",
        "load_average",
        "started_at",
    } == set(json.loads(text))
    for folder in (
        Path.home(),
        Path.cwd(),
        Path(store.__file__).parent,
        Path("/usr"),
        Path("/tmp"),
    ):
        if len(folder.parts) > 1:
            assert f"{folder}/" not in text
    assert {"torch", "mpi4py", "numpy"} <= set(provenance()["packages"])


def test_cores_are_counted_as_they_were_before_a_run_bound_the_process():
    code = (
        "import os\nfrom nnpar_lib.records import provenance\ncores = os.sched_getaffinity(0)\n"
        "os.sched_setaffinity(0, {min(cores)})\nprint(provenance.num_cores() - len(cores))"
    )
    process = run_python("-c", code, timeout=60)
    assert process.stdout.strip() == "0", process.stderr


def test_two_writers_of_one_file_do_not_mix_their_lines(file):
    writers = [Process(target=append_many, args=(file, number)) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = store.load(file)
    assert len(file.read_bytes().splitlines()) == len(records) == 80
    assert sorted((run.label, run.repeat) for run in records) == [
        (str(n), r) for n in range(2) for r in range(40)
    ]


def append_many(path, number):
    for repeat in range(40):
        store.append(path, [record(label=str(number), repeat=repeat, events=[["x" * 20_000]])])


def test_a_record_for_which_there_is_no_room_leaves_the_file_as_it_was(file):
    store.append(file, [record()])
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            store.append(file, [record(repeat=1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before


def test_merging_adds_what_is_missing_once(tmp_path):
    first, second, out = (tmp_path / name for name in ("first", "second", "all"))
    store.append(first, [record(), record(repeat=1)])
    store.append(second, [record(repeat=1), record(repeat=2)])
    with second.open("a") as torn:
        torn.write('{"kind": "run", "strat')
    assert store.merge(out, [first]) == (2, 0)
    assert store.merge(out, [first, second]) == (1, 2)
    assert [run.repeat for run in store.load(out)] == [0, 1, 2]
    with pytest.raises(ValueError, match="there is no file"):
        store.merge(out, [tmp_path / "none"])


def test_repeats_that_are_recorded_are_found_by_config_and_repeat(file):
    reseeded = CONFIG.replace(seed=4)
    store.append(
        file, [record(repeat=1), record(repeat=5), record(repeat=0, config=reseeded.to_dict())]
    )
    done = store.find_repeats(file, [CONFIG, reseeded], 2, "", ORIGIN)
    assert set(done) == {(1, 0), (0, 1)}
    assert store.find_repeats(None, [CONFIG], 2, "", ORIGIN) == {}


def test_a_resumed_control_is_not_taken_for_what_it_controls(tmp_path):
    file = tmp_path / "records.jsonl"
    store.append(file, [record(weights_sha256="first"), record(label="control")])
    done = store.find_repeats(file, [CONFIG, CONFIG], 1, "", ORIGIN, ["", "control"])
    assert (done[0, 0].weights_sha256, done[0, 1].label) == ("first", "control")


def test_records_from_before_communicator_went_into_allreduce_are_read(tmp_path):
    stored = (ROOT / "report/results/mnist-full/03_balance.jsonl").read_text().splitlines()[0]
    values = json.loads(stored)
    for communicator, allreduce in (("mpi", "shared"), ("nccl", "nccl")):
        values["config"] |= {"communicator": communicator, "allreduce": "shared"}
        path = tmp_path / f"{communicator}.jsonl"
        path.write_text(f"{json.dumps(values)}\n")
        (record,) = store.load(path)
        assert record.config["allreduce"] == allreduce
