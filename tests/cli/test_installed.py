"""Commands about the installation itself: which MPI, which versions, the notebooks."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT, run_python


def nnpar(*words, **environment):
    return run_python("-m", "nnpar_lib", *words, **environment)


def test_the_mpi_command_names_the_mpi_its_settings_and_does_an_all_reduce():
    process = nnpar("mpi", "--num-ranks", 3)
    assert process.returncode == 0, process.stderr
    first, second, *settings, last = process.stdout.splitlines()
    assert first.startswith("mpiexec: ") and "beside Python" in first
    assert second.startswith("library: ")
    assert settings and all("=" in line and "(" in line for line in settings)
    assert last.startswith("3 ranks summed 6 in ") and "MPI" in last


@pytest.mark.parametrize(
    ("words", "variables", "complaint"),
    [
        (("--num-ranks", "0"), {}, "--num-ranks 0 is too small"),
        ((), {"NNPAR_MPIEXEC": "nowhere"}, "NNPAR_MPIEXEC='nowhere' is no program"),
        ((), {"NNPAR_MPIEXEC": "false"}, "2 ranks cannot do an all-reduce"),
    ],
)
def test_what_is_wrong_with_an_mpi_is_one_line(words, variables, complaint):
    process = nnpar("mpi", *words, **variables)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert complaint in line


def test_a_process_without_a_home_folder_starts_ranks():
    command = ["env", "-u", "HOME", sys.executable, "-m", "nnpar_lib", "mpi"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1].startswith("2 ranks summed 3 in ")


def test_the_version_names_nnpar_torch_and_the_mpi():
    process = nnpar("--version")
    assert process.returncode == 0
    names = [line.split()[0] for line in process.stdout.splitlines()]
    assert names[:3] == ["nnpar", "torch", "mpi4py"]
    assert "MPI" in process.stdout.splitlines()[3]


def test_notebooks_are_copied_and_never_replaced(tmp_path):
    folder = tmp_path / "course"
    assert nnpar("notebooks", folder).returncode == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert not [path for path in folder.iterdir() if "../report/_build" in path.read_text()]
    process = nnpar("notebooks", folder)
    assert process.returncode == 2 and "exists already" in process.stderr


def test_help_shows_commands_in_groups_and_exit_statuses():
    process = nnpar("--help")
    assert process.returncode == 0
    sections = {part.splitlines()[0]: part for part in process.stdout.split("\n\n")}
    assert {"train and measure:", "this installation:", "records:", "exit status:"} <= set(sections)
    assert "sweep-speed" in sections["train and measure:"]
    assert "notebooks" in sections["this installation:"]
    assert all(number in sections["exit status:"] for number in ("0 ", "1 ", "2 ", "130 ", "128+N"))
