"""Records of runs: checked before they are sent, kept as they arrive."""

import json
import resource
import time

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.launch.engines import RankError, engines
from nnpar_lib.launch.tasks import TASKS
from nnpar_lib.records import store

SERIAL = RunConfig(strategy="serial", num_ranks=1)
PARALLEL = RunConfig(strategy="gradient_averaging", num_ranks=2)
SMALL = {"num_steps": 3, "global_batch_size": 16, "hidden": [8], "num_warmup_steps": 0}


def measured_by(monkeypatch, function):
    monkeypatch.setitem(TASKS, "run_interleaved", f"spmd_functions.{function}")


def kept(path):
    return [(record.strategy, record.repeat) for record in store.load(path)]


def test_records_come_back_in_order_and_lie_in_the_file(shared_engines, tmp_path, monkeypatch):
    measured_by(monkeypatch, "measure")
    path = tmp_path / "deep" / "records.jsonl"
    records = shared_engines.run_interleaved(
        [SERIAL, PARALLEL], num_repeats=2, experiment="try", results_file=path
    )
    assert [(record.strategy, record.repeat) for record in records] == [
        ("serial", 0),
        ("gradient_averaging", 0),
        ("serial", 1),
        ("gradient_averaging", 1),
    ]
    assert {record.experiment for record in records} == {"try"}
    assert store.load(path) == records


def test_a_record_is_in_the_file_before_the_next_run_is_over(shared_engines, tmp_path, monkeypatch):
    measured_by(monkeypatch, "measure_slowly")
    path = tmp_path / "records.jsonl"
    seen = []
    shared_engines.run_interleaved(
        [SERIAL],
        num_repeats=3,
        results_file=path,
        progress=lambda *_: seen.append(len(store.load(path))),
    )
    assert seen == [0, 1, 2]


def test_a_record_whose_line_was_lost_is_taken_from_what_is_returned(
    shared_engines, tmp_path, monkeypatch
):
    measured_by(monkeypatch, "measure_with_a_lost_line")
    path = tmp_path / "records.jsonl"
    records = shared_engines.run_interleaved([SERIAL], num_repeats=3, results_file=path)
    assert sorted(record.repeat for record in records) == [0, 1, 2]
    assert store.load(path) == records


def test_what_was_measured_before_a_failure_is_kept(
    spmd_functions_importable, tmp_path, monkeypatch
):
    measured_by(monkeypatch, "measure_and_fail_at_the_third")
    path = tmp_path / "records.jsonl"
    start = time.monotonic()
    with (
        engines(2) as running,
        pytest.raises(RankError, match="rank 1 raised FloatingPointError") as caught,
    ):
        start = time.monotonic()
        running.run_interleaved([SERIAL, PARALLEL], num_repeats=2, results_file=path)
    assert time.monotonic() - start < 6
    assert kept(path) == [("serial", 0), ("gradient_averaging", 0)]
    assert any("2 records" in note and str(path) in note for note in caught.value.__notes__)


def test_one_run_gives_one_record(shared_engines, tmp_path, monkeypatch):
    measured_by(monkeypatch, "measure")
    path = tmp_path / "records.jsonl"
    record = shared_engines.run(PARALLEL, experiment="once", results_file=str(path))
    assert (record.strategy, record.experiment) == ("gradient_averaging", "once")
    assert store.load(path) == [record]


def test_a_config_with_too_many_ranks_is_refused_before_any_runs(
    shared_engines, tmp_path, monkeypatch
):
    measured_by(monkeypatch, "measure")
    path = tmp_path / "records.jsonl"
    configs = [SERIAL, PARALLEL.replace(num_ranks=3)]
    with pytest.raises(ValueError, match=r"num_ranks=3 .* 2 engines .*engines\(3\)"):
        shared_engines.run_interleaved(configs, results_file=path)
    assert not path.exists()


def test_no_repeats_are_refused(shared_engines):
    with pytest.raises(ValueError, match="num_repeats=0"):
        shared_engines.run_interleaved([SERIAL], num_repeats=0)


@pytest.mark.every_mpi
def test_real_training_on_one_and_two_ranks(shared_engines, tmp_path):
    path = tmp_path / "records.jsonl"
    configs = [SERIAL.replace(**SMALL), PARALLEL.replace(**SMALL)]
    records = shared_engines.run_interleaved(
        dict(zip("ab", configs, strict=True)), num_repeats=2, experiment="real", results_file=path
    )
    assert [record.label for record in records] == ["a", "b"] * 2
    assert [record.num_ranks for record in records] == [1, 2, 1, 2]
    assert [record.config for record in records] == [config.to_dict() for config in configs * 2]
    assert store.load(path) == records


def test_a_record_for_which_there_is_no_room_is_printed_and_the_note_says_so(
    spmd_functions_importable, tmp_path, monkeypatch, capsys
):
    measured_by(monkeypatch, "measure_and_fail_at_the_third")
    path = tmp_path / "records.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with engines(2) as running, pytest.raises(RankError) as caught:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # this process can write no file
        try:
            running.run_interleaved([SERIAL, PARALLEL], num_repeats=2, results_file=path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr()
    printed = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    assert [record["strategy"] for record in printed] == ["serial", "gradient_averaging"]
    assert f"could not be written to {path} (File too large)" in said.err
    (note,) = caught.value.__notes__
    assert f"are above (2) and in {path} (0)" in note
    assert path.read_bytes() == b""


def test_a_results_file_that_cannot_be_written_is_refused_before_anything_runs(
    shared_engines, tmp_path, monkeypatch
):
    measured_by(monkeypatch, "measure")
    trace = tmp_path / "trace.json"
    trace.write_text('{"traceEvents": []}')
    progress = []
    for path, words in (
        ("/proc/records.jsonl", "cannot be written"),
        (tmp_path, "is a folder"),
        (trace, "holds a trace"),
    ):
        with pytest.raises(ValueError, match=words):
            shared_engines.run_interleaved(
                [SERIAL], results_file=path, progress=lambda *now: progress.append(now)
            )
        assert progress == []
