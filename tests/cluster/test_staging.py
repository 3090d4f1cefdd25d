"""Data are copied to the scratch folder of a node whole, whatever an earlier copy left there."""

import os
import subprocess

import pytest

from tests.conftest import ROOT


@pytest.fixture
def folders(tmp_path):
    source = tmp_path / "source"
    (source / "MNIST" / "raw").mkdir(parents=True)
    (source / "MNIST" / "raw" / "images").write_bytes(b"images" * 1000)
    (source / "MNIST" / "a name with spaces").write_bytes(b"labels")
    return source, tmp_path / "scratch"


def stage(source, target):
    command = f'source cluster/job.sh; copy_folder "{source}" "{target}"'
    return subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PROJECT_STORAGE": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_folder_is_copied(folders):
    source, target = folders
    assert stage(source, target).returncode == 0
    assert contents(target) == contents(source)


def test_an_interrupted_copy_that_is_newer_than_its_source_is_mended(folders):
    source, target = folders
    stage(source, target)
    (target / "MNIST" / "raw" / "images").write_bytes(b"images" * 10)
    (target / "MNIST" / "raw" / "images.part").write_bytes(b"im")
    assert stage(source, target).returncode == 0
    assert contents(target) == contents(source)


def test_a_file_that_was_copied_is_not_copied_again(folders):
    source, target = folders
    stage(source, target)
    before = (target / "MNIST" / "raw" / "images").stat()
    stage(source, target)
    assert (target / "MNIST" / "raw" / "images").stat().st_ino == before.st_ino


def test_a_copy_that_fails_says_so(folders):
    source, target = folders
    target.write_text("no folder")
    process = stage(source, target)
    assert process.returncode != 0 and str(target) in process.stderr
