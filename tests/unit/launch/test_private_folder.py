"""Folders of runs that died are removed at the next start, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnpar_lib.config import environment
from nnpar_lib.launch.private_folder import PrivateFolder

DIE = """
import os, sys
from nnpar_lib.launch.private_folder import PrivateFolder
print(PrivateFolder(parent=sys.argv[1]).path, flush=True)
os._exit(1)
"""


def folder_of_a_dead_run(parent):
    process = subprocess.run(
        [sys.executable, "-c", DIE, str(parent)], capture_output=True, text=True, check=False
    )
    return Path(process.stdout.strip())


def test_the_folder_of_a_dead_run_is_removed_at_the_next_start(tmp_path):
    dead = folder_of_a_dead_run(tmp_path)
    assert dead.is_dir()
    with PrivateFolder(parent=tmp_path) as folder:
        assert sorted(tmp_path.iterdir()) == [Path(folder)]
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_living_run_stays(tmp_path):
    with PrivateFolder(parent=tmp_path) as first, PrivateFolder(parent=tmp_path):
        assert Path(first).is_dir()


def test_the_folder_of_another_user_stays(tmp_path, monkeypatch):
    dead = folder_of_a_dead_run(tmp_path)
    other_user = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other_user)
    with PrivateFolder(parent=tmp_path):
        assert dead.is_dir()


def test_memory_without_room_is_no_folder_for_messages(monkeypatch):
    assert environment.memory_folder(2**60) is None
    monkeypatch.setattr(environment, "MEMORY_FOLDER", "/nosuch")
    assert environment.memory_folder() is None


def test_no_room_anywhere_is_one_line():
    with pytest.raises(ValueError, match=r"needs 1,125,899,906,842,624 bytes .* TMPDIR"):
        PrivateFolder(num_bytes=2**50)
