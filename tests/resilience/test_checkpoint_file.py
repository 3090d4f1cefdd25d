"""The file of a checkpoint: every bit of it is covered by its digest."""

import dataclasses
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from nnpar_lib.config import RunConfig
from nnpar_lib.records import checkpoint_file
from nnpar_lib.records.checkpoint_file import Header

CONFIG = RunConfig(hidden=(16,), num_steps=4)
TENSORS = {"parameter.0": torch.tensor([1.0, -2.0]), "step.0": torch.tensor([3, 4])}
PROGRESS = {"num_steps": 2, "num_examples": 256, "history": [], "loss_sum": 1.5}
HEADER = Header(config=CONFIG.to_dict(), progress=PROGRESS, numbers=[{}], counters=[{}])


@pytest.fixture
def memory(tmp_path):
    """Return a folder in memory where there is one: a hundred thousand writes cost nothing."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    folder = shared / f"nnpar-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture
def small(memory):
    path = memory / "small.ckpt"
    checkpoint_file.write(path, TENSORS, HEADER)
    return path


def read(path):
    """Read all of a checkpoint; return its header."""
    header = checkpoint_file.check(path, CONFIG)
    checkpoint_file.read_tensors(path)
    return header


def problem_of(path):
    """Return what is said against a checkpoint, nothing where it is taken for whole."""
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return ""


def test_every_flipped_bit_is_refused_in_one_line_that_names_the_file(small):
    num_bits = 8 * small.stat().st_size
    badly_refused = []
    with small.open("r+b", buffering=0) as file:
        contents = small.read_bytes()
        for bit in range(num_bits):
            flipped = bytes([contents[bit // 8] ^ (1 << bit % 8)])
            os.pwrite(file.fileno(), flipped, bit // 8)
            problem = problem_of(small)
            if str(small) not in problem or "\n" in problem:
                badly_refused.append((bit, contents[max(0, bit // 8 - 20) : bit // 8 + 5]))
            os.pwrite(file.fileno(), contents[bit // 8 : bit // 8 + 1], bit // 8)
    assert problem_of(small) == ""
    assert badly_refused == []


def test_concurrent_writers_leave_a_whole_file_at_any_moment(small):
    def write_often():
        for _ in range(100):
            checkpoint_file.write(small, TENSORS, HEADER)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write_often) for _ in range(2)]
        problems = set()
        while not all(writer.done() for writer in writers):
            problems.add(problem_of(small))
    assert [writer.result() for writer in writers] == [None, None]
    assert problems == {""}
    assert [path.name for path in small.parent.iterdir()] == ["small.ckpt"]


def test_a_file_of_the_old_format_is_read(memory):
    digest = hashlib.sha256()
    for name, tensor in sorted(TENSORS.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    values = {**dataclasses.asdict(HEADER), "sha256": digest.hexdigest(), "format": 1}
    path = memory / "old.ckpt"
    path.write_bytes(save(TENSORS, {"nnpar": json.dumps(values)}))
    assert read(path).progress == PROGRESS
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert "old.ckpt is damaged" in problem_of(path)


def test_files_of_others_are_refused(memory):
    path = memory / "other.ckpt"
    path.write_bytes(save(TENSORS))
    assert problem_of(path).startswith(f"{path} is no checkpoint of nnpar")
    values = {**dataclasses.asdict(HEADER), "format": 3}
    path.write_bytes(save(TENSORS, {"nnpar": json.dumps(values)}))
    assert "has the format 3 of checkpoints, and this version reads 1 and 2" in problem_of(path)


def test_a_run_that_is_over_is_taken_and_one_beyond_it_is_refused(small):
    assert checkpoint_file.check(small, CONFIG.replace(num_steps=2)).progress == PROGRESS
    with pytest.raises(ValueError, match="is from step 2, beyond the 1 steps of this run"):
        checkpoint_file.check(small, CONFIG.replace(num_steps=1))


def test_a_config_of_another_version_is_refused_by_the_name_of_the_file(small):
    header = dataclasses.replace(HEADER, config={**HEADER.config, "model": "rnn"})
    checkpoint_file.write(small, TENSORS, header)
    assert problem_of(small).startswith(f"{small} was written by a run that this version cannot do")


def test_a_number_that_is_not_finite_is_no_header(small):
    header = dataclasses.replace(HEADER, progress={**PROGRESS, "loss_sum": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoint_file.write(small, TENSORS, header)
    assert read(small).progress == PROGRESS


def test_a_file_that_cannot_be_read_is_refused(small):
    small.parent.chmod(0o755)
    small.chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may read everything
    try:
        problem = problem_of(small)
    finally:
        os.seteuid(user)
    assert problem.startswith(f"{small} cannot be read (Permission denied)")


def test_a_link_to_a_checkpoint_stays_a_link(small):
    link = small.with_name("link")
    link.symlink_to(small)
    checkpoint_file.write(link, TENSORS, dataclasses.replace(HEADER, counters=[{"steps": 1}]))
    assert link.is_symlink() and read(small).counters == [{"steps": 1}]
