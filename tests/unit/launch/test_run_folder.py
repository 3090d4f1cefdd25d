"""A run's folder: in memory where there is room, removed at the end or by the next start."""

import os
import signal
import subprocess
import sys

import pytest

from nnpar_lib.launch.run_folder import MARKER, PREFIX, run_folder
from tests.conftest import ROOT

HOLDER = """
import sys, time
from nnpar_lib.launch.run_folder import run_folder
with run_folder(parents=[sys.argv[1]]) as folder:
    print(folder, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that has a folder in `tmp_path`; return it and the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_it_is_removed_at_the_end(tmp_path):
    with run_folder(parents=[str(tmp_path)]) as folder:
        assert os.path.isdir(folder)
    assert os.listdir(tmp_path) == []


def test_the_next_start_removes_that_of_a_run_that_died(holder, tmp_path):
    process, folder = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.path.isdir(folder)
    with run_folder(parents=[str(tmp_path)]):
        assert not os.path.exists(folder)


def test_the_next_start_leaves_that_of_a_run_that_goes_on(holder, tmp_path):
    with run_folder(parents=[str(tmp_path)]):
        assert os.path.isdir(holder[1])


def test_what_it_did_not_make_stays(tmp_path):
    (tmp_path / f"{PREFIX}results").mkdir()
    (tmp_path / f"{PREFIX}file").write_text(MARKER)
    with run_folder(parents=[str(tmp_path)]):
        pass
    assert len(os.listdir(tmp_path)) == 2


def test_another_folder_is_taken_where_there_is_no_room(tmp_path):
    with run_folder(2**20, [str(tmp_path / "absent"), "/proc", str(tmp_path)]) as folder:
        assert os.path.dirname(folder) == str(tmp_path)


def test_no_room_anywhere_is_one_line(tmp_path):
    with (
        pytest.raises(ValueError, match=r"needs 1,125,899,906,842,624 bytes of room .* TMPDIR"),
        run_folder(2**50, [str(tmp_path / "absent"), str(tmp_path)]),
    ):
        pass
