"""The program in C++ by itself: mistakes are one line and a status on all ranks; its records are
the library's."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.config.sections import passed_to_native
from nnpar_lib.launch import native, native_build
from nnpar_lib.records import store
from tests.conftest import ROOT, mpiexec, run_python

IMAGES = "train-images-idx3-ubyte"


def call(program, *words, num_ranks=1):
    """Run the program as a person would; return the finished process."""
    command = [str(program), *map(str, words)]
    if num_ranks > 1:
        return mpiexec("-n", num_ranks, *command)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def data(tmp_path):
    """Return a copy of the digits' files, to be damaged."""
    return Path(shutil.copytree(native._data("digits"), tmp_path / "data"))


def complaints(process):
    return [line for line in process.stderr.splitlines() if line.startswith("nnpar: ")]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--stratgy", "cpp"), ("--stratgy", "--help")),
        (("--lr", "fast"), ("--lr fast", "0.1")),
        (("--lr", "-1"), ("--lr -1",)),
        (("--hidden", "256,,8"), ("hidden", "whole number")),
        (("--hidden", "900000,900000"), ("parameters", "narrower")),
        (("--global-batch-size", "12001"), ("12001", "12000")),
        (("--num-threads", "0"), ("num-threads 0", "from 1")),
        (("--optimizer", "adam"), ("adam", "sgd, momentum")),
        (
            ("--strategy", "cpp_weight_averaging", "--allreduce", "overlapped"),
            ("overlapped", "mpi"),
        ),
        (("--weights", "nowhere"), ("nowhere", "cannot be read")),
        (("--seed",), ("--seed", "needs a value")),
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_remedy(build, data, words, parts):
    process = call(build("release"), "--data", data, *words)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert all(part in process.stderr for part in parts), process.stderr


def damage(data, how):
    path = data / IMAGES
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"truncated": content[:-1], "cut in its header": content[:7], "text": b"hello" * 9}[how]
        )


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("how", ["missing", "truncated", "cut in its header", "text"])
def test_a_damaged_file_is_named_once_and_ends_all_ranks(build, data, how, num_ranks):
    damage(data, how)
    process = call(build("release"), "--data", data, num_ranks=num_ranks)
    assert process.returncode != 0
    assert len(complaints(process)) == 1 and IMAGES in complaints(process)[0]


def test_what_is_wrong_on_one_rank_alone_ends_all_of_them(build, data):
    one = [str(build("release")), "--data", str(data)]
    process = mpiexec("-n", 1, *one, ":", "-n", 1, *one[:-1], data / "elsewhere")
    assert process.returncode != 0
    assert len(complaints(process)) == 1 and "elsewhere" in complaints(process)[0]


def test_files_of_another_size_are_refused(build, data):
    (data / "weights").write_bytes(b"1234")
    process = call(build("release"), "--data", data, "--weights", data / "weights")
    assert process.returncode == 2 and "4 bytes instead of" in process.stderr


def test_help_names_every_option_of_the_program(build):
    process = call(build("serial"), "--help")
    assert process.returncode == 0
    names = set(passed_to_native()) - {"num_ranks"}  # the launcher tells them
    assert {f"--{name.replace('_', '-')}" for name in names} <= set(
        re.findall(r"--[a-z-]+", process.stdout)
    )


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_alone_it_draws_its_own_start_and_writes_a_record_of_the_library(
    build, data, num_ranks, tmp_path
):
    process = call(
        build("release"),
        "--data",
        data,
        "--lr",
        0.05,
        "--out",
        tmp_path / "runs.jsonl",
        num_ranks=num_ranks,
    )
    assert process.returncode == 0, process.stderr
    (record,) = store.load(tmp_path / "runs.jsonl")
    assert (
        record.num_ranks == num_ranks and record.num_examples == 12_000 and record.num_steps == 94
    )
    assert record.final_test_accuracy > 0.8
    assert record.train_seconds == pytest.approx(sum(record.activity_seconds.values()), rel=0.2)
    assert record.provenance["blas"].startswith("OpenBLAS")


def test_the_shell_runs_it_like_any_other_strategy(tmp_path):
    process = run_python(
        "-m",
        "nnpar_lib",
        "run",
        "--strategy",
        "cpp",
        "--num-ranks",
        2,
        "--num-steps",
        12,
        "--out",
        tmp_path / "runs.jsonl",
    )
    assert process.returncode == 0, process.stderr
    (record,) = store.load(tmp_path / "runs.jsonl")
    assert record.strategy == "cpp" and record.num_ranks == 2 and len(record.weights_sha256) == 64
    assert RunConfig.from_parameters(record.config).num_steps == 12
    assert record.provenance["packages"]["torch"] and record.provenance["compiler"]


def test_what_it_does_not_offer_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match="optimizer='adam' is not offered"):
        RunConfig(strategy="cpp", optimizer="adam")
    with pytest.raises(ValueError, match="no program in C"):
        native.run(RunConfig())


def source_files():
    return sorted(map(str, (ROOT / "cpp" / "src").iterdir()))


def test_the_source_is_formatted():
    tool = native_build.find_tool("clang-format")
    process = subprocess.run(
        [tool, "--dry-run", "--Werror", *source_files()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]


def test_clang_tidy_finds_nothing(build):
    folder = build("release").parent
    files = [name for name in source_files() if name.endswith(".cpp") and "single" not in name]
    runner = Path(native_build.find_tool("clang-tidy")).with_name("run-clang-tidy.py")
    process = subprocess.run(
        [
            sys.executable,
            str(runner),
            "-clang-tidy-binary",
            native_build.find_tool("clang-tidy"),
            "-p",
            str(folder),
            "-quiet",
            "-j",
            "2",
            *files,
        ],
        cwd=ROOT / "cpp",
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]


def test_files_stay_short():
    assert [name for name in source_files() if len(Path(name).read_text().splitlines()) > 299] == []
