"""Outputs are written to files of their own kind only, and no two to the same file."""

import json
import os
import sqlite3

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.launch import preflight
from nnpar_lib.records import outputs
from tests.conftest import ROOT, limited_files, run_python

RECORDS = ROOT / "report" / "results" / "bench.jsonl"


def refused(**named):
    with pytest.raises(ValueError) as caught:
        outputs.check(named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def files(tmp_path):
    """Return a file of each kind, and one of something else."""
    paths = {
        kind: tmp_path / name
        for kind, name in (
            (outputs.RECORDS, "runs.jsonl"),
            (outputs.TRACE, "trace.json"),
            (outputs.STUDY, "study.json"),
            (outputs.CHECKPOINT, "run.ckpt"),
            (outputs.STORAGE, "sweep.db"),
            (outputs.SOMETHING_ELSE, "package.json"),
        )
    }
    with RECORDS.open() as file:
        paths[outputs.RECORDS].write_text(file.readline())
    paths[outputs.TRACE].write_text(json.dumps({"traceEvents": []}))
    paths[outputs.STUDY].write_text(json.dumps({"study": {}, "runs": []}))
    paths[outputs.CHECKPOINT].write_bytes(
        b"\x20\0\0\0\0\0\0\0" + b'{"__metadata__":{"nnpar":"{}"}}'
    )
    with sqlite3.connect(paths[outputs.STORAGE]) as connection:
        connection.execute("create table studies (name text)")
    paths[outputs.SOMETHING_ELSE].write_text(json.dumps({"name": "a"}, indent=1))
    return paths


def test_every_kind_is_known_by_its_contents(files):
    assert {kind: outputs.kind_of(path) for kind, path in files.items()} == {
        kind: kind for kind in files
    }


def test_a_file_of_another_kind_is_refused_and_left_as_it_is(files):
    for kind in (*outputs.BEGINNINGS, outputs.RECORDS):
        for present, path in files.items():
            before = path.read_bytes()
            if kind == present:
                outputs.check({"--out": (path, kind)})
            elif (kind, present) != (outputs.CHECKPOINT, outputs.SOMETHING_ELSE):
                assert f"--out='{path}' holds {present}" in refused(**{"--out": (path, kind)})
            assert path.read_bytes() == before


def test_records_with_a_line_torn_by_a_crash_are_records(files):
    path = files[outputs.RECORDS]
    line = path.read_bytes()
    for contents in (line[:100], line[:100] + b"\n" + line, b"\n" + line):
        path.write_bytes(contents)
        assert outputs.kind_of(path) == outputs.RECORDS


def test_devices_pipes_and_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/full", "/dev/null", tmp_path / "pipe"):
        assert "is a device or a pipe" in refused(out=(path, outputs.RECORDS))
    assert "is a folder" in refused(out=(tmp_path, outputs.TRACE))
    with pytest.raises(ValueError, match="is a device or a pipe"):
        preflight.check(RunConfig(checkpoint=str(tmp_path / "pipe")))


def test_one_file_for_two_outputs_is_refused_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.touch()
    (tmp_path / "hard").hardlink_to(empty)
    (tmp_path / "soft").symlink_to(empty)
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for path, other in (
        ("empty", "hard"),
        ("soft", "hard"),
        ("empty", empty),
        ("new", tmp_path / "new"),
        ("dangling", "./new"),
    ):
        problem = refused(trace=(path, outputs.TRACE), out=(other, outputs.RECORDS))
        assert "trace and out are the same file" in problem


def test_a_check_leaves_no_file_but_that_of_records(tmp_path):
    outputs.check(
        {
            "out": (tmp_path / "deep" / "runs.jsonl", outputs.RECORDS),
            "trace": (tmp_path / "trace.json", outputs.TRACE),
            "storage": (None, outputs.STORAGE),
        }
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["runs.jsonl"]
    assert "cannot be written" in refused(out=("/proc/runs.jsonl", outputs.RECORDS))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("run", "--trace", "runs.jsonl"), "holds a file of records"),
        (("run", "--trace", "/dev/full"), "is a device"),
        (("run", "--out", "new", "--trace", "./new"), "are the same file"),
        (("run", "--out", "new", "--checkpoint", "new"), "are the same file"),
        (("regimes", "--storage", "sweep.db", "--out", "sweep.db"), "holds a storage"),
        (("results", "merge", "--out", "study.json", "runs.jsonl"), "holds the tables of a study"),
    ],
)
def test_a_shell_refuses_in_one_line_and_changes_nothing(files, tmp_path, options, words):
    before = {kind: path.read_bytes() for kind, path in files.items()}
    line = "import os, sys, nnpar_lib.__main__ as m; os.chdir(sys.argv.pop(1)); sys.exit(m.main())"
    process = run_python("-c", line, tmp_path, *options)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1 and words in process.stderr, process.stderr
    assert {kind: path.read_bytes() for kind, path in files.items()} == before


def test_a_text_without_room_leaves_what_was_there(tmp_path):
    path = tmp_path / "study.json"
    outputs.replace_text(path, "before")
    with limited_files(3), pytest.raises(OSError, match="File too large"):
        outputs.replace_text(path, "after it")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
